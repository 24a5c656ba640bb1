"""Songs in Slakh's layout, a second or so long, written by the tests that read them."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import yaml
from torch.utils.data import DataLoader

from mge_plugin.data.audio import audio_info, read_window
from mge_plugin.data.corpora.index import read_corpus
from mge_plugin.data.corpora.reader import CorpusConfig
from mge_plugin.data.dataset import create_mge_dataloader
from mge_plugin.data.songs import IndexReport, Part, Song

RATE = 16_000
SAMPLES = 1000  # of a loader's windows


@dataclass(frozen=True)
class StemFile:
    """What to write of a stem; `audio` is (samples,) or (samples, channels)."""

    audio: np.ndarray | None  # None: listed in the metadata, but not rendered
    program: int = 0  # General MIDI, 128 for drums
    rate: int = RATE
    ending: str = ".wav"

    def write(self, path: Path) -> None:
        if self.audio is not None:
            kind = "FLAC" if self.ending.lower() == ".flac" else "WAV"
            subtype = {"FLAC": "PCM_16", "WAV": "FLOAT"}[kind]
            sf.write(path, self.audio, self.rate, subtype, format=kind)

    def entry(self) -> dict[str, Any]:
        return {
            "audio_rendered": self.audio is not None,
            "inst_class": "Piano",
            "is_drum": self.program == 128,
            "plugin_name": "test.nkm" if self.audio is not None else "None",
            "program_num": self.program,
        }


class Slakh:
    """A corpus that grows under `root` by what a test writes to it."""

    stem = StemFile

    def __init__(self, root: Path) -> None:
        self.root = root

    def song(
        self,
        name: str = "Track00001",
        stems: Mapping[str, StemFile] | Sequence[StemFile] = (),
        split: str | None = "train",
        **fields: Any,
    ) -> Path:
        """Write a song (into the root itself where `split` is None) and return its folder."""
        if not isinstance(stems, Mapping):
            stems = {f"S{i:02}": stem for i, stem in enumerate(stems)}
        folder = self.root / (split or "") / name
        (folder / "stems").mkdir(parents=True)
        for stem, content in stems.items():
            if Path(stem).name == stem:
                content.write(folder / "stems" / f"{stem}{content.ending}")
        metadata = {"UUID": name, "audio_dir": "stems"} | fields
        metadata["stems"] = {stem: content.entry() for stem, content in stems.items()}
        text = yaml.safe_dump(metadata, sort_keys=False)
        (folder / "metadata.yaml").write_text(text, encoding="utf-8")
        return folder

    def read(self, split: str = "train") -> tuple[list[Song], IndexReport]:
        """The index of a split and what the reader said of it."""
        corpus = read_corpus(CorpusConfig("slakh", str(self.root), split=split))
        return list(corpus.songs), corpus.report

    def config(self, labels: list[str] | None = None, **keys: Any) -> dict[str, Any]:
        """A dataset config of this corpus alone."""
        entry = {"id": "corpus", "path": str(self.root)} | ({"labels": labels} if labels else {})
        return {"dataset_type": "mge_triplets", "datasets": [entry]} | keys

    def arguments(
        self,
        batch_size: int = 4,
        workers: int = 0,
        channels: int = 1,
        shuffle: bool = True,
        **keys: Any,
    ) -> dict[str, Any]:
        """What a script of SAT's calls the loader's factory with."""
        return {
            "dataset_config": self.config(**keys),
            "batch_size": batch_size,
            "sample_size": SAMPLES,
            "sample_rate": RATE,
            "audio_channels": channels,
            "num_workers": workers,
            "shuffle": shuffle,
        }

    def loader(self, **options: Any) -> DataLoader:
        return create_mge_dataloader(**self.arguments(**options))


def white_noise(samples: int, seed: int = 0, channels: int | None = None) -> np.ndarray:
    """Noise at about -20 dBFS, (samples,) or (samples, channels)."""
    shape = samples if channels is None else (samples, channels)
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.fixture(scope="session")
def noise() -> Callable[..., np.ndarray]:
    return white_noise


@pytest.fixture
def slakh(tmp_path: Path) -> Slakh:
    return Slakh(tmp_path / "slakh")


@pytest.fixture
def two() -> list[StemFile]:
    """Two stems that can be used: a bass and a kit."""
    bass = StemFile(white_noise(1600), 33)
    return [bass, StemFile(white_noise(1600, 1), 128, ending=".flac")]


@pytest.fixture
def corpus(slakh: Slakh) -> Slakh:
    """Four songs of four windows each: a bass, a piano and a kit."""
    for number in range(4):
        stems = [
            StemFile(white_noise(4 * SAMPLES, 10 * number + i), program, RATE, ".flac")
            for i, program in enumerate((33, 0, 128))
        ]
        slakh.song(f"Track{number:05}", stems)
    return slakh


@pytest.fixture(scope="session")
def cut_in_half() -> Callable[[Path], Path]:
    """What an interrupted copy leaves of a file."""

    def cut(path: Path) -> Path:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        return path

    return cut


@pytest.fixture(scope="session")
def digests() -> Callable[[DataLoader], list[str]]:
    """A hash of the samples of every item of an epoch, in order."""

    def hash_items(loader: DataLoader) -> list[str]:
        return [hashlib.sha256(item.numpy()).hexdigest() for reals, _ in loader for item in reals]

    return hash_items


@pytest.fixture(scope="session")
def song_names() -> Callable[[DataLoader], list[str]]:
    """The song of every item of an epoch, in order."""

    def names(loader: DataLoader) -> list[str]:
        return [Path(item["path"]).name for _, metadata in loader for item in metadata]

    return names


def window_of(path: Path, start: int, frames: int, stream: int | None = None) -> np.ndarray:
    """A window of a file that is indexed now."""
    return read_window(Part(path, *audio_info(path, stream), stream), start, frames)


def stereo_sines(count: int, samples: int, rate: int) -> np.ndarray:
    """Stereo sines of different pitch, (count, 2, samples)."""
    time = np.arange(samples) / rate
    pitches = 110.0 * (1 + np.arange(2 * count)).reshape(count, 2, 1)
    return (0.2 * np.sin(2 * np.pi * pitches * time)).astype(np.float32)


@pytest.fixture(scope="session")
def write_mp4() -> Callable[..., np.ndarray]:
    """Write an MP4 of AAC streams of sines, (stream, 2, samples), with cover art if asked for."""
    av = pytest.importorskip("av")

    def encode(container, stream, frames) -> None:
        for frame in [*frames, None]:
            container.mux(stream.encode(frame))

    def write(
        path: Path,
        streams: int = 5,
        samples: int = 44_100,
        rate: int = 44_100,
        cover: bool = False,
        codec: str = "aac",
    ) -> np.ndarray:
        audio = stereo_sines(streams, samples, rate)
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w", format="mp4") as container:
            video = container.add_stream("mjpeg", rate=1) if cover else None
            if video:
                video.width, video.height, video.pix_fmt = 16, 16, "yuvj420p"
            sounds = [container.add_stream(codec, rate=rate, layout="stereo") for _ in audio]
            if video:
                picture = np.zeros((16, 16, 3), dtype=np.uint8)
                encode(container, video, [av.VideoFrame.from_ndarray(picture, format="rgb24")])
            for stream, samples_of in zip(sounds, audio, strict=True):
                stream.bit_rate = 256_000
                encode(container, stream, _frames(av, samples_of, rate))
        return audio

    return write


def _frames(av, audio: np.ndarray, rate: int) -> list:
    frames = []
    for start in range(0, audio.shape[1], 1024):
        block = np.ascontiguousarray(audio[:, start : start + 1024])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = rate, start
        frames.append(frame)
    return frames
