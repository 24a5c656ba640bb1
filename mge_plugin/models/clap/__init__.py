"""CLAP (arXiv 2211.06687): texts and audio in one space, by laion-clap's own code and weights."""

from mge_plugin.models.clap.config import ClapConfig
from mge_plugin.models.clap.embedder import ClapEmbedder

__all__ = ["ClapConfig", "ClapEmbedder"]
