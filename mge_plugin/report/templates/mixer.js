"use strict";
// <mge-mixer>: several tracks on one clock, with faders, mute, solo, loop and zoom.
//
// Its children are one <figure> per track: an <img> of the spectrogram, a <figcaption>, an <audio>
// and perhaps an <a download>. They are all that a page without scripts shows; the mixer reads them,
// draws itself in a shadow root, and starts again whenever they change. `data-part` marks the tracks
// whose sum is the song; the others (the song itself) are for comparison.
(() => {
  if (customElements.get("mge-mixer")) return;

  const OFF_DB = -60; // the left end of a fader: silent
  const MAX_ZOOM = 64;
  const DRAG_PIXELS = 5; // a shorter move of the pointer is a click
  const playing = new Set(); // one mixer plays at a time
  const contexts = new Map(); // one audio context per sample rate

  const STYLE = `
    :host { display: block; color: var(--ink); font-variant-numeric: tabular-nums; }
    * { box-sizing: border-box; }
    [hidden] { display: none !important; }
    p { margin: 0; }
    .bar { display: flex; flex-wrap: wrap; gap: 0.4rem; align-items: center; margin-bottom: 0.5rem; }
    button, a.button { font: inherit; font-size: 0.85rem; min-height: 2rem; min-width: 2rem; padding: 0.2rem 0.6rem;
      color: var(--ink); background: var(--card); border: 1px solid var(--soft); border-radius: 0.4rem; cursor: pointer;
      text-decoration: none; white-space: nowrap; display: inline-grid; place-items: center; }
    button[aria-pressed="true"], .play { background: var(--accent); color: var(--on-accent); border-color: var(--accent); }
    button:disabled { opacity: 0.5; cursor: default; }
    .clock { min-width: 8.5em; }
    .lane { display: grid; grid-template-columns: minmax(13rem, 17rem) minmax(0, 1fr); gap: 0.2rem 0.8rem;
      padding: 0.5rem 0; border-top: 1px solid var(--line); }
    .lane.silent .plot { filter: grayscale(1) brightness(0.6); }
    .head { min-width: 0; overflow-wrap: anywhere; font-size: 0.85rem; line-height: 1.35; }
    .head strong, .head h3 { font-size: 1rem; margin: 0; }
    .head p, .head q { color: var(--soft); }
    .head .over { color: var(--over); }
    .controls { display: flex; flex-wrap: wrap; gap: 0.3rem; align-items: center; margin-top: 0.3rem; }
    .controls input { flex: 1 1 5rem; min-width: 5rem; accent-color: var(--accent); }
    .controls output { min-width: 4.6em; text-align: right; }
    .plot { position: relative; min-height: 5rem; overflow: hidden; background: #000004; border-radius: 0.3rem;
      cursor: crosshair; touch-action: pan-y; user-select: none; }
    .plot img { position: absolute; top: 0; height: 100%; max-width: none; width: calc(100% * var(--zoom) * var(--share));
      left: calc(-100% * var(--zoom) * var(--from)); pointer-events: none; }
    .plot canvas { position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none; }
    .plot i { position: absolute; inset: 0 auto; width: 2px; margin-left: -1px; left: calc(100% * var(--head));
      background: #fff; box-shadow: 0 0 4px #000; pointer-events: none; }
    .plot b { position: absolute; inset: 0 auto; left: calc(100% * var(--loop-from)); width: calc(100% * var(--loop-width));
      background: #ffffff38; border-inline: 1px solid #fff; pointer-events: none; }
    .scroll { width: 100%; accent-color: var(--accent); }
    .problem { color: var(--over); }
    .keys { color: var(--soft); font-size: 0.8rem; }
    :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
    @media (max-width: 40rem) {
      .lane { grid-template-columns: minmax(0, 1fr); }
      .plot { min-height: 3.5rem; }
      .keys { display: none; }
    }`;

  function clock(seconds) {
    const tenths = Math.round(seconds * 10);
    return `${Math.floor(tenths / 600)}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
  }

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name in element && typeof value !== "string") element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  const isOriginal = (lane) => !lane.part;
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  // 32-bit float WAV of an AudioBuffer.
  function wavFile(buffer) {
    const { numberOfChannels: channels, length, sampleRate } = buffer;
    const bytes = new DataView(new ArrayBuffer(44 + length * channels * 4));
    const text = (at, word) => [...word].forEach((c, i) => bytes.setUint8(at + i, c.charCodeAt(0)));
    text(0, "RIFF"); bytes.setUint32(4, bytes.byteLength - 8, true); text(8, "WAVEfmt ");
    bytes.setUint32(16, 16, true); bytes.setUint16(20, 3, true); bytes.setUint16(22, channels, true);
    bytes.setUint32(24, sampleRate, true); bytes.setUint32(28, sampleRate * channels * 4, true);
    bytes.setUint16(32, channels * 4, true); bytes.setUint16(34, 32, true);
    text(36, "data"); bytes.setUint32(40, length * channels * 4, true);
    for (let c = 0; c < channels; c++) {
      const samples = buffer.getChannelData(c);
      for (let i = 0; i < length; i++) bytes.setFloat32(44 + 4 * (i * channels + c), samples[i], true);
    }
    return new Blob([bytes], { type: "audio/wav" });
  }

  class Mixer extends HTMLElement {
    connectedCallback() {
      if (!this.shadowRoot) this.attachShadow({ mode: "open" });
      this.observer = new MutationObserver(() => this.begin());
      this.observer.observe(this, { attributes: true, childList: true, subtree: true, characterData: true });
      this.resizer = new ResizeObserver(() => this.drawWaveforms());
      this.resizer.observe(this);
      this.begin();
    }

    disconnectedCallback() {
      this.observer.disconnect();
      this.resizer.disconnect();
      this.end();
    }

    // Read the children and build everything from them.
    begin() {
      this.end();
      this.lanes = [...this.querySelectorAll("figure")].map((figure) => ({
        figure,
        name: figure.dataset.name,
        seconds: Number(figure.dataset.seconds),
        url: figure.querySelector("audio").src,
        part: "part" in figure.dataset,
        db: 0,
        muted: false,
        solo: false,
      }));
      this.seconds = Math.max(0, ...this.lanes.map((lane) => lane.seconds));
      this.hasParts = this.lanes.some((lane) => lane.part);
      for (const [n, lane] of this.lanes.entries()) lane.muted = this.hasParts ? isOriginal(lane) : n > 0;
      Object.assign(this, { position: 0, loop: null, zoom: 1, from: 0, original: false, waves: false });
      this.build();
    }

    end() {
      this.pause();
      this.loading = null;
      for (const lane of this.lanes ?? []) {
        lane.gain?.disconnect();
        lane.buffer = lane.gain = null;
      }
    }

    build() {
      const root = this.shadowRoot;
      const button = (text, title, action) => {
        const element = make("button", { type: "button", title }, text);
        if (text.length < 3) element.setAttribute("aria-label", title);
        element.addEventListener("click", action);
        return element;
      };
      this.ui = {
        play: button("▶", "Play (space)", () => this.toggle()),
        time: make("span", { class: "clock" }),
        loop: button("Loop", "Loop the selection, or all (l). Drag in a picture to select", () => this.toggleLoop()),
        original: button("Original", "Original in place of the tracks (a)", () => this.toggleOriginal()),
        waves: button("Waveform", "Waveform or spectrogram (w)", () => this.toggleWaves()),
        out: button("−", "Zoom out (-)", () => this.zoomBy(0.5)),
        in: button("+", "Zoom in (+)", () => this.zoomBy(2)),
        mix: button("Download mix", "Download what the faders mix, as WAV", () => this.downloadMix()),
        scroll: make("input", { type: "range", class: "scroll", min: "0", max: "1", step: "any", "aria-label": "Scroll" }),
        problem: make("p", { class: "problem", role: "alert", hidden: true }),
      };
      this.ui.play.classList.add("play");
      const { play, time, loop, original, waves, out, mix, scroll, problem } = this.ui;
      original.hidden = !(this.hasParts && this.lanes.some(isOriginal));
      mix.hidden = !this.hasParts;
      scroll.addEventListener("input", () => this.view(Number(scroll.value)));
      const bar = make("div", { class: "bar", role: "toolbar", "aria-label": "Player" },
        play, time, loop, original, waves, out, this.ui.in, mix);
      const keys = make("p", { class: "keys" }, "Click in a picture to play from there, drag to loop. Keys: "
        + "space, arrows, 1 to 9 solo, a original, l loop, w waveform, + and − zoom.");
      const lanes = this.lanes.map((lane, number) => this.buildLane(lane, number, button));
      this.ui.box = make("div", {}, bar, problem, ...lanes, scroll, keys);
      root.replaceChildren(make("style", {}, STYLE), this.ui.box);
      if (!this.listens) root.addEventListener("keydown", (event) => this.key(event));
      this.listens = true;
      this.show();
    }

    buildLane(lane, number, button) {
      const { name, figure } = lane;
      const fader = make("input", { type: "range", min: String(OFF_DB), max: "12", step: "0.5", "aria-label": `Gain of ${name}` });
      fader.value = 0;
      const output = make("output", {}, "0.0 dB");
      const turn = (db) => {
        fader.value = lane.db = db;
        output.textContent = db <= OFF_DB ? "off" : `${db > 0 ? "+" : ""}${db.toFixed(1)} dB`;
        this.mix();
      };
      fader.addEventListener("input", () => turn(Number(fader.value)));
      fader.addEventListener("dblclick", () => turn(0));
      lane.mute = button("M", `Mute ${name}`, () => { lane.muted = !lane.muted; this.mix(); });
      lane.soloButton = button("S", `Solo ${name} (${number + 1}); with shift, beside others`, (event) => this.solo(lane, event.shiftKey));
      const link = figure.querySelector("a")?.cloneNode(true);
      if (link) {
        link.classList.add("button");
        link.setAttribute("aria-label", `Download ${name}`);
      }
      const controls = make("div", { class: "controls" }, lane.soloButton, lane.mute, fader, output, ...(link ? [link] : []));
      const picture = figure.querySelector("img").cloneNode();
      picture.draggable = false;
      picture.style.setProperty("--share", lane.seconds / this.seconds);
      lane.canvas = make("canvas", { hidden: true });
      lane.plot = make("div", { class: "plot", tabindex: "0", role: "slider", "aria-label": `Position in ${name}`,
        "aria-valuemin": "0", "aria-valuemax": String(this.seconds) }, picture, lane.canvas, make("b"), make("i"));
      lane.picture = picture;
      this.listenToPointer(lane.plot);
      const caption = figure.querySelector("figcaption");
      const head = make("div", { class: "head" }, ...caption.cloneNode(true).childNodes, controls);
      lane.box = make("div", { class: "lane", role: "group", "aria-label": name }, head, lane.plot);
      return lane.box;
    }

    listenToPointer(plot) {
      const secondsAt = (event) => {
        const box = plot.getBoundingClientRect();
        const share = this.from + (event.clientX - box.left) / box.width / this.zoom;
        return clamp(share, 0, 1) * this.seconds;
      };
      let start = null;
      plot.addEventListener("pointerdown", (event) => {
        if (event.button) return;
        start = { x: event.clientX, seconds: secondsAt(event) };
        plot.setPointerCapture(event.pointerId);
      });
      plot.addEventListener("pointermove", (event) => {
        if (!start || Math.abs(event.clientX - start.x) < DRAG_PIXELS) return;
        this.setLoop([start.seconds, secondsAt(event)].sort((a, b) => a - b));
      });
      plot.addEventListener("pointerup", (event) => {
        if (!start) return;
        if (Math.abs(event.clientX - start.x) < DRAG_PIXELS) this.seek(start.seconds);
        else this.seek(this.loop[0]);
        start = null;
        this.play();
      });
      plot.addEventListener("wheel", (event) => {
        if (event.ctrlKey || !(event.deltaX || event.shiftKey)) return;
        event.preventDefault();
        this.view(this.from + (event.deltaX || event.deltaY) / plot.clientWidth / this.zoom);
      }, { passive: false });
    }

    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const control = event.target.tagName;
      const step = event.shiftKey ? 10 : Math.min(2, this.seconds / 20);
      const actions = {
        " ": () => this.toggle(),
        ArrowLeft: () => this.seek(this.now() - step),
        ArrowRight: () => this.seek(this.now() + step),
        Home: () => this.seek(0),
        End: () => this.seek(this.seconds),
        a: () => this.toggleOriginal(),
        l: () => this.toggleLoop(),
        w: () => this.toggleWaves(),
        "+": () => this.zoomBy(2),
        "-": () => this.zoomBy(0.5),
      };
      const lane = this.lanes[Number(event.key) - 1];
      const action = actions[event.key] ?? (lane && (() => this.solo(lane, event.shiftKey)));
      const native = (control === "INPUT" && event.key.length > 1) || (control !== "DIV" && event.key === " ");
      if (!action || native) return;
      event.preventDefault();
      action();
    }

    // Decode every track, once; all get the same length, so that loops stay together.
    load() {
      this.loading ??= this.decode().catch((error) => {
        this.loading = null;
        this.ui.problem.textContent = `The audio could not be loaded: ${error.message || error.name}`;
        this.ui.problem.hidden = false;
        throw error;
      });
      return this.loading;
    }

    async decode() {
      const rate = Number(this.dataset.rate);
      if (!contexts.has(rate)) contexts.set(rate, new AudioContext({ sampleRate: rate }));
      const context = (this.context = contexts.get(rate));
      const lanes = this.lanes;
      const buffers = await Promise.all(lanes.map(async (lane) => {
        const response = await fetch(lane.url);
        if (!response.ok) throw new Error(`${lane.name}: ${response.status}, is the page's session over?`);
        return context.decodeAudioData(await response.arrayBuffer());
      }));
      if (lanes !== this.lanes) return; // the tracks changed on the way
      const length = Math.max(...buffers.map((buffer) => buffer.length));
      for (const [n, lane] of lanes.entries()) {
        lane.buffer = buffers[n];
        if (lane.buffer.length < length) {
          lane.buffer = context.createBuffer(buffers[n].numberOfChannels, length, rate);
          for (let c = 0; c < buffers[n].numberOfChannels; c++) lane.buffer.copyToChannel(buffers[n].getChannelData(c), c);
        }
        lane.gain = context.createGain();
        lane.gain.connect(context.destination);
      }
      this.seconds = length / rate;
      this.mix();
    }

    async play() {
      for (const other of playing) if (other !== this) other.pause();
      playing.add(this);
      this.wanted = true;
      this.show();
      try {
        await this.load();
      } catch {
        this.pause(); // `load` has said what is wrong
      }
      if (!this.wanted || this.started || !this.context) return this.show();
      await this.context.resume();
      this.start();
    }

    // All sources begin at one time of the context's clock.
    start() {
      this.stopSources();
      if (this.position >= this.seconds - 1e-3) this.position = 0;
      const at = this.context.currentTime + 0.03;
      this.started = { at, position: this.position };
      for (const lane of this.lanes) {
        const source = (lane.source = this.context.createBufferSource());
        source.buffer = lane.buffer;
        source.connect(lane.gain);
        if (this.loop) [source.loop, source.loopStart, source.loopEnd] = [true, ...this.loop];
        source.start(at, this.position);
      }
      this.follow();
    }

    follow() {
      if (!this.started) return;
      if (!this.loop && this.now() >= this.seconds) {
        this.pause();
        this.position = 0;
      } else requestAnimationFrame(() => this.follow());
      const head = this.position / this.seconds;
      if (head < this.from || head > this.from + 1 / this.zoom) this.view(head);
      this.show();
    }

    // Seconds from the beginning; kept in `position`.
    now() {
      if (this.started) {
        const passed = Math.max(0, this.context.currentTime - this.started.at);
        let seconds = this.started.position + passed;
        if (this.loop && seconds >= this.loop[1]) {
          const [from, to] = this.loop;
          seconds = from + ((seconds - from) % (to - from));
        }
        this.position = Math.min(seconds, this.seconds);
      }
      return this.position;
    }

    stopSources() {
      for (const lane of this.lanes ?? []) {
        lane.source?.stop();
        lane.source?.disconnect();
        lane.source = null;
      }
      this.started = null;
    }

    pause() {
      this.wanted = false;
      playing.delete(this);
      if (!this.lanes) return;
      this.now();
      this.stopSources();
      this.show();
    }

    toggle() {
      if (this.wanted) this.pause();
      else this.play();
    }

    seek(seconds) {
      this.now();
      this.position = clamp(seconds, 0, this.seconds);
      if (this.loop && (this.position < this.loop[0] || this.position >= this.loop[1])) this.loop = null;
      if (this.started) this.start();
      this.show();
    }

    setLoop(loop) {
      this.now();
      this.loop = loop && loop[1] - loop[0] > 0.01 ? loop : null;
      if (this.loop) this.position = clamp(this.position, ...this.loop);
      if (this.started) this.start();
      this.show();
    }

    toggleLoop() {
      this.setLoop(this.loop ? null : [0, this.seconds]);
    }

    toggleOriginal() {
      if (this.ui.original.hidden) return;
      this.original = !this.original;
      this.mix();
    }

    solo(lane, beside) {
      const solo = !lane.solo;
      if (!beside) for (const other of this.lanes) other.solo = false;
      lane.solo = solo;
      this.original = false;
      this.mix();
    }

    isAudible(lane) {
      if (this.original) return lane === this.lanes.find(isOriginal);
      return this.lanes.some((other) => other.solo) ? lane.solo : !lane.muted;
    }

    gainOf(lane) {
      return this.isAudible(lane) && lane.db > OFF_DB ? 10 ** (lane.db / 20) : 0;
    }

    mix() {
      for (const lane of this.lanes) {
        lane.gain?.gain.setTargetAtTime(this.gainOf(lane), this.context.currentTime, 0.01);
      }
      this.show();
    }

    async downloadMix() {
      try {
        await this.load();
      } catch {
        return; // `load` has said what is wrong
      }
      const channels = Math.max(...this.lanes.map((lane) => lane.buffer.numberOfChannels));
      const context = new OfflineAudioContext(channels, this.lanes[0].buffer.length, this.context.sampleRate);
      for (const lane of this.lanes) {
        const source = new AudioBufferSourceNode(context, { buffer: lane.buffer });
        source.connect(new GainNode(context, { gain: this.gainOf(lane) })).connect(context.destination);
        source.start();
      }
      const url = URL.createObjectURL(wavFile(await context.startRendering()));
      make("a", { href: url, download: `${this.dataset.name || "mix"}.wav` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    }

    zoomBy(factor) {
      const centre = this.position / this.seconds || 0;
      this.zoom = clamp(this.zoom * factor, 1, MAX_ZOOM);
      this.view(centre - 0.5 / this.zoom);
    }

    // Show the timeline from a share of it on.
    view(from) {
      this.from = clamp(from, 0, 1 - 1 / this.zoom);
      this.show();
      this.drawWaveforms();
    }

    async toggleWaves() {
      this.waves = !this.waves;
      this.show();
      if (!this.waves) return;
      await this.load().then(() => this.drawWaveforms(), () => {}); // `load` has said what is wrong
    }

    drawWaveforms() {
      if (!this.waves) return;
      for (const lane of this.lanes) if (lane.buffer) this.drawWaveform(lane);
    }

    // The lowest and the highest sample of each pixel's part of the view.
    drawWaveform(lane) {
      const { canvas, buffer } = lane;
      const width = (canvas.width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio)));
      const height = (canvas.height = Math.max(1, Math.round(canvas.clientHeight * devicePixelRatio)));
      const drawing = canvas.getContext("2d");
      drawing.fillStyle = "#fca50a";
      const channels = Array.from({ length: buffer.numberOfChannels }, (_, c) => buffer.getChannelData(c));
      const first = this.from * buffer.length;
      const each = buffer.length / this.zoom / width;
      const stride = Math.max(1, Math.floor(each / 200)); // a song of minutes draws in milliseconds
      for (let x = 0; x < width; x++) {
        let low = 0;
        let high = 0;
        const end = Math.min(buffer.length, first + (x + 1) * each);
        for (let i = Math.floor(first + x * each); i < end; i += stride) {
          for (const samples of channels) {
            if (samples[i] < low) low = samples[i];
            if (samples[i] > high) high = samples[i];
          }
        }
        const top = clamp(((1 - high) * height) / 2, 0, height);
        drawing.fillRect(x, top, 1, Math.max(1, clamp(((1 - low) * height) / 2, 0, height) - top));
      }
    }

    show() {
      if (!this.ui) return;
      const { play, time, loop, original, waves, out, in: zoomIn, scroll } = this.ui;
      const position = this.position;
      const place = (seconds) => (seconds / (this.seconds || 1) - this.from) * this.zoom;
      const press = (button, on) => button.setAttribute("aria-pressed", String(on));
      play.textContent = this.wanted ? (this.started ? "❚❚" : "…") : "▶";
      play.setAttribute("aria-label", this.wanted ? "Pause (space)" : "Play (space)");
      time.textContent = `${clock(position)} / ${clock(this.seconds)}`;
      press(loop, this.loop !== null);
      press(original, this.original);
      press(waves, this.waves);
      out.disabled = this.zoom <= 1;
      zoomIn.disabled = this.zoom >= MAX_ZOOM;
      scroll.hidden = this.zoom <= 1;
      scroll.max = 1 - 1 / this.zoom;
      scroll.value = this.from;
      for (const [name, value] of [["--zoom", this.zoom], ["--from", this.from], ["--head", place(position)],
        ["--loop-from", this.loop ? place(this.loop[0]) : 0], ["--loop-width", this.loop ? place(this.loop[1]) - place(this.loop[0]) : 0]]) {
        this.ui.box.style.setProperty(name, value);
      }
      for (const lane of this.lanes) {
        press(lane.mute, lane.muted);
        press(lane.soloButton, lane.solo);
        lane.box.classList.toggle("silent", !this.isAudible(lane));
        lane.canvas.hidden = !this.waves;
        lane.picture.hidden = this.waves;
        lane.plot.querySelector("b").hidden = !this.loop;
        lane.plot.setAttribute("aria-valuenow", position.toFixed(1));
        lane.plot.setAttribute("aria-valuetext", `${clock(position)} of ${clock(this.seconds)}`);
      }
    }
  }

  customElements.define("mge-mixer", Mixer);
})();
