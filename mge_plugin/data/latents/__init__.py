"""Songs as latents on disk, made by `mge encode`, and `dataset_type: "mge_latents"`.

store.py     one song's file, and a folder of them with its index
shards.py    the same files in WebDataset shards
encode.py    songs to latents and embeddings
dataset.py   one training item: source, window, silence check, crop; the dataset and its loader
"""
