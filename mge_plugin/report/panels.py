"""Spectrograms of several sounds under one another, each with its name."""

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mge_plugin.report.spectrogram import AXIS_COLOUR, WIDTH, colour_stops, spectrogram_png

PANEL_HEIGHT = 240  # pixels
TITLE_HEIGHT = 30  # pixels


def spectrogram_panels_png(
    panels: Mapping[str, np.ndarray], sample_rate: int, *, width: int = WIDTH
) -> bytes:
    """Draw sounds (channels, samples) by name, the first on top, as one PNG.

    Each has the time axis of its own length and the same scale of colours.
    """
    if not panels:
        raise ValueError("panels: expected one sound or more, found none")
    height = PANEL_HEIGHT + TITLE_HEIGHT
    picture = Image.new("RGB", (width, len(panels) * height), colour_stops(1)[0])
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=TITLE_HEIGHT // 2)
    for place, (name, audio) in enumerate(panels.items()):
        png = spectrogram_png(audio, sample_rate, width=width, height=PANEL_HEIGHT)
        middle = place * height + TITLE_HEIGHT // 2
        draw.text((TITLE_HEIGHT // 2, middle), name, fill=AXIS_COLOUR, font=font, anchor="lm")
        picture.paste(Image.open(io.BytesIO(png)), (0, place * height + TITLE_HEIGHT))
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return file.getvalue()
