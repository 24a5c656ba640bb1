"""Refined sources: full band, in their place, summing to the mixture."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mge_plugin.data.audio import resample
from mge_plugin.inference.finish import refine

RATE, MODEL_RATE = 44100, 16000


def tone(hertz, seconds=1.0):
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


def noise(seconds=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(int(seconds * RATE)).astype(np.float32) * 0.1


def estimate(*parts):
    """What a perfect mono model at 16 kHz would give for each."""
    return [resample(part.mean(axis=0, keepdims=True), RATE, MODEL_RATE) for part in parts]


def si_sdr(found, true):
    scale = (found * true).sum() / (true**2).sum()
    return 10 * np.log10(((scale * true) ** 2).sum() / ((found - scale * true) ** 2).sum())


@pytest.mark.parametrize("seconds", [0.001, 0.5, 47.3])
def test_the_parts_sum_to_the_mixture_and_have_its_length(seconds):
    left, right = noise(seconds, 1)[None], noise(seconds, 2)[None]
    parts = [np.concatenate([left, left * 0.2]), np.concatenate([right * 0.1, right])]
    mixture = parts[0] + parts[1]
    refined = refine(mixture, RATE, estimate(*parts), MODEL_RATE)
    assert all(part.shape == mixture.shape for part in refined)
    assert_allclose(sum(refined), mixture, atol=1e-6)


def test_tones_of_a_perfect_model_come_apart_in_their_places():
    low, high = np.stack([tone(440), 0.1 * tone(440)]), np.stack([0.2 * tone(3000), tone(3000)])
    refined = refine(low + high, RATE, estimate(low, high), MODEL_RATE)
    assert si_sdr(refined[0], low) > 25
    assert si_sdr(refined[1], high) > 25
    level = refined[0].std(axis=1)
    assert level[1] / level[0] == pytest.approx(0.1, rel=0.2)


def test_places_tell_parts_apart_that_share_every_frequency():
    left, right = np.stack([noise(2, 1), noise(2, 1) * 0]), np.stack([noise(2, 2) * 0, noise(2, 2)])
    mixture = left + right
    refined = refine(mixture, RATE, estimate(left, right), MODEL_RATE)
    mono = refine(mixture.mean(0, keepdims=True), RATE, estimate(left, right), MODEL_RATE)
    in_mono = si_sdr(mono[0], left.mean(0, keepdims=True))
    assert si_sdr(refined[0], left) > in_mono + 6


def test_above_the_models_band_a_part_keeps_its_share():
    """A burst of 12 kHz that the model cannot hear goes to the part that sounds below it then."""
    half = RATE // 2
    first = np.concatenate([tone(5000, 0.5) + tone(12000, 0.5), np.zeros(half, np.float32)])[None]
    second = np.concatenate([np.zeros(half, np.float32), tone(6000, 0.5) + tone(15000, 0.5)])[None]
    refined = refine(first + second, RATE, estimate(first, second), MODEL_RATE)
    assert si_sdr(refined[0], first) > 20
    assert si_sdr(refined[1], second) > 20


def test_silence_stays_silence():
    mixture, silence = noise(1)[None], np.zeros((1, MODEL_RATE), np.float32)
    absent, rest = refine(mixture, RATE, [silence, *estimate(mixture)], MODEL_RATE)
    assert not absent.any()
    assert_allclose(rest, mixture, atol=1e-6)
    nothing = refine(mixture * 0, RATE, [silence, silence], MODEL_RATE)
    assert not any(part.any() for part in nothing)


def test_what_no_estimate_claims_is_the_residuals():
    mixture, silence = noise(1)[None], np.zeros((1, MODEL_RATE), np.float32)
    source, residual = refine(mixture, RATE, [silence, silence], MODEL_RATE)
    assert not source.any()
    assert_allclose(residual, mixture, atol=1e-6)


def test_a_long_song_is_refined_as_a_short_one():
    """Blocks leave no seam."""
    low, high = tone(440, 45)[None], tone(3000, 45)[None] * np.linspace(0, 1, 45 * RATE)[None]
    low, high = low.astype(np.float32), high.astype(np.float32)
    refined = refine(low + high, RATE, estimate(low, high), MODEL_RATE)
    second_difference = np.abs(np.diff(refined[0][0], 2))
    seam = slice(15 * RATE, 20 * RATE)  # where the first two blocks overlap
    assert second_difference[seam].max() < 1.05 * second_difference[5 * RATE : 10 * RATE].max()


def test_one_estimate_is_no_mask():
    with pytest.raises(ValueError, match="expected 2 estimates or more, found 1"):
        refine(noise()[None], RATE, estimate(noise()[None]), MODEL_RATE)


def scrambled(audio, seed):
    """The same spectrogram with the phases of noise: what a generator may make."""
    import torch

    window, rng = torch.hann_window(1024), np.random.default_rng(seed)
    spectrum = torch.stft(torch.from_numpy(audio), 1024, window=window, return_complex=True)
    phase = torch.from_numpy(rng.uniform(0, 2 * np.pi, spectrum.shape).astype(np.float32))
    made = torch.istft(
        torch.polar(spectrum.abs(), phase), 1024, window=window, length=audio.shape[1]
    )
    return made.numpy()


@pytest.mark.parametrize("channels", [1, 2])
def test_rests_that_the_model_made_separate_better_than_differences_of_other_phase(channels):
    """A generated source is not in phase with the mixture: what is left of it says little."""
    low, high = tone(300)[None] * 0.3, tone(3000)[None] * 0.3
    mixture = np.repeat(low + high, channels, axis=0)
    source, rest = (scrambled(a, i) for i, a in enumerate(estimate(low, high)))
    heard = resample(mixture.mean(axis=0, keepdims=True), RATE, MODEL_RATE)
    by_rest, residual = refine(mixture, RATE, [source], MODEL_RATE, [rest])
    by_difference, _ = refine(mixture, RATE, [source, heard - source], MODEL_RATE)
    true = np.repeat(low, channels, axis=0)
    assert si_sdr(by_rest, true) > 20
    assert si_sdr(by_rest, true) > si_sdr(by_difference, true) + 10
    assert_allclose(by_rest + residual, mixture, atol=1e-6)


def test_several_sources_share_one_set_of_masks():
    parts = [tone(hertz)[None] * 0.2 for hertz in (200, 1000, 4000)]
    mixture = sum(parts)
    sources = estimate(*parts[:2])
    rests = estimate(mixture - parts[0], mixture - parts[1])
    refined = refine(mixture, RATE, sources, MODEL_RATE, rests)
    assert len(refined) == 3
    assert_allclose(sum(refined), mixture, atol=1e-6)
    for found, true in zip(refined, parts, strict=True):
        assert si_sdr(found, true) > 20


def test_a_silent_source_leaves_everything_to_the_rest():
    mixture = noise()[None]
    (heard,) = estimate(mixture)
    source, rest = refine(mixture, RATE, [0 * heard], MODEL_RATE, [heard])
    assert not source.any()
    assert_allclose(rest, mixture, atol=1e-7)


@pytest.mark.parametrize(
    ("sources", "rests", "wrong"),
    [(1, 0, "expected 2 estimates or more, found 1"), (2, 1, "expected 2 rests, found 1")],
)
def test_rests_are_as_many_as_sources(sources, rests, wrong):
    (heard,) = estimate(noise()[None])
    with pytest.raises(ValueError, match=wrong):
        refine(noise()[None], RATE, [heard] * sources, MODEL_RATE, [heard] * rests)
