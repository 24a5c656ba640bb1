"""Which stems are the source of a window, and where it starts (paper, section E.1)."""

from collections.abc import Collection, Sequence

import numpy as np

from mge_plugin.data.options import SourceConfig
from mge_plugin.data.songs import Song, Stem
from mge_plugin.data.triplets import MAX_TRIES, Format, Window, read_stem

PAPER = SourceConfig()


def draw_window(
    song: Song,
    form: Format,
    rng: np.random.Generator,
    config: SourceConfig = PAPER,
    labels: Sequence[str] = (),
) -> Window:
    """Choose the source, then up to 10 offsets until it sounds.

    If it never does, the last offset stands: a song may rest. An absent source is one of `labels`,
    those of the song's corpus; where all of them sound the source is chosen as ever.
    """
    last_start = max(0, song.samples(form.sample_rate) - form.samples)
    if config.p_absent and not song.mixture_only and rng.random() < config.p_absent:
        start = int(rng.integers(last_start + 1))
        absent = absent_label(sounding_labels(song, start, form), labels, rng)
        if absent is not None:
            return Window(song, (), start, absent)
    sources, group = choose_source(song, rng, config)
    for _ in range(MAX_TRIES):
        start = int(rng.integers(last_start + 1))
        if any(read_stem(stem, start, form)[1] for stem in sources):
            break
    return Window(song, sources, start, group)


def choose_source(
    song: Song, rng: np.random.Generator, config: SourceConfig = PAPER
) -> tuple[tuple[Stem, ...], str | None]:
    """The stems of the source, and the group's name if they are one.

    Uniform over stems or over labels (and then over the stems of that label); the groups that a
    song has count as one more stem or label each. More than one stem never takes all.
    """
    choices = song.sources or song.stems  # of a mixture alone nothing can be asked
    groups = _groups(song, config)
    labels = sorted({stem.label for stem in choices})
    number = len(choices) if config.choose == "stems" else len(labels)
    chosen = int(rng.integers(number + len(groups)))
    if chosen >= number:
        name = list(groups)[chosen - number]
        return groups[name], name
    if config.choose == "labels":
        named = [stem for stem in choices if stem.label == labels[chosen]]
        first = named[rng.integers(len(named))]
    else:
        first = choices[chosen]
    return _with_others(first, choices, song, rng, config.max_stems), None


def _groups(song: Song, config: SourceConfig) -> dict[str, tuple[Stem, ...]]:
    """The config's groups whose every label the song has, unless they are all of it."""
    groups = {
        name: tuple(stem for stem in song.sources if stem.label in labels)
        for name, labels in config.groups.items()
        if set(labels) <= {stem.label for stem in song.sources}
    }
    return {name: stems for name, stems in groups.items() if len(stems) < len(song.stems)}


def _with_others(
    first: Stem, choices: Sequence[Stem], song: Song, rng: np.random.Generator, most: int
) -> tuple[Stem, ...]:
    """The stem and others of the song, together up to `most`, a number uniform from 1."""
    most = min(most, len(choices), max(1, len(song.stems) - 1))
    count = int(rng.integers(1, most + 1)) if most > 1 else 1
    others = [stem for stem in choices if stem != first]
    drawn = rng.permutation(len(others))[: count - 1] if count > 1 else ()
    return (first, *(others[i] for i in drawn))


def sounding_labels(song: Song, start: int, form: Format) -> list[str]:
    """The labels of the stems that sound in the window from `start` on."""
    return [stem.label for stem in song.stems if read_stem(stem, start, form)[1]]


def absent_label(
    sounding: Collection[str], labels: Sequence[str], rng: np.random.Generator
) -> str | None:
    """One of `labels` that does not sound in the window; None if all of them may."""
    absent = [label for label in labels if not any(may_be(label, heard) for heard in sounding)]
    return absent[rng.integers(len(absent))] if absent else None


def may_be(label: str, other: str) -> bool:
    """Whether two labels may name one instrument: all words of one are in the other.

    A song's guitar may be an electric guitar, and an electric guitar is a guitar.
    """
    words, others = set(label.split()), set(other.split())
    return words <= others or others <= words
