"""Songs as latents on disk, written by `mge encode`, and `dataset_type: "mge_latents"`.

store.py     a folder of songs' files and its index
encode.py    songs to latents and embeddings
dataset.py   one training item; the dataset and its config
shards.py    the same files in WebDataset shards
"""
