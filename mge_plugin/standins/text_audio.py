"""A small text-audio encoder with CLAP's interface: texts and audio as unit vectors of one space.

`mge fit-text-audio` trains it contrastively on a corpus's own stems and their labels. It covers the
instruments and the words of that corpus only: a stand-in where CLAP's weights are not available.
Its weights are part of the model's checkpoint.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from librosa.filters import mel as mel_bands
from torch import Tensor, nn
from torchaudio.functional import resample

from mge_plugin.config import ConfigError
from mge_plugin.models.checkpoints import load_into
from mge_plugin.models.dit import Float32Module
from mge_plugin.standins.hashed_words import STOP_WORDS

_SAMPLE_RATE = 16000  # Hz
N_FFT, HOP = 1024, 320  # samples
_FLOOR = 1e-5
_LEVEL = 0.1  # RMS that audio is scaled to
_QUIETEST = 1e-4  # RMS below which it is not scaled: silence stays silence
_PIECES = 3  # letters of the parts of words that are used besides whole words


@dataclass(frozen=True)
class TextAudioConfig:
    """`config` of the conditioner type `mge_text_audio`."""

    ckpt_path: str | None = None  # weights to start from; a model's own checkpoint has them too
    channels: int = 128  # of the audio branch
    bands: int = 64  # mel bands
    words: int = 4096  # rows of the table that words and their parts are hashed to

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ConfigError(*problems)

    def _problems(self) -> Iterator[str]:
        for key in ("channels", "bands", "words"):
            if getattr(self, key) < 1:
                yield f"{key} must be 1 or more, found {getattr(self, key)}"


class TextAudio(Float32Module):
    """Embeds texts and audio as unit vectors (n, width); never trained with the denoiser."""

    def __init__(self, config: TextAudioConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.sounds = _SoundBranch(config, width)
        self.texts = _TextBranch(config, width)
        self.requires_grad_(False)

    @torch.no_grad()
    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (text, width)."""
        return self.texts(texts)

    @torch.no_grad()
    def embed_audio(self, examples: Sequence[tuple[Tensor, int]]) -> Tensor:
        """Unit vectors (example, width) of (audio, sample rate) pairs, on the audio's device.

        Audio is (channels, samples) or (samples,), of any length and rate.
        """
        device = self.texts.words.weight.device
        monos = [to_mono(audio, rate).to(device) for audio, rate in examples]
        by_length: dict[int, list[int]] = {}
        for place, mono in enumerate(monos):
            by_length.setdefault(len(mono), []).append(place)
        embedded: dict[int, Tensor] = {}
        for places in by_length.values():
            vectors = self.sounds(torch.stack([monos[place] for place in places]))
            embedded |= dict(zip(places, vectors, strict=True))
        stacked = torch.stack([embedded[place] for place in range(len(monos))])
        return stacked.to(examples[0][0].device)


class _SoundBranch(nn.Module):
    """(b, samples) at 16 kHz to unit vectors (b, width).

    Log-mel bands, convolutions, then mean and maximum over time.
    """

    mel: Tensor  # (band, bin)
    window: Tensor

    def __init__(self, config: TextAudioConfig, width: int) -> None:
        super().__init__()
        mel = mel_bands(sr=_SAMPLE_RATE, n_fft=N_FFT, n_mels=config.bands)
        self.register_buffer("mel", torch.from_numpy(mel).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)
        channels = config.channels
        self.layers = nn.Sequential(
            nn.Conv1d(config.bands, channels, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv1d(channels, channels, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv1d(channels, channels, 3, padding=1),
            nn.GELU(),
        )
        self.project = nn.Linear(2 * channels, width)

    def forward(self, audio: Tensor) -> Tensor:
        level = audio.square().mean(dim=-1, keepdim=True).sqrt()
        audio = torch.where(level > _QUIETEST, audio * _LEVEL / level.clamp_min(_QUIETEST), audio)
        spectrum = torch.stft(
            audio, N_FFT, HOP, window=self.window, pad_mode="constant", return_complex=True
        )
        features = self.layers((self.mel @ spectrum.abs().square() + _FLOOR).log() / 4 + 1)
        return F.normalize(
            self.project(torch.cat([features.mean(-1), features.amax(-1)], 1)), dim=-1
        )


class _TextBranch(nn.Module):
    """Texts to unit vectors (text, width), from the mean over words and their parts."""

    def __init__(self, config: TextAudioConfig, width: int) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(config.words, width, mode="mean")
        self.project = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, texts: Sequence[str]) -> Tensor:
        rows = [_rows(text, self.words.num_embeddings) for text in texts]
        offsets = torch.tensor([0, *(len(row) for row in rows[:-1])]).cumsum(0)
        device = self.words.weight.device
        flat = torch.tensor([number for row in rows for number in row], device=device)
        meant = self.words(flat, offsets.to(device))
        return F.normalize(meant + self.project(meant), dim=-1)


def _rows(text: str, count: int) -> list[int]:
    """Rows, of `count`, of a text's words and their parts; a text without words has rows too."""
    words = re.findall(r"\w+", text.lower())
    words = [word for word in words if word not in STOP_WORDS] or words or [""]
    parts = [part for word in words for part in (word, *_parts(f"<{word}>"))]
    return [zlib.crc32(part.encode()) % count for part in parts]


def _parts(word: str) -> list[str]:
    return [word[i : i + _PIECES] for i in range(len(word) - _PIECES + 1)]


def open_text_audio(config: TextAudioConfig, width: int) -> TextAudio:
    """The encoder of a config; without a `ckpt_path` random until a checkpoint is loaded."""
    embedder = TextAudio(config, width)
    if config.ckpt_path is None:
        return embedder
    path = Path(config.ckpt_path)
    if not path.is_file():
        raise ConfigError(
            f"conditioner mge_text_audio: ckpt_path: no such file {config.ckpt_path!r}; "
            "mge fit-text-audio writes one"
        )
    load_into(embedder, path)
    return embedder


def to_mono(audio: Tensor, rate: int) -> Tensor:
    """(samples,) float32 at 16 kHz, at least one window long."""
    mono = audio.float().mean(dim=0) if audio.ndim == 2 else audio.float()
    mono = resample(mono, rate, _SAMPLE_RATE)
    return F.pad(mono, (0, max(0, N_FFT - len(mono))))
