// Autoplay, Infinite Radio and Auto Download of stable-audio-tools' Generation tab. Its own script
// listens to one audio element, which Gradio 6 replaces with every result.
() => {
    const isOn = (id) => document.querySelector(`#${id} input[type="checkbox"]`)?.checked ?? false;
    const player = () => document.querySelector("#mge-output audio");
    const generate = () => document.querySelector("#mge-generate")?.click();
    let next = false; // whether the radio waits for its next piece
    let told = ""; // the piece that was dealt with, since an element may load twice

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
        if (audio !== player() || audio.src === told) return;
        told = audio.src;
        if (isOn("automatic-download")) download(audio);
        if (isOn("autoplay") || next) audio.play();
        next = false;
    };
    const moved = (event) => {
        const audio = event.target;
        const left = audio.duration - audio.currentTime;
        if (audio !== player() || next || !isOn("infinite-radio")) return;
        if (left <= (window.headstart ?? 1)) { // seconds; may be set in the browser's console
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
}
