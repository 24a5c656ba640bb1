"""CLAP: laion-clap's model from local files, its prompts and audio, and the embedder around it.

Audio is mono, 48 kHz, in 16-bit steps, in windows of 10 seconds. A window of up to 10 s is repeated
as often as it fits and then padded with zeros, as laion-clap does. Longer audio becomes as few
windows of 10 s as leave out half a second at most, evenly spread from its start to its end, and the
mean of their embeddings is used: laion-clap itself takes 10 s at random, different at every call.

`import laion_clap` downloads three tokenizers, and its text branch downloads RoBERTa's weights only
to overwrite them. Here both requests are answered locally, so no network is used.
"""

import functools
import hashlib
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torchaudio.functional import resample

from mge_plugin.config import ConfigError
from mge_plugin.files import checkpoint_fingerprint, write_file
from mge_plugin.models.checkpoints import (
    CheckpointError,
    StateDict,
    load_into,
    read_checkpoint,
)

_SAMPLE_RATE = 48_000  # Hz
_WINDOW = 480_000  # samples
_LEFT_OUT = 24_000  # samples at most: the paper's 10.24 s are one window, not two
_INT16_MAX = 32_767.0
# librosa's kaiser_best in torchaudio's terms: what is above the audio's own band is 60 dB lower,
# where torchaudio's defaults leave 20 dB.
_resample = functools.partial(
    resample,
    lowpass_filter_width=64,
    rolloff=0.9475937167399596,
    resampling_method="sinc_interp_kaiser",
    beta=14.769656459379492,
)


def prepare(examples: Sequence[tuple[Tensor, int]]) -> list[Tensor]:
    """The windows (window, samples) of each example (audio, sample rate), float32.

    Audio is (channels, samples) or (samples,). Examples of equal length and rate are one batch.
    """
    monos = [_mono(audio) for audio, _ in examples]
    alike: dict[tuple[int, int], list[int]] = {}
    for place, (mono, (_, rate)) in enumerate(zip(monos, examples, strict=True)):
        alike.setdefault((len(mono), rate), []).append(place)
    prepared: dict[int, Tensor] = {}
    for (_, rate), places in alike.items():
        batch = torch.stack([monos[place] for place in places])
        if not batch.isfinite().all():
            raise ValueError("CLAP: an audio example has NaN or infinite samples")
        windows = _quantised(_windows(_resample(batch, rate, _SAMPLE_RATE)))
        prepared |= dict(zip(places, windows, strict=True))
    return [prepared[place] for place in range(len(examples))]


def _mono(audio: Tensor) -> Tensor:
    if not audio.numel():
        raise ValueError("CLAP: an audio example has no samples")
    return audio.float().mean(dim=0) if audio.ndim == 2 else audio.float()


