"""MiniSlakh: a small made-up corpus in the layout of Slakh2100."""

from .corpus import write_corpus

__all__ = ["write_corpus"]
