"""Floors, ceilings, the model's two parts, folders of estimates, and Demucs by a fake package."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from mge_plugin.config import ConfigError
from mge_plugin.data.audio import write_wav
from mge_plugin.evaluation.run import consistency, score
from mge_plugin.evaluation.segments import Estimate, segment_seed
from mge_plugin.evaluation.systems import (
    Demucs,
    Estimates,
    Mixture,
    Model,
    RatioMask,
    RoundTrip,
    Silence,
    open_demucs,
)
from mge_plugin.inference.request import Finish, Sampling
from mge_plugin.prompts import TrackPrompt
from mge_plugin.tracks import Track
from tests.inference.conftest import RATE


def test_floors_are_what_they_say_and_an_oracle_beats_them(excerpt):
    (silence,), (mixture,) = Silence().estimate([excerpt]), Mixture().estimate([excerpt])
    assert not silence.audio.any()
    np.testing.assert_array_equal(mixture.audio, excerpt.mixture)
    (masked,) = RatioMask().estimate([excerpt])
    assert score(excerpt, masked)["si_sdr"] > score(excerpt, mixture)["si_sdr"] + 3


def test_seeds_differ_by_segment_and_by_seed():
    assert segment_seed("a", 0) == segment_seed("a", 0)
    assert len({segment_seed(i, s) for i in "abc" for s in range(3)}) == 9


def test_the_papers_sampling():
    sampling = Sampling.paper()
    assert (sampling.steps, sampling.cfg_scale, sampling.sampler) == (250, 2.0, "ddim")


def test_no_excerpts_are_no_estimates(pipeline):
    assert Model(pipeline, Sampling(2)).estimate([]) == []


def test_without_prompts_the_mixture_is_unconditional(excerpt, pipeline):
    generate = replace(excerpt, segment=replace(excerpt.segment, task="generate"))
    prompts = [
        Model(pipeline, Sampling(2), unconditional)._request(generate).prompts
        for unconditional in (False, True)
    ]
    assert [p[0].get(Track.MIXTURE) for p in prompts] == [
        TrackPrompt("The sound of the bass"),
        None,
    ]


# Mixture consistency


def test_consistency_is_the_level_of_what_the_parts_leave_over(excerpt):
    source, rest = excerpt.truth, excerpt.mixture - excerpt.truth
    assert consistency(excerpt.mixture, source, rest) < -100
    assert consistency(excerpt.mixture, source, 0.9 * excerpt.mixture - source) == (
        pytest.approx(-20)
    )
    assert consistency(excerpt.mixture, 0 * source, 0 * rest) == pytest.approx(0)


def test_the_models_rest_is_the_submixture_that_it_made(excerpt, pipeline, monkeypatch):
    """Not the residual, which is the mixture without the source and always consistent."""
    parts = [excerpt.mixture, excerpt.mixture - excerpt.truth, excerpt.truth]
    latents = torch.stack([pipeline.encode(track) for track in parts])
    monkeypatch.setattr(pipeline, "_denoise", lambda *_: torch.stack([0 * latents, latents]))
    _, made = Model(pipeline, Sampling(2)).estimate([excerpt, excerpt])
    (ceiling,) = RoundTrip(pipeline).estimate([excerpt])
    np.testing.assert_allclose(made.audio, ceiling.audio, atol=1e-6)
    np.testing.assert_allclose(made.rest, ceiling.rest, atol=1e-6)
    assert abs(made.rest - (excerpt.mixture - made.audio)).max() > 0.01


def test_the_rest_is_of_the_candidate_that_was_chosen(excerpt, pipeline, monkeypatch):
    kept, best = [], pipeline._best

    def spy(task, song, prompt, rows, callback):
        kept.append(rows)
        return best(task, song, prompt, rows, callback)

    monkeypatch.setattr(pipeline, "_best", spy)
    model = Model(pipeline, Sampling(2, candidates=3))
    for estimate, rows in zip(model.estimate([excerpt, excerpt]), kept, strict=True):
        pairs = [
            [pipeline.decode(row[t], 8000) for t in (Track.SOURCE, Track.SUBMIXTURE)]
            for row in rows
        ]
        (rest,) = [u for s, u in pairs if np.allclose(s, estimate.audio, atol=1e-6)]
        np.testing.assert_allclose(estimate.rest, rest, atol=1e-6)


def test_the_rest_is_silent_where_the_mixture_is(excerpt, pipeline):
    mixture = excerpt.mixture.copy()
    mixture[:, 3000:] = 0
    (made,) = Model(pipeline, Sampling(2)).estimate(
        [replace(excerpt, given=mixture, mixture=mixture)]
    )
    assert made.rest[:, :3000].any() and not made.rest[:, 3000:].any()


def test_only_what_makes_both_parts_unchanged_has_a_rest(excerpt, pipeline):
    changed = [{"refine": "mask"}, {"refine": "auto"}, {"gate": True}]
    models = [
        Model(pipeline, Sampling(2), finish=Finish(**{"refine": "none", "gate": False} | options))
        for options in changed
    ]
    for system in (Mixture(), RatioMask(), *models):
        assert system.estimate([excerpt])[0].rest is None
    adding = replace(excerpt, segment=replace(excerpt.segment, task="add"))
    for system in (Model(pipeline, Sampling(2)), RoundTrip(pipeline)):
        assert system.estimate([adding])[0].rest is None


# Folders of estimates


def test_estimates_of_any_rate_are_read_and_missing_ones_are_named(excerpt, tmp_path):
    write_wav(tmp_path / "extract/x/bass/0000.wav", np.ones((2, 22050), np.float32), 44100)
    (found,) = Estimates(tmp_path).estimate([excerpt])
    assert found.audio.shape == (1, 8000)
    other = replace(excerpt, segment=replace(excerpt.segment, id="extract/x/bass/0001"))
    with pytest.raises(ValueError, match="0001"):
        Estimates(tmp_path).estimate([other])


def test_an_estimate_with_nan_is_an_error_that_names_the_file(excerpt, tmp_path):
    broken = np.full((1, 8000), np.nan, np.float32)
    write_wav(tmp_path / "extract/x/bass/0000.wav", broken, RATE)
    with pytest.raises(ValueError, match=r"0000\.wav"):
        Estimates(tmp_path).estimate([excerpt])


def test_stems_of_a_system_are_summed_by_a_label_map(excerpt, tmp_path):
    for i, stem in enumerate(("bass", "sub_bass", "piano")):
        path = tmp_path / f"extract/x/bass/0000/{stem}.wav"
        write_wav(path, np.full((1, 8000), 0.1 * (i + 1), np.float32), RATE)
    assert Estimates(tmp_path).estimate([excerpt])[0].audio.mean() == pytest.approx(0.1)
    (tmp_path / "labels.json").write_text('{"bass": ["bass", "sub_bass"]}')
    assert Estimates(tmp_path).estimate([excerpt])[0].audio.mean() == pytest.approx(0.3)
    guitar = replace(excerpt, segment=replace(excerpt.segment, wanted=("guitar",)))
    with pytest.raises(ValueError, match="guitar"):
        Estimates(tmp_path).estimate([guitar])
    (tmp_path / "labels.json").write_text('{"bass": "bass"}')
    with pytest.raises(ConfigError, match=r"labels\.json: bass"):
        Estimates(tmp_path)


# Demucs

SHARES = {"drums": 0.1, "bass": 0.6, "other": 0.2, "vocals": 0.1}  # of the mixture


def fake_model(rate=RATE, channels=1):
    return SimpleNamespace(sources=list(SHARES), samplerate=rate, audio_channels=channels)


def fake_apply(model, mix, shifts, device):
    """Each source is a share of the mixture: (item, source, channel, samples)."""
    assert mix.shape[1] == model.audio_channels and (shifts, device) == (0, "cpu")
    return torch.stack([SHARES[name] * mix for name in model.sources], dim=1)


@pytest.fixture
def package(monkeypatch):
    """A fake `demucs`: calls of `get_model` are in its `calls`, what it raises in `fails`."""
    names = ("demucs", "demucs.apply", "demucs.pretrained")
    demucs, apply, pretrained = modules = [ModuleType(name) for name in names]
    demucs.calls, demucs.fails, apply.apply_model = [], None, fake_apply

    def get_model(name, repo=None):
        demucs.calls.append((name, repo))
        if demucs.fails is not None:
            raise demucs.fails
        return fake_model()

    pretrained.get_model = get_model
    for name, module in zip(names, modules, strict=True):
        monkeypatch.setitem(sys.modules, name, module)
    return demucs


@pytest.fixture
def tone(excerpt):
    """Survives resampling, and its mean, which Demucs adds to every source, is 0."""
    mixture = np.sin(2 * np.pi * 440 * np.arange(8000) / RATE, dtype=np.float32)[None]
    return replace(excerpt, mixture=mixture)


@pytest.mark.parametrize(("rate", "channels"), [(RATE, 1), (44100, 2)])
def test_the_target_source_and_the_sum_of_the_others(tone, rate, channels):
    """Applied at its own rate and channels, returned in the segment's."""
    (made,) = Demucs(fake_model(rate, channels), fake_apply, "htdemucs", "cpu").estimate([tone])
    inside = slice(500, -500)
    for part, share in ((made.audio, 0.6), (made.rest, 0.4)):
        expected = share * tone.mixture[:, inside]
        np.testing.assert_allclose(part[:, inside], expected, atol=1e-3)
        assert part.shape == tone.mixture.shape and part.dtype == np.float32