def _windows(monos: Tensor) -> Tensor:
    """(b, samples) to (b, window, WINDOW)."""
    spare = monos.shape[1] - _WINDOW
    if spare <= 0:
        repeated = monos.repeat(1, _WINDOW // monos.shape[1])
        return F.pad(repeated, (0, _WINDOW - repeated.shape[1]))[:, None]
    count = 1 + max(0, math.ceil((spare - _LEFT_OUT) / _WINDOW))
    starts = [round(i * spare / max(1, count - 1)) for i in range(count)]
    return torch.stack([monos[:, start : start + _WINDOW] for start in starts], dim=1)


def _quantised(audio: Tensor) -> Tensor:
    """Rounded towards zero to 16 bits: CLAP was trained on such audio."""
    return (audio.clamp(-1.0, 1.0) * _INT16_MAX).trunc() / _INT16_MAX


CHECKPOINT = "music_audioset_epoch_15_esc_90.14.pt"  # the paper's, section E.3
_CHECKPOINT_AT = f"https://huggingface.co/lukewys/laion_clap/resolve/main/{CHECKPOINT}"
WIDTH = 512  # of an embedding; no CLAP has another
TOKENIZER = "roberta-base"
_TOKENIZER_AT = "https://huggingface.co/FacebookAI/roberta-base"
_TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either will do
TOKENIZER_NEEDS = " or ".join(" with ".join(files) for files in _TOKENIZER_FILES)


@dataclass(frozen=True)
class ClapConfig:
    """Where CLAP's files are; relative paths start at the working directory."""

    ckpt_path: str  # laion-clap's checkpoint file; paper: music_audioset_epoch_15_esc_90.14.pt
    tokenizer_path: str  # folder of RoBERTa's tokenizer; paper: roberta-base
    audio_model: str = "HTSAT-base"  # laion-clap's name of the audio branch; paper: HTSAT-base
    cache_dir: str | None = None  # keep embeddings of texts in this folder too

    def check_files(self) -> None:
        """Raise ConfigError if a file is not there."""
        if problems := list(self.problems()):
            raise ConfigError(*(f"conditioner mge_clap: {problem}" for problem in problems))

    def problems(self) -> Iterator[str]:
        """A sentence for each file that is not there."""
        ckpt, tokenizer = Path(self.ckpt_path), Path(self.tokenizer_path)
        if not ckpt.is_file():
            yield (
                f"ckpt_path: no such file {self.ckpt_path!r}; the paper's is {CHECKPOINT}, "
                f"published at {_CHECKPOINT_AT}"
            )
        if not has_tokenizer(tokenizer):
            yield (
                f"tokenizer_path: {self.tokenizer_path!r} is not a folder with "
                f"{TOKENIZER_NEEDS}; {TOKENIZER} is published at {_TOKENIZER_AT}"
            )


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has the files of RoBERTa's tokenizer, in either form."""
    return any(all((folder / name).is_file() for name in files) for files in _TOKENIZER_FILES)


class _TextCache:
    """A mapping text -> embedding (512,); one that is on disk is read at its first use."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.embeddings: dict[str, Tensor] = {}

    def __contains__(self, text: str) -> bool:
        if text not in self.embeddings and (embedding := self._read(text)) is not None:
            self.embeddings[text] = embedding
        return text in self.embeddings

    def __getitem__(self, text: str) -> Tensor:
        return self.embeddings[text]

    def add(self, texts: Sequence[str], embeddings: Tensor) -> None:
        """Keep (text, 512); each file is written whole, so two processes may do it at once."""
        for text, embedding in zip(texts, embeddings, strict=True):
            self.embeddings[text] = embedding
            if (path := self._path(text)) is not None:
                write_file(path, save({"embedding": embedding.contiguous()}))

    def _path(self, text: str) -> Path | None:
        name = f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"
        return None if self.folder is None else self.folder / name

    def _read(self, text: str) -> Tensor | None:
        """From disk; None if there is none or it cannot be read."""
        path = self._path(text)
        if path is None or not path.is_file():
            return None
        try:
            return load_file(path)["embedding"]
        except (SafetensorError, KeyError):
            return None


@functools.lru_cache(maxsize=4)
def _shared_texts(config: ClapConfig) -> _TextCache:
    """The process's cache for a config; its folder has a subfolder for each checkpoint."""
    if config.cache_dir is None:
        return _TextCache()
    config.check_files()
    return _TextCache(Path(config.cache_dir) / checkpoint_fingerprint(Path(config.ckpt_path))[:16])


_TEXT = "text_branch."
_OBSOLETE = f"{_TEXT}embeddings.position_ids"  # in checkpoints of transformers before 4.31
_HEAD_WIDTH = 64  # of RoBERTa's attention
_hub = threading.Lock()  # transformers' classes are patched for a moment


def _load_clap(ckpt_path: str, audio_model: str) -> nn.Module:
    """laion-clap's model, float32 on the CPU, in eval mode, every weight from the file.

    torch's random generator is restored: a run must not depend on when this happens.
    """
    path = Path(ckpt_path)
    weights = _clap_weights(read_checkpoint(path))
    if f"{_TEXT}embeddings.word_embeddings.weight" not in weights:
        raise CheckpointError(
            f"{path}: not a CLAP checkpoint with a RoBERTa text branch, found keys such as "
            f"{', '.join(sorted(weights)[:3]) or 'none'}"
        )
    factory = _import_factory()
    if audio_model not in factory.list_models():
        raise ValueError(
            f"audio_model: unknown {audio_model!r}, laion-clap has {factory.list_models()}"
        )
    with _hub_answered(weights), redirect_stdout(StringIO()), torch.random.fork_rng(devices=[]):
        model, _ = factory.create_model(audio_model, "roberta", device=torch.device("cpu"))
    load_into(model, path, _clap_weights)
    return model.eval().requires_grad_(False)


def _clap_weights(weights: StateDict) -> StateDict:
    """Without a tensor that newer versions of transformers do not have."""
    return {key: value for key, value in weights.items() if key != _OBSOLETE}


def _import_factory() -> ModuleType:
    """laion-clap's `clap_module.factory`; `import laion_clap` makes `clap_module` importable."""
    with _hub_answered():
        try:
            import laion_clap  # noqa: F401
        except ModuleNotFoundError as error:
            if error.name != "laion_clap":
                raise
            raise ModuleNotFoundError(
                "the conditioner mge_clap needs laion-clap: pip install laion-clap"
            ) from error
        from clap_module import factory
    return factory


@contextmanager
def _hub_answered(weights: Mapping[str, Tensor] | None = None) -> Iterator[None]:
    """Let `from_pretrained` return no tokenizer, and a RoBERTa with the sizes of the weights."""
    import transformers

    def no_tokenizer(*_: Any, **__: Any) -> None:
        return None

    def roberta(*_: Any, **__: Any) -> nn.Module:
        if weights is None:
            raise RuntimeError("laion-clap requests RoBERTa's weights at import")
        return transformers.RobertaModel(_roberta_config(weights))

    answers = {
        transformers.BertTokenizer: no_tokenizer,
        transformers.RobertaTokenizer: no_tokenizer,
        transformers.BartTokenizer: no_tokenizer,
        transformers.RobertaModel: roberta,
    }
    with _hub:
        own = {cls: cls.__dict__.get("from_pretrained") for cls in answers}
        for cls, answer in answers.items():
            cls.from_pretrained = staticmethod(answer)
        try:
            yield
        finally:
            for cls, original in own.items():
                if original is None:
                    del cls.from_pretrained
                else:
                    cls.from_pretrained = original


def _roberta_config(weights: Mapping[str, Tensor]) -> Any:
    """RoBERTa of the sizes in the checkpoint; everything else as in roberta-base."""
    from transformers import RobertaConfig

    vocabulary, width = weights[f"{_TEXT}embeddings.word_embeddings.weight"].shape
    layers = {key.split(".")[3] for key in weights if key.startswith(f"{_TEXT}encoder.layer.")}
    return RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=width // _HEAD_WIDTH,
        intermediate_size=len(weights[f"{_TEXT}encoder.layer.0.intermediate.dense.bias"]),
        max_position_embeddings=len(weights[f"{_TEXT}embeddings.position_embeddings.weight"]),
        type_vocab_size=len(weights[f"{_TEXT}embeddings.token_type_embeddings.weight"]),
        layer_norm_eps=1e-5,
    )


