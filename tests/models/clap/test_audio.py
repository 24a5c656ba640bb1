"""Audio is heard as laion-clap hears it, in windows that are always the same."""

import numpy as np
import pytest
import soxr
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mge_plugin.models import clap as audio

CLOSE = {"atol": 1e-5, "rtol": 0.0}


def theirs_of_audio(reference, waveform):
    return torch.from_numpy(reference.get_audio_embedding_from_data(waveform[None].numpy()))[0]


@pytest.mark.parametrize("name", ["short", "whole"])
def test_audio_is_embedded_as_laion_clap_does(reference, published, embedder, songs, name):
    song = getattr(songs, name)
    ours = embedder(published).embed_audio([(song, 48_000)])
    assert_close(ours[0], theirs_of_audio(reference, song), **CLOSE)


def test_long_audio_is_the_mean_of_its_windows(reference, published, embedder, songs):
    song = songs.long
    windows = [song[:480_000], song[336_000:816_000], song[-480_000:]]
    mean = torch.stack([theirs_of_audio(reference, window) for window in windows]).mean(dim=0)
    ours = embedder(published)
    first = ours.embed_audio([(song, 48_000)])
    assert_close(first[0], F.normalize(mean, dim=0), **CLOSE)
    assert torch.equal(ours.embed_audio([(song, 48_000)]), first)


def test_a_batch_of_different_lengths_is_each_by_itself(published, embedder, songs):
    ours = embedder(published)
    examples = [(song, 48_000) for song in (songs.short, songs.whole, songs.long)]
    alone = torch.cat([ours.embed_audio([example]) for example in examples])
    assert_close(ours.embed_audio(examples), alone, **CLOSE)


def test_audio_of_any_rate_and_channels_is_made_mono_at_48_khz():
    tone = torch.sin(torch.arange(16_000) / 16_000 * 440 * 2 * torch.pi)
    ((window,),) = audio.prepare([(torch.stack([tone, tone * 0]), 16_000)])
    expected = 0.5 * torch.sin(torch.arange(48_000) / 48_000 * 440 * 2 * torch.pi)
    assert_close(window[1000:47_000], expected[1000:47_000], atol=2e-3, rtol=0)
    assert window.shape == (480_000,)


def test_samples_are_rounded_to_16_bits_as_laion_clap_does():
    from training.data import float32_to_int16, int16_to_float32  # laion-clap's own

    values = torch.linspace(-1.5, 1.5, 480_000)
    theirs = int16_to_float32(float32_to_int16(values.numpy()))
    assert np.array_equal(audio.prepare([(values, 48_000)])[0][0].numpy(), theirs)


@pytest.mark.parametrize(
    ("samples", "wrong"),
    [(torch.zeros(1, 0), "has no samples"), (torch.tensor([0.0, torch.nan]), "NaN or infinite")],
)
def test_an_example_that_is_no_audio_is_refused(samples, wrong):
    with pytest.raises(ValueError, match=wrong):
        audio.prepare([(torch.ones(9), 48_000), (samples, 48_000)])


@pytest.mark.parametrize(
    ("seconds", "starts"),
    [(10.24, [0]), (10.5, [0]), (10.51, [0, 0.51]), (20.5, [0, 10.5]), (25, [0, 7.5, 15])],
)
def test_windows_are_spread_evenly_and_half_a_second_may_be_left_out(seconds, starts):
    ramp = torch.arange(round(seconds * 48_000)) / 2_000_000
    (windows,) = audio.prepare([(ramp, 48_000)])
    expected = torch.tensor([start * 48_000 / 2_000_000 for start in starts])
    assert_close(windows[:, 0], expected, atol=1e-4, rtol=0)
    assert windows.shape == (len(starts), 480_000)


def test_examples_of_one_length_and_rate_are_prepared_together(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (16_000, 16_000), "b": (8_000, 16_000), "c": (16_000, 16_000)}
    examples = [(0.1 * torch.randn(n, generator=generator), rate) for n, rate in shapes.values()]
    alone = [audio.prepare([example])[0] for example in examples]
    batches, resample = [], audio._resample
    monkeypatch.setattr(
        audio, "_resample", lambda x, *rates: batches.append(len(x)) or resample(x, *rates)
    )
    together = audio.prepare(examples)
    assert batches == [2, 1]
    for one, same in zip(alone, together, strict=True):
        assert_close(same, one, atol=1.01 / 32_767, rtol=0)  # a step of 16 bits


@pytest.mark.parametrize("rate", [16_000, 44_100, 96_000])
def test_resampling_is_as_good_as_soxrs(rate):
    """Of noise up to the lower band's edge; the edge itself is a matter of taste."""
    noise = np.random.default_rng(0).standard_normal(2 * rate)
    spectrum = np.fft.rfft(noise)
    spectrum[np.fft.rfftfreq(len(noise), 1 / rate) > 0.8 * min(rate, 48_000) / 2] = 0
    noise = np.fft.irfft(spectrum).astype(np.float32) * 0.1
    theirs = soxr.resample(noise, rate, 48_000)
    ours = audio._resample(torch.from_numpy(noise), rate, 48_000).numpy()
    inner = slice(4_800, -4_800)
    assert np.abs(ours[: len(theirs)] - theirs)[inner].max() < 1e-4