def test_it_works_at_one_level_and_silence_stays_silence(excerpt):
    levels = []

    def apply(model, mix, **options):
        levels.append(float(mix.std()))
        return fake_apply(model, mix, **options)

    demucs = Demucs(fake_model(), apply, "htdemucs", "cpu")
    quiet = replace(excerpt, mixture=excerpt.mixture / 100)
    silent = replace(excerpt, mixture=0 * excerpt.mixture)
    made = demucs.estimate([excerpt, quiet, silent])
    assert levels == pytest.approx([1, 1, 0], abs=1e-3)
    np.testing.assert_allclose(made[1].audio, made[0].audio / 100, atol=1e-5)
    assert not made[2].audio.any() and not made[2].rest.any()


def test_a_label_that_it_does_not_separate_is_named_before_any_work(excerpt):
    guitar = replace(excerpt, segment=replace(excerpt.segment, wanted=("guitar",)))
    with pytest.raises(ValueError, match="guitar"):
        Demucs(fake_model(), None, "htdemucs", "cpu").estimate([excerpt, guitar])


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["955717e8-8726e21a.th"], "955717e8"),
        (["mine.th"], "mine"),
        (["htdemucs.yaml", "955717e8-8726e21a.th"], "htdemucs"),
        (["bag.yaml", "a-1.th", "b-2.th"], "bag"),
        ([], None),
        (["htdemucs.yaml"], None),
        (["a-1.th", "b-2.th"], None),
    ],
)
def test_a_folder_names_its_only_model(package, tmp_path, files, name):
    for file in files:
        (tmp_path / file).touch()
    if name is None:
        with pytest.raises(ConfigError, match=str(tmp_path)):
            open_demucs(str(tmp_path), "cpu")
    else:
        assert open_demucs(str(tmp_path), "cpu").title == name
        assert package.calls == [(name, tmp_path)]


