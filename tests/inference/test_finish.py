"""Refined sources are full-band and in their place; presence scores; gate and splice."""

import numpy as np
import pytest
import torch

from mge_plugin.data.audio import resample
from mge_plugin.inference.finish import _solve, refine, refine_blocks
from mge_plugin.inference.presence import Presence, agreement, presence, sounding

RATE, MODEL_RATE = 44100, 16000


def tone(hertz, seconds=1.0):
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


def noise(seconds=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(int(seconds * RATE)).astype(np.float32) * 0.1


def estimate(*parts):
    """Each part as a perfect mono model at 16 kHz would make it."""
    return [resample(part.mean(axis=0, keepdims=True), RATE, MODEL_RATE) for part in parts]


def si_sdr(found, true):
    scale = (found * true).sum() / (true**2).sum()
    return 10 * np.log10(((scale * true) ** 2).sum() / ((found - scale * true) ** 2).sum())


def separate(*parts, estimates=None):
    """The parts as a perfect model's estimates let them be refined out of their sum."""
    mixture = sum(parts)
    sources = estimate(*(estimates or parts))
    rests = estimate(*(mixture - part for part in estimates or parts))
    return refine(mixture, RATE, sources, rests, MODEL_RATE)


@pytest.mark.parametrize("seconds", [0.001, 0.5, 47.3])
def test_sources_have_the_form_of_the_mixture_and_all_of_them_sum_to_it(seconds):
    left, right = noise(seconds, 1)[None], noise(seconds, 2)[None]
    parts = [np.concatenate([left, left * 0.2]), np.concatenate([right * 0.1, right])]
    blocks = []
    guides = estimate(*parts)
    refined = refine(sum(parts), RATE, guides, guides[::-1], MODEL_RATE, lambda: blocks.append(1))
    assert all(part.shape == parts[0].shape for part in refined)
    assert len(blocks) == refine_blocks(parts[0].shape[1], RATE)
    found = 10 * np.log10((sum(refined) - sum(parts)).var() / sum(parts).var())
    assert found < -25, "nothing is left for the rest"


def test_tones_of_a_perfect_model_come_apart_in_their_places():
    low, high = np.stack([tone(440), 0.1 * tone(440)]), np.stack([0.2 * tone(3000), tone(3000)])
    refined = separate(low, high)
    assert si_sdr(refined[0], low) > 25
    assert si_sdr(refined[1], high) > 25
    level = refined[0].std(axis=1)
    assert level[1] / level[0] == pytest.approx(0.1, rel=0.2)


def test_places_tell_parts_apart_that_share_every_frequency():
    left, right = np.stack([noise(2, 1), noise(2, 1) * 0]), np.stack([noise(2, 2) * 0, noise(2, 2)])
    guides = estimate(left, right)
    stereo, mono = (
        refine(mixture, RATE, guides, guides[::-1], MODEL_RATE)
        for mixture in (left + right, (left + right).mean(0, keepdims=True))
    )
    in_mono = si_sdr(mono[0], left.mean(0, keepdims=True))
    assert si_sdr(stereo[0], left) > in_mono + 6


@pytest.mark.parametrize("channels", [1, 2])
def test_a_source_gets_its_share_of_the_magnitude(channels):
    mixture = np.repeat(noise(1)[None], channels, axis=0)
    (guide,) = estimate(mixture)
    (source,) = refine(mixture, RATE, [2 * guide], [guide], MODEL_RATE)
    inside = slice(RATE // 4, -RATE // 4)
    np.testing.assert_allclose(source[:, inside], mixture[:, inside] * 2 / 3, atol=0.02)


def test_the_closed_form_for_two_channels_is_the_solution_for_any_number():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(7, 9, 2, 2, dtype=torch.complex64, generator=generator)
    vector = torch.randn(7, 9, 2, dtype=torch.complex64, generator=generator)
    expected = torch.linalg.solve(matrix, vector)
    torch.testing.assert_close(_solve(matrix, vector), expected, atol=1e-3, rtol=1e-3)


def test_above_the_models_band_a_part_keeps_its_share():
    """A burst of 12 kHz above the model's band goes to the part that sounds below it then."""
    half = RATE // 2
    first = np.concatenate([tone(5000, 0.5) + tone(12000, 0.5), np.zeros(half, np.float32)])[None]
    second = np.concatenate([np.zeros(half, np.float32), tone(6000, 0.5) + tone(15000, 0.5)])[None]
    refined = separate(first, second)
    assert si_sdr(refined[0], first) > 20
    assert si_sdr(refined[1], second) > 20


def test_silence_and_what_no_estimate_claims():
    mixture, silence = noise(1)[None], np.zeros((1, MODEL_RATE), np.float32)
    (guide,) = estimate(mixture)
    for rest in (guide, silence):
        (absent,) = refine(mixture, RATE, [silence], [rest], MODEL_RATE)
        assert not absent.any()
    (nothing,) = refine(mixture * 0, RATE, [silence], [silence], MODEL_RATE)
    assert not nothing.any()


def test_a_long_song_is_refined_as_a_short_one():
    """Blocks, resampled one by one, leave no seam."""
    low, high = tone(440, 45)[None], tone(3000, 45)[None] * np.linspace(0, 1, 45 * RATE)[None]
    low, high = low.astype(np.float32), high.astype(np.float32)
    refined = separate(low, high)
    bend = np.abs(np.diff(refined[0][0], 2))
    seam = slice(15 * RATE, 20 * RATE)  # where the first two blocks overlap
    assert bend[seam].max() < 1.05 * bend[5 * RATE : 10 * RATE].max()
    start = slice(0, 10 * RATE)
    (short, _) = separate(low[:, : 12 * RATE], high[:, : 12 * RATE])
    assert si_sdr(refined[0][:, start], short[:, start]) > 50


def scrambled(audio, seed):
    """The same spectrogram with the phases of noise: what a generator may make."""
    window, rng = torch.hann_window(1024), np.random.default_rng(seed)
    spectrum = torch.stft(torch.from_numpy(audio), 1024, window=window, return_complex=True)
    phase = torch.from_numpy(rng.uniform(0, 2 * np.pi, spectrum.shape).astype(np.float32))
    made = torch.istft(
        torch.polar(spectrum.abs(), phase), 1024, window=window, length=audio.shape[1]
    )
    return made.numpy()


@pytest.mark.parametrize("channels", [1, 2])
def test_rests_that_the_model_made_separate_better_than_differences_of_other_phase(channels):
    """A generated source is not in phase with the mixture: their difference says little."""
    low, high = tone(300)[None] * 0.3, tone(3000)[None] * 0.3
    mixture = np.repeat(low + high, channels, axis=0)
    source, rest = (scrambled(a, i) for i, a in enumerate(estimate(low, high)))
    narrow = resample(mixture.mean(axis=0, keepdims=True), RATE, MODEL_RATE)
    by_rest, by_difference = (
        refine(mixture, RATE, [source], [r], MODEL_RATE)[0] for r in (rest, narrow - source)
    )
    true = np.repeat(low, channels, axis=0)
    assert si_sdr(by_rest, true) > 20
    assert si_sdr(by_rest, true) > si_sdr(by_difference, true) + 10


def test_several_sources_share_one_set_of_masks():
    parts = [tone(hertz)[None] * 0.2 for hertz in (200, 1000, 4000)]
    mixture = sum(parts)
    rests = estimate(mixture - parts[0], mixture - parts[1])
    refined = refine(mixture, RATE, estimate(*parts[:2]), rests, MODEL_RATE)
    for found, true in zip([*refined, mixture - sum(refined)], parts, strict=True):
        assert si_sdr(found, true) > 20


def short_tone(hertz, level=0.1):
    return (level * np.sin(2 * np.pi * hertz * np.arange(MODEL_RATE) / MODEL_RATE)).astype(
        np.float32
    )[None]


def test_a_part_of_the_mixture_is_present():
    mixture = short_tone(200) + short_tone(3000)
    assert presence(short_tone(200), mixture, MODEL_RATE).score == pytest.approx(1.0, abs=0.02)
    assert presence(mixture, mixture, MODEL_RATE).score == pytest.approx(1.0, abs=1e-6)


def test_what_is_not_in_the_mixture_is_absent():
    found = presence(short_tone(1000), short_tone(200) + short_tone(3000), MODEL_RATE)
    assert found.energy == 1.0
    assert found.contained < 0.01 and found.score < 0.01


@pytest.mark.parametrize(("below", "energy"), [(20, 1.0), (40, 0.5), (50, 0.0), (80, 0.0)])
def test_what_is_far_below_the_mixture_is_absent(below, energy):
    mixture = short_tone(200)
    found = presence(mixture * 10 ** (-below / 20), mixture, MODEL_RATE)
    assert found.energy == pytest.approx(energy, abs=0.01)


@pytest.mark.parametrize(("source", "mixture"), [(0, 1), (1, 0), (0, 0)])
def test_silence_is_absent_and_finite(source, mixture):
    assert presence(source * short_tone(200), mixture * short_tone(200), MODEL_RATE).score == 0.0


@pytest.mark.parametrize(
    ("similarity", "score"), [(None, 1.0), (0.4, 1.0), (0.2, 1.0), (0.1, 0.5), (-0.3, 0.0)]
)
def test_similarity_scales_the_score(similarity, score):
    assert Presence(1.0, 1.0, similarity).score == pytest.approx(score)
    assert ("similarity" in Presence(1.0, 1.0, similarity).described()) == (similarity is not None)


def test_agreement_of_a_mixture_with_its_parts():
    mixture = short_tone(200) + short_tone(3000)
    assert agreement(mixture, short_tone(200) + short_tone(3000), MODEL_RATE) == pytest.approx(1.0)
    assert 0.3 < agreement(mixture, short_tone(200), MODEL_RATE) < 0.8
    assert agreement(short_tone(3000), short_tone(200), MODEL_RATE) < 0.02
    assert agreement(0 * mixture, 0 * mixture, MODEL_RATE) == 1.0
    assert agreement(mixture, 0 * mixture, MODEL_RATE) == 0.0


def test_runs_of_zeros_are_silence_and_zero_crossings_are_not():
    audio = np.concatenate(
        [short_tone(200), np.zeros((1, 2000), np.float32), short_tone(200)], axis=1
    )
    mask = sounding(audio, MODEL_RATE)
    silent = np.flatnonzero(~mask)
    assert silent[0] in (MODEL_RATE, MODEL_RATE - 1) and silent[-1] in (
        MODEL_RATE + 2000,
        MODEL_RATE + 1999,
    )
    assert mask[:MODEL_RATE].sum() >= MODEL_RATE - 1


def test_a_short_file_of_zeros_is_silence():
    assert not sounding(np.zeros((2, 3), np.float32), MODEL_RATE).any()
