"use strict";

const players = [...document.querySelectorAll(".card")].map(makePlayer);

function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  return `${Math.floor(tenths / 600)}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
}

function makePlayer(card) {
  const audio = card.querySelector("audio");
  const plot = card.querySelector(".plot");
  const head = plot.querySelector("i");
  const button = card.querySelector("button");
  const now = card.querySelector(".clock b");
  const title = card.querySelector("h3").textContent;
  const seconds = Number(card.dataset.seconds);
  const step = Math.min(1, seconds / 20);

  function show() {
    const position = Math.min(audio.currentTime, seconds);
    head.hidden = audio.paused && position === 0;
    head.style.left = `${(100 * position) / seconds}%`;
    now.textContent = clock(position);
    plot.setAttribute("aria-valuenow", position.toFixed(1));
    plot.setAttribute("aria-valuetext", `${clock(position)} of ${clock(seconds)}`);
  }

  function showUntilPaused() {
    show();
    if (!audio.paused) requestAnimationFrame(showUntilPaused);
  }

  function showState() {
    button.setAttribute("aria-pressed", String(!audio.paused));
    button.setAttribute("aria-label", `${audio.paused ? "Play" : "Pause"} ${title}`);
    showUntilPaused();
  }

  function seek(position) {
    audio.currentTime = Math.min(Math.max(position, 0), seconds);
    show();
  }

  function play() {
    audio.play().catch(showState); // a pause that comes before the first sound rejects the promise
  }

  function toggle() {
    if (audio.paused) play();
    else audio.pause();
  }

  const keys = {
    ArrowLeft: () => seek(audio.currentTime - step),
    ArrowDown: () => seek(audio.currentTime - step),
    ArrowRight: () => seek(audio.currentTime + step),
    ArrowUp: () => seek(audio.currentTime + step),
    Home: () => seek(0),
    End: () => seek(seconds),
    " ": toggle,
  };

  audio.addEventListener("play", () => {
    for (const other of players) if (other !== audio) other.pause();
    showState();
  });
  for (const event of ["pause", "ended"]) audio.addEventListener(event, showState);
  audio.addEventListener("seeked", show);
  button.addEventListener("click", toggle);
  plot.addEventListener("click", (event) => {
    const box = plot.getBoundingClientRect();
    seek((seconds * (event.clientX - box.left)) / box.width);
    play();
  });
  plot.addEventListener("keydown", (event) => {
    if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });

  audio.controls = false; // these are the controls where there is no script
  for (const element of [button, now.parentElement]) element.hidden = false;
  for (const [name, value] of [["role", "slider"], ["tabindex", 0], ["aria-valuemin", 0], ["aria-valuemax", seconds]]) {
    plot.setAttribute(name, value);
  }
  show();
  return audio;
}