_MAX_TOKENS = 77


class _ClapTokenizer:
    """Texts to token ids and attention masks, padded to 77 tokens."""

    def __init__(self, folder: str, vocabulary: int) -> None:
        self.folder = folder
        self.tokenize = _open(folder)
        found = len(self.tokenize)
        if found != vocabulary:
            names = sorted(path.name for path in Path(folder).iterdir())[:8]
            raise ValueError(
                f"{folder}: the tokenizer has {found} tokens, but the CLAP checkpoint's text "
                f"branch has {vocabulary}; expected the whole folder of roberta-base, found {names}"
            )

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, each (text, 77)."""
        tokens = self.tokenize(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=_MAX_TOKENS,
            return_tensors="pt",
        )
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def check(self, probes: Sequence[str]) -> None:
        """Raise if different texts become the same ids, or words are cut into letters."""
        tokens = self(probes)
        if len(tokens["input_ids"].unique(dim=0)) < len(probes):
            raise ValueError(
                f"{self.folder}: different prompts become the same tokens, e.g. {probes[:2]}"
            )
        letters = sum(map(len, probes))
        if tokens["attention_mask"].sum() >= letters:
            raise ValueError(
                f"{self.folder}: the tokenizer cuts words into letters; is merges.txt incomplete?"
            )


def _open(folder: str) -> Any:
    from transformers import RobertaTokenizer

    try:
        return RobertaTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a damaged file raises many kinds; each means the same to a user
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else "no reason"
        raise ValueError(f"{folder}: not a readable tokenizer ({reason})") from error


_BATCH = 32  # texts or windows at a time
_PROBES = ("bass guitar", "violin", "drums", "a woman singing")  # must differ
_PARALLEL = 0.95  # cosine from which on two embeddings of different prompts are suspicious
_loading = threading.Lock()  # a second thread waits for the first one's instance


def _shared_clap(ckpt_path: str, tokenizer_path: str, audio_model: str) -> "_Clap":
    """The process's instance for these files; loaded at the first call."""
    with _loading:
        return _loaded(ckpt_path, tokenizer_path, audio_model)


