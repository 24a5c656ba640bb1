"""Audio from a page and to it: in Gradio's temporary folder, under names that are safe."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from gradio.utils import get_upload_folder

from mge_plugin.data.audio import AudioError, flac_problem, read_audio, write_flac, write_wav
from mge_plugin.files import output_name

Heard = tuple[np.ndarray, int]  # (channels, samples) float32 and Hz

# SAT's names of MP3's bit rates -> soundfile's options; 0 is the best of what a rate allows.
_MP3 = {
    "mp3 320k": {"bitrate_mode": "CONSTANT", "compression_level": 0.0},
    "mp3 v0": {"bitrate_mode": "VARIABLE", "compression_level": 0.0},
    "mp3 128k": {"bitrate_mode": "CONSTANT", "compression_level": 2 / 3},
}
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz


def fresh_folder() -> Path:
    """A new folder that Gradio may serve files from, and nobody else can guess."""
    parent = Path(get_upload_folder())
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="mge_", dir=parent))


def heard(value: Any, name: str) -> Heard | None:
    """What an audio component hands over, a file or (Hz, samples), as float32 (channels, samples).

    The file is one that Gradio received and checked; an error names it without its folder.
    """
    if value is None:
        return None
    if not isinstance(value, str | Path):
        sample_rate, samples = value
        return _as_float(np.asarray(samples), name), int(sample_rate)
    path = Path(value)
    try:
        return read_audio(path)
    except AudioError as error:
        raise ValueError(f"{name}: {str(error).replace(str(path), path.name)}") from error


def formats() -> list[str]:
    """Those of SAT's file formats that can be written here."""
    return ["wav", "flac", *(_MP3 if "MP3" in sf.available_formats() else ())]


def write(folder: Path, stem: str, audio: np.ndarray, sample_rate: int, form: str) -> Path:
    """Write (channels, samples) in one of `formats`, at its own level."""
    path = folder / output_name(stem, f".{form.split()[0]}")
    if form == "wav":
        return write_wav(path, audio, sample_rate)
    if form == "flac":
        return write_flac(path, audio, sample_rate)
    sf.write(path, audio.T, sample_rate, format="MP3", subtype="MPEG_LAYER_III", **_MP3[form])
    return path


def format_problem(audio: np.ndarray, sample_rate: int, form: str) -> str | None:
    """Why a file of that format cannot hold (channels, samples); None if it can."""
    if form == "wav":
        return None
    if form not in formats():
        return "it cannot be written here"
    if form != "flac" and (len(audio) > 2 or sample_rate not in _MP3_RATES):
        return f"it has no {len(audio)} channels at {sample_rate} Hz"
    return flac_problem(audio, sample_rate)


def _as_float(samples: np.ndarray, name: str) -> np.ndarray:
    """(samples,) or (samples, channels), integers by their full scale, as (channels, samples)."""
    if np.issubdtype(samples.dtype, np.integer):
        samples = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"{name}: expected samples that are numbers, found {samples.dtype}")
    columns = samples[:, None] if samples.ndim == 1 else samples
    return np.ascontiguousarray(columns.T, dtype=np.float32)
