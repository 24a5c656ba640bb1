"""Triplets: exact sums, one offset for all tracks, and what a window of a resampled file is."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mge_plugin.data import triplets
from mge_plugin.data.audio import read_audio, resample
from mge_plugin.data.triplets import (
    MAX_TRIES,
    Format,
    SourceConfig,
    Window,
    draw_window,
    last_start,
    make_triplet,
    stem_sounds,
)
from mge_plugin.tracks import Track

RATE = 16_000
FORM = Format(RATE, 4000, 1)


@pytest.fixture
def song_of(slakh):
    """The indexed song of stem files."""

    def write(*stems):
        slakh.song(stems=stems)
        return slakh.read()[0][0]

    return write


def _triplet(song, start=0, form=FORM, source=0):
    return make_triplet(Window(song, (source,), start), form)


def _drawn(song, seed=0):
    def sounds(stem, start):
        return stem_sounds(song.stems[stem], start, FORM)

    rng = np.random.default_rng(seed)
    return draw_window(song, last_start(song, FORM), sounds, rng, SourceConfig())


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_mixture_is_submixture_plus_source_exactly(slakh, song_of, noise, rate, channels):
    song = song_of(
        slakh.stem(noise(44_100, 0), 0, 44_100, ".flac"),
        slakh.stem(noise(48_000, 1, channels=2), 33, 48_000),
        slakh.stem(noise(11_025, 2), 128, 22_050),
        slakh.stem(noise(9_000, 3, channels=2), 24, 16_000),
    )
    form = Format(rate, rate // 2, channels)
    for start, source in ((0, 0), (rate // 4, 1), (rate // 2, 2), (rate // 3, 3)):
        triplet = _triplet(song, start, form, source)
        mixture, submixture, source = triplet.audio
        assert triplet.audio.shape == (3, channels, rate // 2)
        assert triplet.audio.dtype == np.float32
        assert submixture.any() and source.any()
        assert_array_equal(mixture, submixture + source)


def test_what_goes_over_full_scale_is_lowered_together_and_not_clipped(slakh, song_of):
    loud = np.full(8000, 0.7, dtype=np.float32)
    triplet = _triplet(song_of(*[slakh.stem(loud)] * 3), 100)
    assert triplet.gain == pytest.approx(1 / 2.1)
    mixture, submixture, source = triplet.audio
    expected = (1.0, 2 / 3, 1 / 3)
    assert_allclose((mixture[0, 9], submixture[0, 9], source[0, 9]), expected, rtol=1e-6)
    assert_array_equal(mixture, submixture + source)


def test_a_mixture_within_full_scale_stays_as_it_is(slakh, song_of):
    stem = slakh.stem(np.full(8000, 0.3, dtype=np.float32))
    assert _triplet(song_of(stem, stem, stem), 100).gain == 1.0


@pytest.mark.parametrize("start", [0, 1, 777, 4000])
def test_all_tracks_are_cut_at_the_one_offset(slakh, song_of, start):
    ramp = np.linspace(-0.5, 0.5, 8000, dtype=np.float32)
    song = song_of(slakh.stem(ramp), slakh.stem(0.5 * ramp), slakh.stem(0.25 * ramp))
    mixture, submixture, source = _triplet(song, start).audio[:, 0]
    assert_array_equal(source, ramp[start : start + 4000])
    assert_allclose(submixture, 0.75 * source, rtol=1e-6)
    assert_allclose(mixture, 1.75 * source, rtol=1e-6)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_stems_of_any_rate_are_aligned(slakh, song_of, rate):
    def sine(r):
        return (0.1 * np.sin(2 * np.pi * 440 * np.arange(r) / r)).astype(np.float32)

    rates = (44_100, 48_000, 22_050, 16_000, 44_099)
    song = song_of(*(slakh.stem(sine(r), 0, r) for r in rates))
    start, samples = rate // 4 + 1, rate // 2
    expected = sine(rate)[start : start + samples]
    for source in range(len(rates)):
        triplet = _triplet(song, start, Format(rate, samples, 1), source)
        assert_allclose(triplet.audio[Track.SOURCE, 0], expected, atol=2e-4, rtol=0)
        assert_allclose(triplet.audio[Track.SUBMIXTURE, 0], 4 * expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("start", [12_000, 12_001, 15_999])
@pytest.mark.parametrize(
    "rates",
    [
        (44_100, 16_000),
        (48_000, 16_000),
        (16_000, 16_000),
        (44_099, 16_000),
        (48_000, 44_100),
        (22_050, 44_100),
        (8_000, 44_100),
        (192_000, 16_000),
    ],
)
def test_a_window_is_the_same_as_one_of_the_whole_resampled_file(
    slakh, song_of, noise, rates, start
):
    rate, model_rate = rates
    audio = noise(2 * rate, channels=2)
    song = song_of(slakh.stem(audio, 0, rate), slakh.stem(audio, 0, rate))
    whole = resample(audio.T, rate, model_rate)[:, start : start + 4000]
    triplet = _triplet(song, start, Format(model_rate, 4000, 2))
    assert_allclose(triplet.audio[Track.SOURCE], whole, atol=2e-6, rtol=0)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_what_lies_beyond_the_end_of_a_song_is_silent(slakh, song_of, noise, rate):
    song = song_of(*[slakh.stem(noise(rate // 8, seed), 0, rate) for seed in range(2)])
    assert {_drawn(song, seed).start for seed in range(5)} == {0}
    audio = _triplet(song, 0).audio[:, 0]
    whole = resample(read_audio(song.stems[0].path)[0], rate, RATE)[0]
    assert len(whole) == 2000 and np.abs(whole).min() > 0
    sounding = slice(10, 2000)  # soxr's first samples of a file differ by 0.001
    assert_allclose(audio[Track.SOURCE, sounding], whole[sounding], atol=1e-6, rtol=0)
    assert np.abs(audio[:, 2000 + 150 :]).max() < 1e-6  # after the ringing of the filter


def test_a_short_stem_is_silent_after_its_end_and_the_longer_go_on(slakh, song_of, noise):
    song = song_of(slakh.stem(noise(3000), 33), slakh.stem(noise(9000, 1), 0))
    _, submixture, source = _triplet(song, 2000).audio[:, 0]
    assert_array_equal(source, np.pad(noise(3000)[2000:], (0, 3000)))
    assert_array_equal(submixture, noise(9000, 1)[2000:6000])
    starts = {_drawn(song, seed).start for seed in range(200)}
    assert max(starts) > 4000  # the longest stem decides where windows lie


def test_offsets_reach_from_the_first_to_the_last_sample(slakh, song_of, noise):
    song = song_of(*[slakh.stem(noise(4003, seed)) for seed in range(2)])
    starts = {_drawn(song, seed).start for seed in range(60)}
    assert starts == {0, 1, 2, 3}


def test_every_stem_is_the_source_equally_often(slakh, song_of, noise):
    song = song_of(*[slakh.stem(noise(4000, seed)) for seed in range(4)])
    drawn = [_drawn(song, seed).sources[0] for seed in range(400)]
    counts = [drawn.count(stem) for stem in range(4)]
    assert sum(counts) == 400 and min(counts) > 70  # binomial(400, 1/4): 100 +- 9


def test_the_source_of_a_window_sounds_where_it_can(slakh, song_of, noise):
    rests = noise(40_000)
    rests[:10_000] = 0  # 10 tries all fail once in about 10 ** 7 windows
    song = song_of(slakh.stem(rests), slakh.stem(rests))
    starts = [_drawn(song, seed).start for seed in range(100)]
    assert min(starts) > 10_000 - 4000
    assert all(_triplet(song, start).labels[Track.SOURCE] for start in starts)


def test_a_source_that_never_sounds_is_tried_ten_times_and_taken(
    slakh, song_of, noise, monkeypatch
):
    silent = np.full(9000, 1e-4, dtype=np.float32)  # -80 dBFS
    song = song_of(slakh.stem(silent, 33), slakh.stem(silent, 0))
    starts = []

    def read(part, start, frames):
        starts.append(start)
        return np.zeros((1, frames), dtype=np.float32)

    monkeypatch.setattr(triplets, "read_window", read)
    window = _drawn(song)
    assert len(starts) == MAX_TRIES == 10 and len(set(starts)) > 5
    assert window.start == starts[-1]


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("sounding", ["before", "inside", "after"])
def test_silence_is_measured_on_the_window_and_nowhere_else(slakh, song_of, noise, rate, sounding):
    begin, end = rate // 4, rate // 2
    audio = noise(rate)
    silent = {"before": slice(begin, None), "after": slice(0, end), "inside": slice(0, 0)}
    audio[silent[sounding]] = 0
    if sounding == "inside":
        audio[:begin] = audio[end:] = 0
    song = song_of(slakh.stem(audio, 33, rate), slakh.stem(noise(rate, 1), 0, rate))
    labels = _triplet(song, RATE // 4).labels
    sounds = sounding == "inside"
    assert labels[Track.SOURCE] == (("bass",) if sounds else ())
    assert labels[Track.MIXTURE] == (("bass", "piano") if sounds else ("piano",))


@pytest.mark.parametrize(("level", "sounds"), [(-59, True), (-61, False)])
def test_the_level_of_silence_is_that_of_the_format(slakh, song_of, level, sounds):
    stem = slakh.stem(np.full(4000, 10 ** (level / 20), dtype=np.float32), 33)
    assert bool(_triplet(song_of(stem, stem)).labels[Track.SOURCE]) == sounds


def test_labels_name_what_sounds_in_each_track(slakh, song_of, noise):
    silent = slakh.stem(np.zeros(4000), 73)
    stems = [slakh.stem(noise(4000, seed), program) for seed, program in enumerate((33, 128, 0))]
    song = song_of(*stems, silent)
    assert _triplet(song, source=0).labels == {
        Track.MIXTURE: ("bass", "drums", "piano"),
        Track.SUBMIXTURE: ("drums", "piano"),
        Track.SOURCE: ("bass",),
    }
    assert _triplet(song, source=3).labels == {
        Track.MIXTURE: ("bass", "drums", "piano"),
        Track.SUBMIXTURE: ("bass", "drums", "piano"),
        Track.SOURCE: (),
    }


def test_the_label_of_the_source_is_in_the_submixture_only_by_another_stem(slakh, song_of, noise):
    programs = (33, 0, 4)  # a bass and two pianos
    song = song_of(*(slakh.stem(noise(4000, seed), p) for seed, p in enumerate(programs)))
    assert "bass" not in _triplet(song, source=0).labels[Track.SUBMIXTURE]
    assert _triplet(song, source=1).labels[Track.SUBMIXTURE] == ("bass", "piano")


@pytest.mark.parametrize("rate", [16_000, 44_100, 44_099, 192_000])
def test_a_window_of_a_long_file_is_read_without_the_rest_of_it(
    slakh, song_of, noise, rate, monkeypatch
):
    lengths = []

    def read(part, start, frames):
        lengths.append(frames)
        return np.zeros((1, frames), dtype=np.float32)

    song = song_of(*[slakh.stem(noise(20 * rate), 0, rate)] * 2)
    monkeypatch.setattr(triplets, "read_window", read)
    _triplet(song, 5 * RATE + 1, Format(RATE, RATE, 1))
    assert len(lengths) == 2
    assert max(lengths) < 2.2 * rate  # a second, at most another to where the rates meet, margins


def test_a_stereo_stem_of_opposite_polarity_sounds_in_mono(slakh, song_of, noise):
    left = noise(4000)
    opposed = np.stack([left, -left], axis=1)
    song = song_of(slakh.stem(opposed, 33), slakh.stem(opposed, 0))
    for channels in (1, 2):
        assert _triplet(song, form=Format(RATE, 4000, channels)).labels[Track.SOURCE] == ("bass",)