@functools.lru_cache(maxsize=4)
def _loaded(ckpt_path: str, tokenizer_path: str, audio_model: str) -> "_Clap":
    ClapConfig(ckpt_path, tokenizer_path, audio_model).check_files()
    model: Any = _load_clap(ckpt_path, audio_model)
    vocabulary = model.text_branch.embeddings.word_embeddings.num_embeddings
    clap = _Clap(model, _ClapTokenizer(tokenizer_path, vocabulary))
    clap.check(f"{ckpt_path} with {tokenizer_path}")
    return clap


class _Clap:
    """Embeds texts and windows of audio as unit vectors; always float32."""

    def __init__(self, model: Any, tokenizer: _ClapTokenizer) -> None:  # laion-clap has no types
        self.model = model
        self.tokenizer = tokenizer

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(text, 512), on the CPU."""
        parts = [self._texts(texts[i : i + _BATCH]) for i in range(0, len(texts), _BATCH)]
        return torch.cat(parts).cpu()

    def audio(self, examples: Sequence[tuple[Tensor, int]]) -> Tensor:
        """One embedding per example (audio, sample rate): (example, 512), on the examples' device.

        For an example longer than 10 s the mean of its windows' embeddings, scaled to length 1.
        """
        windows = prepare(examples)
        self.model.to(windows[0].device)
        flat = torch.cat(windows)
        embedded = torch.cat([self._windows(batch) for batch in flat.split(_BATCH)])
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
        """Raise if different prompts have the same embedding: a failure that nothing else shows."""
        self.tokenizer.check(_PROBES)
        embedded = self.texts(_PROBES)
        rows, columns = torch.triu_indices(len(_PROBES), len(_PROBES), 1)
        cosines = (embedded @ embedded.T)[rows, columns]
        if not bool(cosines.max() < _PARALLEL):
            raise ValueError(
                f"{files}: the text branch does not distinguish prompts (cosine "
                f"{cosines.max():.4f} of {_PROBES}, expected below {_PARALLEL})"
            )


def _full_precision(device: torch.device) -> torch.autocast:
    """CLAP is small beside the rest, and its embeddings must not depend on the run's precision."""
    return torch.autocast(device.type, enabled=False)


class ClapEmbedder:
    """CLAP behind a conditioner.

    Not a torch module on purpose: its weights are in no checkpoint of ours, they are not trained,
    averaged or halved, and they are loaded at the first use.
    """

    def __init__(self, config: ClapConfig) -> None:
        self.config = config

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (text, 512) on the CPU; each text is embedded once per process."""
        cache = _shared_texts(self.config)
        missing = [text for text in dict.fromkeys(texts) if text not in cache]
        if missing:
            cache.add(missing, self._clap().texts(missing))
        return torch.stack([cache[text] for text in texts])

    def embed_audio(self, examples: Sequence[tuple[Tensor, int]]) -> Tensor:
        """Unit vectors (example, 512) of (audio, sample rate) pairs, on the audio's device.

        Audio is (channels, samples) or (samples,), of any length.
        """
        return self._clap().audio(examples)

    def _clap(self) -> _Clap:
        config = self.config
        return _shared_clap(config.ckpt_path, config.tokenizer_path, config.audio_model)
