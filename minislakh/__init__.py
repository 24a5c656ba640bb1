"""MiniSlakh: a small synthetic corpus in the layout of Slakh2100."""

from .corpus import write_corpus
from .track import Sound

__all__ = ["Sound", "write_corpus"]
