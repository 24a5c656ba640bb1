"""Encoding as one rank does, in this process or in one that a test starts."""

from pathlib import Path

import torch

from mge_plugin.data.latents.encode import (
    Ranks,
    Report,
    Settings,
    create_encoder,
    encode_corpora,
    read_corpora,
)
from mge_plugin.data.latents.store import Store
from tests.encoding.tiny import vae_config


def encode(corpus, root: Path, ckpt, config=None, ranks=None, **settings) -> tuple[Store, Report]:
    """`corpus` is a dataset config; exact latents and short chunks if not said."""
    values = {"device": "cpu", "chunk": 0.4, "dtype": "float32"} | settings
    device = torch.device("cpu")
    encoder = create_encoder(config or vae_config(), ckpt, Settings(**values), device)
    store = Store(root)
    return store, encode_corpora(read_corpora(corpus), encoder, store, ranks or Ranks())
