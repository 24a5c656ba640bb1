"""Demucs as a system: by a fake package, without weights."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from mge_plugin.config import ConfigError
from mge_plugin.evaluation.systems import Demucs, open_demucs
from tests.inference.conftest import RATE

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # SAT's
SHARES = {"drums": 0.1, "bass": 0.6, "other": 0.2, "vocals": 0.1}  # of the mixture


def fake_model(rate=RATE, channels=1):
    return SimpleNamespace(sources=list(SHARES), samplerate=rate, audio_channels=channels)


def fake_apply(model, mix, shifts, device):
    """Each source is a share of the mixture: (item, source, channel, samples)."""
    assert mix.shape[1] == model.audio_channels and (shifts, device) == (0, "cpu")
    return torch.stack([SHARES[name] * mix for name in model.sources], dim=1)


@pytest.fixture
def package(monkeypatch):
    """A fake `demucs`; what `get_model` is asked is in its `asked`, what it raises in `fails`."""
    names = ("demucs", "demucs.apply", "demucs.pretrained")
    demucs, apply, pretrained = modules = [ModuleType(name) for name in names]
    demucs.asked, demucs.fails, apply.apply_model = [], None, fake_apply

    def get_model(name, repo=None):
        demucs.asked.append((name, repo))
        if demucs.fails is not None:
            raise demucs.fails
        return fake_model()

    pretrained.get_model = get_model
    for name, module in zip(names, modules, strict=True):
        monkeypatch.setitem(sys.modules, name, module)
    return demucs


@pytest.fixture
def tone(heard):
    """Of which nothing is lost in resampling, and whose mean, that Demucs adds to all, is 0."""
    mixture = np.sin(2 * np.pi * 440 * np.arange(8000) / RATE, dtype=np.float32)[None]
    return replace(heard, mixture=mixture)


def test_the_wanted_source_and_the_sum_of_the_others(tone):
    (made,) = Demucs(fake_model(), fake_apply, "htdemucs", "cpu").estimate([tone])
    np.testing.assert_allclose(made.audio, 0.6 * tone.mixture, atol=1e-5)
    np.testing.assert_allclose(made.rest, 0.4 * tone.mixture, atol=1e-5)
    assert made.audio.dtype == made.rest.dtype == np.float32


def test_it_hears_at_its_own_rate_and_answers_at_the_segments(tone):
    (made,) = Demucs(fake_model(44100, 2), fake_apply, "htdemucs", "cpu").estimate([tone])
    inside = slice(500, -500)
    np.testing.assert_allclose(made.audio[:, inside], 0.6 * tone.mixture[:, inside], atol=1e-3)
    assert made.audio.shape == made.rest.shape == tone.mixture.shape


def test_it_works_at_one_level_and_silence_stays_silence(heard):
    levels = []

    def apply(model, mix, **options):
        levels.append(float(mix.std()))
        return fake_apply(model, mix, **options)

    demucs = Demucs(fake_model(), apply, "htdemucs", "cpu")
    quiet = replace(heard, mixture=heard.mixture / 100)
    silent = replace(heard, mixture=0 * heard.mixture)
    made = demucs.estimate([heard, quiet, silent])
    assert levels == pytest.approx([1, 1, 0], abs=1e-3)
    np.testing.assert_allclose(made[1].audio, made[0].audio / 100, atol=1e-5)
    assert not made[2].audio.any() and not made[2].rest.any()


def test_a_label_that_it_does_not_know_is_told_before_any_work(heard):
    demucs = Demucs(fake_model(), None, "htdemucs", "cpu")
    guitar = replace(heard, segment=replace(heard.segment, wanted=("guitar",)))
    wrong = "htdemucs separates drums, bass, other, vocals, not guitar"
    with pytest.raises(ValueError, match=wrong):
        demucs.estimate([heard, guitar])


def touch(folder, *names):
    for name in names:
        (folder / name).touch()


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["955717e8-8726e21a.th"], "955717e8"),
        (["mine.th"], "mine"),
        (["htdemucs.yaml", "955717e8-8726e21a.th"], "htdemucs"),
        (["bag.yaml", "a-1.th", "b-2.th"], "bag"),
    ],
)
def test_a_folder_names_its_only_model(package, tmp_path, files, name):
    touch(tmp_path, *files)
    demucs = open_demucs(str(tmp_path), "cpu")
    assert package.asked == [(name, tmp_path)]
    assert demucs.title == name and demucs.sources == list(SHARES)


@pytest.mark.usefixtures("package")
def test_other_weights_of_one_name_have_another_key(tmp_path):
    keys = set()
    for content in (b"one", b"other", b"other"):
        (tmp_path / "mine.th").write_bytes(content)
        keys.add(open_demucs(str(tmp_path), "cpu").key)
    assert len(keys) == 2
    assert open_demucs("htdemucs", "cpu").key == "htdemucs"


def test_a_model_is_known_by_name_or_by_folder_and_name(package, tmp_path):
    for where in ("htdemucs", "hf://somebody/model", str(tmp_path / "mine")):
        open_demucs(where, "cpu")
    wanted = [("htdemucs", None), ("hf://somebody/model", None), ("mine", tmp_path)]
    assert package.asked == wanted


@pytest.mark.parametrize(
    ("files", "wrong"),
    [
        ([], r"no weights, expected .th files \(and a .yaml of them\)"),
        (["htdemucs.yaml"], "no weights, expected .th files"),
        (["a-1.th", "b-2.th"], "expected one model, found a, b; say which: .*a$"),
    ],
)
@pytest.mark.usefixtures("package")
def test_a_folder_without_one_model_is_told(tmp_path, files, wrong):
    touch(tmp_path, *files)
    with pytest.raises(ConfigError, match=wrong):
        open_demucs(str(tmp_path), "cpu")


@pytest.mark.usefixtures("package")
def test_a_folder_that_is_not_there_is_told():
    absent = Path("absent", "htdemucs")
    with pytest.raises(ConfigError) as told:
        open_demucs(str(absent), "cpu")
    assert str(told.value) == f"demucs {absent}: no such folder, nor absent"


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (RuntimeError("Invalid checksum for file a.th"), "Invalid checksum for file a.th"),
        (OSError("no network"), "no network"),
        (EOFError(), "EOFError"),
        (SystemExit(1), "it gave up, for the reason above"),
    ],
)
def test_weights_that_are_missing_or_broken_are_told_with_the_remedy(package, failure, reason):
    package.fails = failure
    with pytest.raises(ConfigError) as told:
        open_demucs("htdemucs", "cpu")
    message = str(told.value)
    assert message.startswith(f"demucs htdemucs: its weights cannot be opened ({reason}); needed")
    assert "fetches by itself when online" in message and "a folder with the .th file" in message


def test_without_the_package_one_sentence_says_how_to_get_it(evaluate, monkeypatch):
    for name in ("demucs", "demucs.apply", "demucs.pretrained"):
        monkeypatch.setitem(sys.modules, name, None)
    code, _, err = evaluate("extract", "--demucs", "htdemucs")
    assert code == 1 and "demucs: the package cannot be imported" in err.splitlines()[-1]
    assert err.splitlines()[-1].endswith("pip install demucs")


@pytest.mark.usefixtures("package")
def test_it_is_judged_on_what_it_separates_and_the_rest_is_counted(evaluate, tmp_path):
    options = ["--segments", 2, "--demucs", "htdemucs"]
    code, _, err = evaluate("extract", *options, labels=("bass", "piano"))
    assert code == 0, err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    cells = summary["means"]["log_mel_l1"]["demucs"]
    assert cells["bass"]["count"] == 2 and cells["bass"]["failed"] == 0
    assert cells["piano"]["count"] == 0 and cells["piano"]["failed"] > 0
    assert summary["means"]["mixture_consistency_db"]["demucs"]["bass"]["count"] == 2
    told = "htdemucs, of drums, bass, other, vocals; its averages are of these"
    assert summary["facts"]["Demucs"] == told
    page = (tmp_path / "out" / "index.html").read_text()
    assert "htdemucs separates drums, bass, other, vocals, not piano" in page


@pytest.mark.usefixtures("package")
def test_two_systems_of_one_name_are_refused(evaluate, tmp_path):
    options = ["--demucs", "htdemucs", "--estimates", tmp_path / "demucs"]
    code, _, err = evaluate("extract", "--segments", 2, *options)
    assert code == 1
    wrong = "estimates: every folder needs a name of its own, found ['demucs'] twice"
    assert wrong in err.splitlines()[-1]


def test_it_only_extracts(evaluate):
    code, _, err = evaluate("add", "--demucs", "htdemucs")
    assert code == 1
    assert "demucs: it can only extract, found task 'add'" in err.splitlines()[-1]
