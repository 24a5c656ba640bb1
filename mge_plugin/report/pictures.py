"""Pictures and levels of audio, and its encoding for a browser.

Levels are dBFS: a full-scale sine has a peak of 0 and an RMS of -3.01. Mel spectrograms have one
fixed dB scale, so that the pictures of a page can be compared.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import librosa
import matplotlib
import numpy as np
import soundfile
from librosa.filters import get_window
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image, ImageDraw, ImageFont
from scipy.fft import next_fast_len

_MAX_CHANNELS = 8  # FLAC holds no more
_FULL_SCALE = 32768  # 16-bit steps from 0 to 1


def checked_audio(audio: np.ndarray, name: str = "audio") -> np.ndarray:
    """Return `audio`, (channels, samples) or (samples,), as finite float32 (channels, samples)."""
    channels_first = np.atleast_2d(np.asarray(audio))
    if not np.issubdtype(channels_first.dtype, np.floating):
        raise ValueError(f"{name}: dtype is {channels_first.dtype}, expected floats in -1..1")
    if channels_first.ndim != 2 or channels_first.size == 0:
        raise ValueError(
            f"{name}: shape is {np.shape(audio)}, expected (channels, samples), 1 or more each"
        )
    if len(channels_first) > _MAX_CHANNELS:
        raise ValueError(
            f"{name}: {len(channels_first)} channels, expected {_MAX_CHANNELS} or fewer; "
            "is the audio (samples, channels)?"
        )
    channels_first = channels_first.astype(np.float32)
    _check_finite(channels_first, name)
    return channels_first


def checked_sample_rate(sample_rate: int, name: str = "audio") -> int:
    """Return `sample_rate` (Hz) as an int."""
    if sample_rate != int(sample_rate) or sample_rate < 1:
        raise ValueError(f"{name}: sample rate is {sample_rate}, expected a whole number of Hz")
    return int(sample_rate)


def encode_flac(audio: np.ndarray, sample_rate: int) -> tuple[bytes, float]:
    """Encode `audio` (channels, samples) as 16-bit FLAC at its own level.

    Only audio over full scale is turned down, just as far as needed. Returns the file and the
    gain (at most 1.0) that was applied.
    """
    gain = 1.0 / max(1.0, float(np.abs(audio).max()))
    steps = np.rint(audio.astype(np.float64) * gain * _FULL_SCALE)
    steps = np.clip(steps, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, steps.T, sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue(), gain


def _check_finite(audio: np.ndarray, name: str) -> None:
    bad = np.argwhere(~np.isfinite(audio))
    if len(bad):
        channel, sample = bad[0]
        raise ValueError(
            f"{name}: {len(bad)} of {audio.size} values are not finite, the first is "
            f"{audio[channel, sample]} at channel {channel}, sample {sample}"
        )


@dataclass(frozen=True)
class Levels:
    peak_db: float  # dBFS of the largest sample, -inf for silence
    rms_db: float  # dBFS over all samples of all channels, -inf for silence


def measure_levels(audio: np.ndarray) -> Levels:
    """Measure `audio`, (channels, samples) or (samples,)."""
    samples = checked_audio(audio).astype(np.float64)
    rms = np.sqrt(np.mean(np.square(samples)))
    return Levels(peak_db=decibels(np.abs(samples).max()), rms_db=decibels(rms))


def decibels(amplitude: float) -> float:
    """Return `amplitude` (1.0 is full scale) in dB, -inf for 0."""
    return float(20 * np.log10(amplitude)) if amplitude > 0 else -np.inf


_N_MELS = 128
_WINDOW_S = 0.064  # separates two notes a semitone apart from about 500 Hz on
FLOOR_DB, VMAX_DB = -90.0, -10.0  # music seldom has more in one band
WIDTH, HEIGHT = 840, 340  # pixels of a picture with axes
_PLAIN_WIDTH = 1600  # pixels of a picture without axes
_DPI = 192
_MARGINS = {"left": 64, "right": 34, "bottom": 50, "top": 16}  # pixels around the plot
_COLOUR_MAP = "magma"
_AXIS_COLOUR = "#cfc8dc"
_TICKS_HZ = (500, 1000, 2000, 4000, 8000, 16000)


def _mel_spectrogram(
    audio: np.ndarray, sample_rate: int, *, hop_length: int | None = None, floor_db: float = -120.0
) -> np.ndarray:
    """Mel power in dB, (mel bands, frames), never below `floor_db`; 0 dB is a full-scale sine.

    `audio` is (channels, samples) or (samples,). Channels are averaged as powers, so opposite
    phases do not cancel. Frame i is centred on sample i * `hop_length` (a quarter window if None).
    """
    samples = checked_audio(audio).astype(np.float64)  # squares of a broken model's audio fit
    n_fft = _window_length(checked_sample_rate(sample_rate))
    power = librosa.feature.melspectrogram(
        y=np.pad(samples, ((0, 0), (n_fft // 2, n_fft // 2))),
        sr=sample_rate,
        n_fft=n_fft,
        hop_length=hop_length or n_fft // 4,
        center=False,  # padded above: librosa warns where audio is shorter than a window
        n_mels=_N_MELS,
        norm=None,
    )
    power = power.mean(axis=0) / _full_scale_power(n_fft)
    return 10 * np.log10(np.maximum(power, 10 ** (floor_db / 10)))


def spectrogram_png(
    audio: np.ndarray,
    sample_rate: int,
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
    vmax_db: float = VMAX_DB,
    floor_db: float = FLOOR_DB,
    axes: bool = True,
) -> bytes:
    """Draw `audio` as a PNG, time across and mel frequency up.

    The colours always run from `floor_db` (dark) to `vmax_db`, so silence is dark. With axes the
    picture has `width` x `height` pixels, without them one row per mel band.
    """
    samples = checked_audio(audio)
    if not axes:
        return _plain_png(samples, sample_rate, vmax_db, floor_db)
    hop_length = _hop_length(samples.shape[-1], sample_rate, width)
    mel = _mel_spectrogram(samples, sample_rate, hop_length=hop_length, floor_db=floor_db)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor=colour_stops(1)[0])
    plot = figure.add_axes(_plot_box(width, height))
    frame_edges = (np.array([0, mel.shape[1]]) - 0.5) * hop_length / sample_rate
    plot.imshow(
        mel,
        cmap=_COLOUR_MAP,
        vmin=floor_db,
        vmax=vmax_db,
        origin="lower",
        aspect="auto",
        extent=(*frame_edges, 0, _N_MELS),
    )
    _draw_time_axis(plot, samples.shape[-1] / sample_rate)
    _draw_frequency_axis(plot, sample_rate)
    return _png(figure)


def _plot_box(width: int = WIDTH, height: int = HEIGHT) -> tuple[float, float, float, float]:
    """Left, bottom, width and height of the plot as shares of the picture, origin bottom left."""
    across = width - _MARGINS["left"] - _MARGINS["right"]
    up = height - _MARGINS["bottom"] - _MARGINS["top"]
    if across < 1 or up < 1:
        raise ValueError(f"a picture of {width} x {height} pixels has no room beside {_MARGINS}")
    return _MARGINS["left"] / width, _MARGINS["bottom"] / height, across / width, up / height


def colour_stops(count: int) -> list[str]:
    """`count` colours of the map, from the darkest on, as '#rrggbb'."""
    colour_map = matplotlib.colormaps[_COLOUR_MAP]
    return [to_hex(colour_map(share)) for share in np.linspace(0, 1, count)]


def _plain_png(audio: np.ndarray, sample_rate: int, vmax_db: float, floor_db: float) -> bytes:
    """The plot alone, at one pixel per frame and band, as an indexed PNG."""
    hop_length = _hop_length(audio.shape[-1], sample_rate, _PLAIN_WIDTH)
    mel = _mel_spectrogram(audio, sample_rate, hop_length=hop_length, floor_db=floor_db)
    shares = (mel[::-1] - floor_db) / (vmax_db - floor_db)
    picture = Image.fromarray(np.clip(np.rint(255 * shares), 0, 255).astype(np.uint8), mode="P")
    colours = matplotlib.colormaps[_COLOUR_MAP](np.arange(256), bytes=True)[:, :3]
    picture.putpalette(colours.tobytes())
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return file.getvalue()


def _window_length(sample_rate: int) -> int:
    return next_fast_len(max(16, round(_WINDOW_S * sample_rate)), real=True)


def _hop_length(n_samples: int, sample_rate: int, width: int) -> int:
    """About one frame a pixel, yet no finer than 1/16 window and no coarser than 1/4."""
    n_fft = _window_length(checked_sample_rate(sample_rate))
    return int(np.clip(n_samples // width, n_fft // 16, n_fft // 4))


def _full_scale_power(n_fft: int) -> float:
    """Power of a full-scale sine over its bins, under the Hann window (Parseval)."""
    window = get_window("hann", n_fft)
    return n_fft * float(np.sum(np.square(window))) / 4


def _draw_time_axis(axes: Axes, duration_s: float) -> None:
    axes.set_xlim(0, duration_s)
    in_minutes = duration_s >= 60
    steps = [1, 1.5, 2, 3, 6, 10] if in_minutes else [1, 2, 2.5, 5, 10]
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(_minutes if in_minutes else _seconds))
    _style(axes)


def _draw_frequency_axis(axes: Axes, sample_rate: int) -> None:
    """Put the ticks where the mel filters centred on them are drawn."""
    edges = librosa.mel_frequencies(_N_MELS + 2, fmin=0.0, fmax=sample_rate / 2)
    ticks = [hz for hz in _TICKS_HZ if hz < 0.95 * sample_rate / 2]
    places = np.interp(ticks, edges, np.arange(_N_MELS + 2) - 0.5)
    labels = [f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in ticks]
    axes.set_yticks(places, labels)
    axes.set_ylim(0, _N_MELS)
    _style(axes)


def _style(axes: Axes) -> None:
    axes.tick_params(colors=_AXIS_COLOUR, labelsize=7.5, length=2.5, width=0.5, pad=2)
    axes.spines[:].set_visible(False)


def _seconds(seconds: float, _position: int) -> str:
    return f"{seconds:.3g} s" if seconds >= 0.001 or seconds == 0 else f"{seconds * 1e6:.3g} µs"


def _minutes(seconds: float, _position: int) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _png(figure: Figure) -> bytes:
    """Render with 256 colours: half the size, and channels are off by 8 of 255 at most."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    file = io.BytesIO()
    picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        file, format="PNG", optimize=True
    )
    return file.getvalue()


_PANEL_HEIGHT = 240  # pixels
_TITLE_HEIGHT = 30  # pixels


def spectrogram_panels_png(
    panels: Mapping[str, np.ndarray], sample_rate: int, *, width: int = WIDTH
) -> bytes:
    """Draw sounds (channels, samples) by name, the first on top, as one PNG.

    Each has the time axis of its own length and the same scale of colours.
    """
    if not panels:
        raise ValueError("panels: expected one sound or more, found none")
    height = _PANEL_HEIGHT + _TITLE_HEIGHT
    picture = Image.new("RGB", (width, len(panels) * height), colour_stops(1)[0])
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=_TITLE_HEIGHT // 2)
    for place, (name, audio) in enumerate(panels.items()):
        png = spectrogram_png(audio, sample_rate, width=width, height=_PANEL_HEIGHT)
        middle = place * height + _TITLE_HEIGHT // 2
        draw.text((_TITLE_HEIGHT // 2, middle), name, fill=_AXIS_COLOUR, font=font, anchor="lm")
        picture.paste(Image.open(io.BytesIO(png)), (0, place * height + _TITLE_HEIGHT))
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return file.getvalue()
