"""The loaded CLAP: one a process for each pair of files, checked once, shared by everything."""

import functools
import threading
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mge_plugin.models.clap import audio as clap_audio
from mge_plugin.models.clap.config import ClapConfig
from mge_plugin.models.clap.loading import load_clap
from mge_plugin.models.clap.tokenizer import ClapTokenizer

BATCH = 32  # texts or windows at a time
PROBES = ("bass guitar", "violin", "drums", "a woman singing")  # must not come out alike
PARALLEL = 0.95  # cosine from which on two embeddings of different prompts are suspicious
_loading = threading.Lock()  # a second thread waits for the first one's instance


def shared_clap(ckpt_path: str, tokenizer_path: str, audio_model: str) -> "Clap":
    """The process's instance for these files; loaded at the first call."""
    with _loading:
        return _loaded(ckpt_path, tokenizer_path, audio_model)


@functools.lru_cache(maxsize=4)
def _loaded(ckpt_path: str, tokenizer_path: str, audio_model: str) -> "Clap":
    ClapConfig(ckpt_path, tokenizer_path, audio_model).check_files()
    model = load_clap(ckpt_path, audio_model)
    vocabulary = model.text_branch.embeddings.word_embeddings.num_embeddings
    clap = Clap(model, ClapTokenizer(tokenizer_path, vocabulary))
    clap.check(f"{ckpt_path} with {tokenizer_path}")
    return clap


class Clap:
    """Embeds texts and windows of audio as unit vectors; always float32."""

    def __init__(self, model: torch.nn.Module, tokenizer: ClapTokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(text, 512), on the CPU."""
        parts = [self._texts(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
        return torch.cat(parts).cpu()

    def audio(self, examples: Sequence[tuple[Tensor, int]]) -> Tensor:
        """One embedding an example (audio, sample rate): (example, 512), on the examples' device.

        Of an example longer than 10 s: the mean of its windows' embeddings, of length 1 again.
        """
        windows = clap_audio.prepare(examples)
        self.model.to(windows[0].device)
        flat = torch.cat(windows)
        embedded = torch.cat([self._windows(batch) for batch in flat.split(BATCH)])
        by_example = embedded.split([len(w) for w in windows])
        return F.normalize(torch.stack([e.mean(dim=0) for e in by_example]), dim=-1)

    @torch.no_grad()
    def _texts(self, texts: Sequence[str]) -> Tensor:
        with _full_precision(self._device()):
            return self.model.get_text_embedding(self.tokenizer(texts))

    @torch.no_grad()
    def _windows(self, windows: Tensor) -> Tensor:
        items = [{"waveform": w, "longer": torch.tensor([False])} for w in windows]
        with _full_precision(self._device()):
            return self.model.get_audio_embedding(items)

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def check(self, files: str) -> None:
        """Raise if different prompts come out alike: a failure that nothing else shows."""
        self.tokenizer.check(PROBES)
        embedded = self.texts(PROBES)
        rows, columns = torch.triu_indices(len(PROBES), len(PROBES), 1)
        cosines = (embedded @ embedded.T)[rows, columns]
        if not bool(cosines.max() < PARALLEL):
            raise ValueError(
                f"{files}: the text branch hears no difference between prompts (cosine "
                f"{cosines.max():.4f} of {PROBES}, expected below {PARALLEL})"
            )


def _full_precision(device: torch.device) -> torch.autocast:
    """CLAP is small beside the rest, and its embeddings must not depend on the run's precision."""
    return torch.autocast(device.type, enabled=False)
