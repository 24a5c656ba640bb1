"""The plan of a song: which sections, how many bars each, and who plays in which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .score import Section

WEIGHTS = {"intro": 0.5, "verse": 1.0, "chorus": 1.0, "bridge": 0.6, "outro": 0.5}
PLANS = (
    (36, ("intro verse chorus verse chorus bridge chorus outro",)),
    (
        16,
        (
            "intro verse chorus verse chorus outro",
            "intro verse chorus bridge chorus outro",
            "verse chorus verse bridge chorus outro",
        ),
    ),
    (6, ("intro verse chorus outro", "verse chorus bridge outro", "intro verse bridge chorus")),
    (4, ("verse chorus outro", "intro verse chorus")),
    (1, ("verse chorus",)),
)  # (fewest bars, plans to choose from)
# How often a role plays in a section. Drawn for each part and section, see `draw_activity`.
PRESENCE = {
    "drums": {"intro": 0.4, "verse": 0.9, "chorus": 1.0, "bridge": 0.55, "outro": 0.7},
    "bass": {"intro": 0.45, "verse": 0.9, "chorus": 1.0, "bridge": 0.65, "outro": 0.8},
    "comp": {"intro": 0.6, "verse": 0.8, "chorus": 0.95, "bridge": 0.55, "outro": 0.7},
    "arp": {"intro": 0.6, "verse": 0.55, "chorus": 0.85, "bridge": 0.7, "outro": 0.55},
    "pad": {"intro": 0.5, "verse": 0.4, "chorus": 0.95, "bridge": 0.8, "outro": 0.7},
    "stab": {"intro": 0.2, "verse": 0.3, "chorus": 0.95, "bridge": 0.4, "outro": 0.4},
    "hits": {"intro": 0.4, "verse": 0.5, "chorus": 0.9, "bridge": 0.5, "outro": 0.3},
    "lead": {"intro": 0.25, "verse": 0.85, "chorus": 0.9, "bridge": 0.4, "outro": 0.35},
    "counter": {"intro": 0.2, "verse": 0.4, "chorus": 0.85, "bridge": 0.6, "outro": 0.4},
}
LEAST = 0.4  # share of the bars; a part that plays less joins the choruses
JOIN = 0.3  # how often a part that rested in a section plays when the section returns


def count_bars(seconds: float, tempo: float, beats: int) -> int:
    """Bars in a song of `seconds` at about `tempo` beats a minute, never fewer than two."""
    return max(2, round(seconds * tempo / 60.0 / beats))


def share_bars(weights: Sequence[float], total: int) -> list[int]:
    """Split `total` by weight, at least one each; largest remainders get what is left over."""
    spare = total - len(weights)
    exact = [weight / sum(weights) * spare for weight in weights]
    shares = [1 + int(share) for share in exact]
    order = sorted(range(len(exact)), key=lambda i: (int(exact[i]) - exact[i], i))
    for place in order[: total - sum(shares)]:
        shares[place] += 1
    return shares


def plan_sections(total: int, rng: np.random.Generator) -> tuple[Section, ...]:
    """Sections that fill `total` bars; of an even number of bars each where there is room."""
    plans = next(plans for fewest, plans in PLANS if total >= fewest)
    names = plans[int(rng.integers(len(plans)))].split()
    unit = 2 if total >= 2 * len(names) else 1
    shares = share_bars([WEIGHTS[name] for name in names], total // unit)
    shares = [share * unit for share in shares]
    shares[-1] += total - sum(shares)
    starts = np.cumsum([0, *shares]).tolist()
    return tuple(map(Section, names, starts, shares))


def draw_activity(
    roles: Sequence[str], sections: Sequence[Section], rng: np.random.Generator
) -> list[list[bool]]:
    """Who plays where: one row a part, one column a section.

    A section that returns keeps its players and may gain some. A part that would hardly play joins
    the choruses, so every part plays somewhere, and every section has two parts at least.
    """
    rows = [_draw_row(role, sections, rng) for role in roles]
    total = sum(section.bars for section in sections)
    for row in rows:
        played = sum(section.bars for section, plays in zip(sections, row, strict=True) if plays)
        for place, section in enumerate(sections):
            joins = section.name == "chorus" and played < LEAST * total
            row[place] = row[place] or joins
    for place in range(len(sections)):
        resting = [row for row in rows if not row[place]]
        for _ in range(2 - sum(row[place] for row in rows)):
            resting.pop(int(rng.integers(len(resting))))[place] = True
    return rows


def _draw_row(role: str, sections: Sequence[Section], rng: np.random.Generator) -> list[bool]:
    """In which sections one part plays."""
    seen: dict[str, bool] = {}
    row = []
    for section in sections:
        chance = JOIN if section.name in seen else PRESENCE[role][section.name]
        seen[section.name] = seen.get(section.name, False) or bool(rng.random() < chance)
        row.append(seen[section.name])
    return row
