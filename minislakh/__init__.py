"""MiniSlakh: a small synthetic corpus in the layout of Slakh2100."""

from .corpus import Sound, write_corpus

__all__ = ["Sound", "write_corpus"]
