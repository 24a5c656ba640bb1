from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

from mge_plugin.inference.pipeline import Pipeline, pick
from mge_plugin.inference.request import Request, Sampling, refines


class Silent(nn.Module):
    """A model that is never asked for audio."""

    pretransform = SimpleNamespace(downsampling_ratio=4)
    sample_rate = 8


@pytest.fixture
def pipeline():
    return Pipeline(Silent(), sample_size=32, channels=1, device="cpu")


@pytest.mark.parametrize(
    ("seconds", "windows"), [(None, 1), (0.01, 1), (4, 1), (4.25, 2), (7, 2), (10, 3), (10.25, 4)]
)
def test_a_progress_bar_counts_steps_and_one_after_another_those_of_every_window(
    pipeline, seconds, windows
):
    request = Request("generate", seconds=seconds)
    assert pipeline.steps([request], Sampling(steps=5)) == 5
    assert pipeline.steps([request], Sampling(steps=5, long_form="sequential")) == 5 * windows


def test_a_progress_bar_counts_the_rounds_of_tasks_in_order(pipeline):
    requests = [Request("compose", prompts, seconds=1) for prompts in (("a",), ("a", "b", "c"))]
    assert pipeline.steps(requests, Sampling(steps=5)) == 15


@pytest.mark.parametrize("prompt", ["", " \n", None])
def test_nothing_is_extracted_without_a_prompt(pipeline, prompt):
    with pytest.raises(ValueError, match="prompt: expected words"):
        pipeline.extract(np.zeros((1, 9), np.float32), 8, prompt)


@pytest.mark.parametrize(
    ("audio", "wrong"),
    [
        (np.zeros(9, np.float32), r"expected \(channels, samples\), found shape \(9,\)"),
        (np.zeros((1, 0), np.float32), r"expected \(channels, samples\), found shape \(1, 0\)"),
        (np.zeros((1, 9)), "expected float32 samples, found float64"),
        (np.zeros((1, 9), np.int16), "expected float32 samples, found int16"),
        (np.full((1, 9), np.inf, np.float32), "NaN or infinite"),
    ],
)
def test_audio_that_cannot_be_a_mixture_is_refused(pipeline, audio, wrong):
    with pytest.raises(ValueError, match=wrong):
        pipeline.extract(audio, 8, "bass")


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"steps": 0}, "steps: expected 1 or more, found 0"),
        ({"window_batch": 0}, "window_batch: expected 1 or more, found 0"),
        ({"cfg_scale": float("inf")}, "cfg_scale: expected a finite number, found inf"),
        ({"seed": -1}, "seed: expected 0 to"),
        ({"refine": "yes"}, "refine: expected one of auto, mask, none, found 'yes'"),
        ({"schedule": "cosine"}, "schedule: expected one of linear, log-snr, found 'cosine'"),
        ({"long_form": "x"}, "long_form: expected one of joint, sequential, found 'x'"),
        ({"candidates": 0}, "candidates: expected 1 or more, found 0"),
        ({"resamplings": 0}, "resamplings: expected 1 or more, found 0"),
        ({"eta": 1.5}, "eta: expected 0 to 1, found 1.5"),
        ({"gate_threshold": -1}, "gate_threshold: expected 0 to 1, found -1"),
        ({"cfg_scale": (1.0, 2.0)}, "cfg_scale: expected one number or those of mixture, sub"),
        ({"cfg_scale": (1.0, 2.0, float("nan"))}, "cfg_scale: expected a finite number"),
        ({"cfg_interval": (0.5, 0.2)}, "cfg_interval: expected two rising shares from 0 to 1"),
    ],
)
def test_a_sampling_that_cannot_be_is_refused(options, wrong):
    with pytest.raises(ValueError, match=wrong):
        Sampling(**options)


@pytest.mark.parametrize(
    ("refine", "rate", "channels", "expected"),
    [
        ("auto", 16000, 1, False),
        ("auto", 8000, 1, False),
        ("auto", 44100, 1, True),
        ("auto", 16000, 2, True),
        ("mask", 16000, 1, True),
        ("none", 44100, 2, False),
    ],
)
def test_a_song_with_more_than_the_model_has_is_refined(refine, rate, channels, expected):
    assert refines(Sampling(refine=refine), rate, channels, (16000, 1)) == expected


def test_a_device_is_one_that_is_here():
    assert pick("cpu") == "cpu"
    assert pick(pick("auto")) == pick("auto")
    with pytest.raises(ValueError, match=r"device: expected auto or one of .*cpu, found 'cuda:99'"):
        pick("cuda:99")
