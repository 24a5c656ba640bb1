"""What the conditioner asks: embeddings of texts and audio, loaded when first needed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mge_plugin.models.clap.cache import shared_texts
from mge_plugin.models.clap.config import ClapConfig
from mge_plugin.models.clap.model import Clap, shared_clap


class ClapEmbedder:
    """CLAP behind a conditioner.

    Not a torch module on purpose: its weights belong to no checkpoint of ours, are not trained,
    averaged or halved, and stay where they are until something is asked.
    """

    def __init__(self, config: ClapConfig) -> None:
        self.config = config

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (text, 512) on the CPU; a text is embedded once a process."""
        cache = shared_texts(self.config)
        missing = [text for text in dict.fromkeys(texts) if text not in cache]
        if missing:
            cache.add(missing, self._clap().texts(missing))
        return torch.stack([cache[text] for text in texts])

    def embed_audio(self, examples: Sequence[tuple[Tensor, int]]) -> Tensor:
        """Unit vectors (example, 512) of (audio, sample rate) pairs, on the audio's device.

        Audio is (channels, samples) or (samples,), of any length.
        """
        return self._clap().audio(examples)

    def _clap(self) -> Clap:
        config = self.config
        return shared_clap(config.ckpt_path, config.tokenizer_path, config.audio_model)
