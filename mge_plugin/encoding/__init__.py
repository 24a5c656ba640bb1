"""`mge encode`: a corpus's songs to latents on disk, see `mge_plugin.data.latents`.

autoencoder.py   the autoencoder from its config and weights, and its fingerprint
chunks.py        a long song piece by piece, with as much around each as the encoder hears
clap.py          audio embeddings on a grid of seconds
song.py          one song
run.py           all songs: ranks, resuming, what is left out
"""
