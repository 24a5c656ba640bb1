// Runs when the page loads: defines the mixer, does the work of stable-audio-tools' own script
// (Autoplay, Infinite Radio, Auto Download), which listens to one audio element that Gradio 6
// replaces with every result, and returns the key of the browser tab's session.
() => {
    /* mixer.js */
    const isOn = (id) => document.querySelector(`#${id} input[type="checkbox"]`)?.checked ?? false;
    const player = () => document.querySelector("#mge-output audio");
    const generate = () => document.querySelector("#mge-generate")?.click();
    let next = false; // whether the radio waits for its next piece
    let handled = ""; // the address of the latest piece, since an element may load twice

    const download = (audio) => {
        const link = document.createElement("a");
        link.href = audio.src;
        link.download = decodeURIComponent(audio.src.split("/").pop());
        document.body.appendChild(link);
        link.click();
        link.remove();
    };
    const loaded = (event) => {
        const audio = event.target;
        if (audio !== player() || audio.src === handled) return;
        handled = audio.src;
        if (isOn("automatic-download")) download(audio);
        if (isOn("autoplay") || next) audio.play();
        next = false;
    };
    const moved = (event) => {
        const audio = event.target;
        const left = audio.duration - audio.currentTime;
        if (audio !== player() || next || !isOn("infinite-radio")) return;
        if (left <= (window.headstart ?? 1)) { // seconds; can be set in the browser's console
            next = true;
            generate();
        }
    };
    // These events do not bubble: caught on their way down, whichever element is the player.
    document.addEventListener("loadedmetadata", loaded, true);
    document.addEventListener("timeupdate", moved, true);
    if ("mediaSession" in navigator) {
        navigator.mediaSession.setActionHandler("nexttrack", generate);
        navigator.mediaSession.setActionHandler("play", () => player()?.play());
        navigator.mediaSession.setActionHandler("pause", () => player()?.pause());
    }
    let key = sessionStorage.getItem("mge-session");
    if (!key) {
        key = Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
        sessionStorage.setItem("mge-session", key);
    }
    return [key];
}
