"""Songs of latents written by hand, so that no model is needed to read them."""

import torch

from mge_plugin.data.latents.store import GridInfo, LatentSong, LatentStem, StoreInfo

RATE, RATIO, CHANNELS, FRAMES = 1000, 10, 3, 8  # of a window of 80 samples
LABELS = ("bass", "drums", "piano")


def make_info(clap=False, **changes):
    grid = GridInfo("ear", 0.08, 0.05, 4) if clap else None
    values = {"posterior": "full", "dtype": "float32", "precision": "float32", "clap": grid}
    common = {"autoencoder": "vae", "sample_rate": RATE, "audio_channels": 1}
    common |= {"ratio": RATIO, "channels": CHANNELS}
    return StoreInfo(**common | values | changes)


def make_song(name="one", frames=40, labels=LABELS, clap=False, info=None, **changes):
    """A song whose latents say where they are from: channel 0 the sum, 1 the frame, 2 the part."""
    info, count = info or make_info(clap), len(labels)
    every = tuple(range(count))
    pairs = [((i,), tuple(j for j in every if j != i)) for i in every]
    sums = tuple(dict.fromkeys([every, *(s for pair in pairs for s in pair)]))
    if changes.get("mixture_only"):
        sums = (every,)
    stems = tuple(LatentStem(label, f"stems/{label}.wav") for label in labels)
    seconds, path = frames * RATIO / RATE, f"corpus/{name}"
    song = LatentSong(name, "corpus", "train", path, seconds, frames, stems, sums, "x", info)
    song = LatentSong(**vars(song) | changes)
    parts = 2 if info.posterior == "full" else 1
    latents = torch.zeros(len(sums), frames, parts, CHANNELS)
    latents[..., 0] = torch.arange(len(sums))[:, None, None]
    latents[..., 1] = torch.arange(frames)[:, None]
    latents[..., 2] = torch.arange(parts)
    latents[:, :, 1:] = 0.0  # the deviation: drawing gives the mean
    tensors = {
        "latents": latents,
        "power": torch.full((count, frames), 0.01),
        "silence": torch.tensor([[-1.0, -1.0, -1.0], [0.0, 0.0, 0.0]])[:parts],
    }
    if clap:
        grid = max(1, (frames - FRAMES) // 5 + 1)
        tensors["clap"] = torch.arange(len(sums) * grid * 4.0).reshape(len(sums), grid, 4)
        tensors["clap_silence"] = torch.full((4,), -1.0)
    return song, tensors


def write(store, song, tensors):
    store.write(store.song_path(song.corpus, song.split, song.id), song, tensors)
