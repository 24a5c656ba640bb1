"""Multi-track corpora on disk: one short reader each, behind one song index.

config.py -> reader (find, read) -> cache.py -> select.py -> songs
"""