def test_a_model_is_found_by_name_or_by_folder_and_name(package, tmp_path):
    for where in ("htdemucs", "hf://somebody/model", str(tmp_path / "mine")):
        open_demucs(where, "cpu")
    expected = [("htdemucs", None), ("hf://somebody/model", None), ("mine", tmp_path)]
    assert package.calls == expected
    with pytest.raises(ConfigError, match="absent"):
        open_demucs(str(Path("absent", "htdemucs")), "cpu")


@pytest.mark.usefixtures("package")
def test_other_weights_of_one_name_have_another_key(tmp_path):
    keys = set()
    for content in (b"one", b"other", b"other"):
        (tmp_path / "mine.th").write_bytes(content)
        keys.add(open_demucs(str(tmp_path), "cpu").key)
    assert len(keys) == 2
    assert open_demucs("htdemucs", "cpu").key == "htdemucs"


@pytest.mark.parametrize(
    "failure", [RuntimeError("bad sum"), OSError("offline"), EOFError(), SystemExit(1)]
)
def test_weights_that_cannot_be_opened_are_one_error(package, failure):
    package.fails = failure
    with pytest.raises(ConfigError, match="htdemucs"):
        open_demucs("htdemucs", "cpu")


def test_without_the_package_the_command_is_named(monkeypatch):
    for name in ("demucs", "demucs.apply", "demucs.pretrained"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match="pip install demucs"):
        open_demucs("htdemucs", "cpu")


@pytest.mark.usefixtures("package")
def test_labels_that_demucs_lacks_are_counted(evaluate, tmp_path):
    options = ["--segments", 2, "--demucs", "htdemucs"]
    code, _, err = evaluate("extract", *options, labels=("bass", "piano"))
    assert code == 0, err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    cells = summary["means"]["log_mel_l1"]["demucs"]
    assert cells["bass"]["count"] == 2 and cells["bass"]["failed"] == 0
    assert cells["piano"]["count"] == 0 and cells["piano"]["failed"] > 0
    assert summary["means"]["mixture_consistency_db"]["demucs"]["bass"]["count"] == 2
    assert "htdemucs" in summary["facts"]["Demucs"]
    code, _, err = evaluate("extract", *options, "--estimates", tmp_path / "demucs")
    assert code == 1 and "demucs" in err.splitlines()[-1], "two systems of one name"


def test_an_estimate_is_scored_with_its_rest_or_without(excerpt):
    both = score(excerpt, Estimate(excerpt.truth, excerpt.mixture - excerpt.truth))
    assert both["mixture_consistency_db"] < -100
    assert "mixture_consistency_db" not in score(excerpt, Estimate(excerpt.truth))
