"""Songs as latents on disk, made by `mge encode`, and `dataset_type: "mge_latents"`.

song.py      what is known of a song of latents and how its file is laid out
store.py     a folder of such files: names, whole writing, the index
windows.py   one training item: source, window, silence check, crop
config.py, dataset.py   the dataset and its loader
shards.py    the same files in WebDataset shards
"""
