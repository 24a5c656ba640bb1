"""Styles as tables: tempo, swing, grooves, bass lines, comping rhythms, usual instruments.

Rhythms are strings of sixteenth steps (`grid.py`). A bass line's symbols are tones of the chord:
r root, t third, f fifth, s the chord's top tone, o octave, a approach to the next bar's root.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    name: str
    tempo: tuple[int, int]  # beats a minute, lowest and highest
    beats: int  # beats a bar
    swing: float  # where the offbeat eighth falls within its beat; 0.5 is straight
    timing: float  # standard deviation of the players' timing, seconds
    jazz: bool  # jazz progressions
    chord_size: int  # 3 triads, 4 sevenths
    modes: tuple[str, ...]
    kits: tuple[int, ...]  # presets of the soundfont's percussion bank
    grooves: tuple[dict[str, str], ...]  # rhythm of each piece of the drum kit
    basses: tuple[str, ...]
    comps: tuple[str, ...]
    usual: tuple[int, ...]  # programs that belong to the style


ROCK = Style(
    name="rock",
    tempo=(108, 150),
    beats=4,
    swing=0.5,
    timing=0.006,
    jazz=False,
    chord_size=3,
    modes=("major", "minor", "mixolydian"),
    kits=(0, 16, 8),
    grooves=(
        {"kick": "X.....x.X.......", "snare": "....X.......X...", "time": "X.x.X.x.X.x.X.x."},
        {"kick": "X.x.....X.x.....", "snare": "....X.......X..o", "time": "X.x.X.x.X.x.X.x."},
        {"kick": "X.....x...x.x...", "snare": "....X.......X...", "time": "X...X...X...X..."},
    ),
    basses=("r.r.r.r.r.r.r.r.", "r-r.r.r-r.r.r.a.", "r---..r-r---f-o-", "r.r.r.o.r.r.f.a."),
    comps=("X-x.x.x.X-x.x.x.", "X-------X-------", "X--x--x-....X-x-", "X-----x-x-------"),
    usual=(29, 30, 27, 18, 34, 33, 1, 84, 81),
)
POP = Style(
    name="pop",
    tempo=(92, 126),
    beats=4,
    swing=0.5,
    timing=0.006,
    jazz=False,
    chord_size=3,
    modes=("major", "major", "minor", "dorian"),
    kits=(0, 8, 24),
    grooves=(
        {"kick": "X.......X.x.....", "snare": "....X.......X...", "time": "x.x.x.x.x.x.x.x."},
        {"kick": "X..x..x...x.....", "snare": "....X.......X...", "time": "xoxoxoxoxoxoxoxo"},
        {"kick": "X...x...X...x...", "clap": "....X.......X...", "time": "..x...x...x...x."},
    ),
    basses=("r-----r-r-----f-", "r--r--r-r--r--a-", "r-------r---f---", "r-.r-.r-r-.r-.o-"),
    comps=("X---x---X---x---", "X--x--x-X--x--x-", "X-----x---x---x-", "x-.x-.x-.x-.x-x."),
    usual=(0, 25, 27, 33, 48, 50, 88, 89, 80, 11),
)
BALLAD = Style(
    name="ballad",
    tempo=(62, 82),
    beats=4,
    swing=0.5,
    timing=0.010,
    jazz=False,
    chord_size=4,
    modes=("major", "major", "minor"),
    kits=(0, 40, 8),
    grooves=(
        {"kick": "X.........x.....", "rim": "....X.......X...", "time": "x.x.x.x.x.x.x.x."},
        {"kick": "X.....x.x.......", "snare": "....X.......X...", "time": "x.o.x.o.x.o.x.o."},
    ),
    basses=("r-----------f---", "r-----f-r-------", "r-----r-f-----a-", "r---------o-f---"),
    comps=("X---x---x---x---", "X-------x-------", "X-x-x-x-X-x-x-x-", "X---------x-x---"),
    usual=(0, 4, 24, 35, 48, 49, 52, 68, 73, 40, 42, 60, 46),
)
FUNK = Style(
    name="funk",
    tempo=(92, 114),
    beats=4,
    swing=0.53,
    timing=0.004,
    jazz=False,
    chord_size=4,
    modes=("dorian", "mixolydian", "minor"),
    kits=(0, 8, 16),
    grooves=(
        {"kick": "X..x..x...x..x..", "snare": "....X..o.o..X..o", "time": "xoxoxoxoxoxoxoxo"},
        {"kick": "X.x.....x.x.....", "snare": "....X..o.o.oX...", "time": "x.x.x.x.x.x.x.x."},
    ),
    basses=("r..r..o.r.s.f.a.", "r.rr..o...r.s.o.", "r-.o..r.f-.s..a.", "r...r.s.o.r...a."),
    comps=("..x...x..xx...x.", "X..x......x..x..", "x.ox.ox.x.ox.oxo", "....x-....x-..x."),
    usual=(7, 28, 27, 36, 37, 61, 62, 17, 65, 57, 4),
)
SWING = Style(
    name="swing",
    tempo=(112, 176),
    beats=4,
    swing=0.64,
    timing=0.007,
    jazz=True,
    chord_size=4,
    modes=("major", "major", "minor"),
    kits=(32, 40),
    grooves=(
        {"ride": "X...x.x.X...x.x.", "pedal": "....x.......x...", "kick": "o.......o......."},
        {"ride": "X...x.x.X...x.x.", "pedal": "....x.......x...", "snare": "......o........o"},
    ),
    basses=("r---t---f---a---", "r---f---s---a---", "r---s---f---a---", "r-----f-t---a---"),
    comps=("X-....x-......x-", "......x-....x-..", "X-..........x-..", "..x-......x-...."),
    usual=(0, 26, 32, 11, 65, 66, 56, 59, 57, 71, 17),
)
BOSSA = Style(
    name="bossa",
    tempo=(110, 142),
    beats=4,
    swing=0.5,
    timing=0.006,
    jazz=True,
    chord_size=4,
    modes=("major", "minor"),
    kits=(40, 32, 0),
    grooves=(
        {"kick": "X.....x.X.....x.", "rim": "x.....x.....x...", "shaker": "xoxoxoxoxoxoxoxo"},
        {"kick": "X.....x.X.....x.", "rim": "....x.....x...x.", "time": "x.x.x.x.x.x.x.x."},
    ),
    basses=("r-----f-f-----r-", "r-----r-f-----a-", "r-----f-o-----f-"),
    comps=("x-..x-..x-..x-x-", "X--x--x---x--x--", "x---..x---..x-x-"),
    usual=(24, 26, 32, 35, 73, 75, 11, 0, 66, 21, 114, 113),
)
ELECTRONIC = Style(
    name="electronic",
    tempo=(118, 134),
    beats=4,
    swing=0.5,
    timing=0.0,
    jazz=False,
    chord_size=3,
    modes=("minor", "minor", "dorian", "major"),
    kits=(24, 25),
    grooves=(
        {"kick": "X...X...X...X...", "clap": "....X.......X...", "open": "..x...x...x...x."},
        {"kick": "X..x..X...x.....", "snare": "....X.......X...", "time": "xoxoxoxoxoxoxoxo"},
        {"kick": "X...X...X...X...", "snare": "............X...", "time": "xoxxxoxxxoxxxoxx"},
    ),
    basses=("..r...r...r...r.", "r.rrr.rrr.rrr.rr", "r..r..r.r..r..o.", "r.o.r.o.r.o.r.o."),
    comps=("x..x..x.x..x..x.", "..x...x...x...x.", "X..X..X...X..X..", "X---------------"),
    usual=(38, 39, 80, 81, 87, 90, 89, 95, 62, 63, 50, 103, 118),
)
WALTZ = Style(
    name="waltz",
    tempo=(96, 150),
    beats=3,
    swing=0.5,
    timing=0.008,
    jazz=False,
    chord_size=3,
    modes=("major", "minor"),
    kits=(48, 0, 40),
    grooves=(
        {"kick": "X...........", "snare": "....x...x...", "time": "x...x...x..."},
        {"kick": "X.........x.", "rim": "....x...x...", "time": "x.x.x.x.x.x."},
    ),
    basses=("r-----------", "r-------f---", "r---t---f---", "r-------a---"),
    comps=("....x-..x-..", "X---x---x---", "X-x-x-x-x-x-", "X-------x---"),
    usual=(0, 24, 21, 23, 32, 48, 40, 42, 71, 73, 60, 45, 46, 6, 8),
)


def all_styles() -> tuple[Style, ...]:
    return (ROCK, POP, BALLAD, FUNK, SWING, BOSSA, ELECTRONIC, WALTZ)
