import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from mge_plugin.config import ConfigError
from mge_plugin.evaluation.run import Scored
from mge_plugin.evaluation.segments import Segment
from mge_plugin.evaluation.systems import Model
from mge_plugin.models.mge import create_mge_model
from mge_plugin.training.wrapper import training_config
from minislakh import write_corpus
from tests.cli.conftest import make_config

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def ablations(monkeypatch):
    """The benchmark's module; it logs as before after the test."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.delitem(sys.modules, "ablations", raising=False)
    monkeypatch.setattr("logging.disable", lambda level: None)
    return importlib.import_module("ablations")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset config of six songs."""
    root = write_corpus(tmp_path_factory.mktemp("corpus") / "mini", 6, 8.0, 1, progress=False)
    entry = {"id": "mini", "path": str(root), "split": "train"}
    path = root.with_suffix(".json")
    content = {"dataset_type": "mge_triplets", "index_cache": None, "datasets": [entry]}
    path.write_text(json.dumps(content))
    return path


def write_model(folder, config):
    """Untrained weights and their config."""
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(config))
    state = create_mge_model(config).state_dict()
    save_file(
        {name: tensor.clone() for name, tensor in state.items()}, folder / "model.safetensors"
    )


@pytest.fixture
def command(ablations, data, tmp_path):
    """Run a subcommand on two labels, a window each; its results lie in `out`."""

    def run(name, *options, segments=1):
        words = [name, "--dataset-config", data, "--out", tmp_path / "out", *options]
        words += ["--segments", segments, "--calls", 20, "--device", "cpu"]
        ablations.main([*map(str, words), "--label", "bass", "drums"])
        return json.loads((tmp_path / "out" / f"{name}.json").read_text())

    return run


def test_every_row_of_repaint_calls_the_network_equally_often(ablations):
    first, *rest = ablations.extractions(40)
    repaints = [s for s in rest if s.sampler == "repaint"]
    assert (first.sampler, first.steps) == ("ddim", 40)
    assert [s.resamplings for s in repaints] == [1, 2, 4, 10]
    assert {s.steps * s.resamplings for s in repaints} == {40}
    assert len(set(map(ablations.named, [first, *rest]))) == 1 + len(rest)


def test_calls_that_cannot_be_shared_out_are_refused(ablations, capsys):
    words = ["sampling", "--model", "m", "--dataset-config", "d", "--out", "o", "--calls", "50"]
    with pytest.raises(SystemExit):
        ablations.arguments(words)
    assert "--calls: not a multiple of 20: 50" in capsys.readouterr().err


def scored(values):
    segments = [
        Segment(f"{i}", "extract", "c", f"{i % 2}", 0, 8, 8000, ("bass",)) for i in range(9)
    ]
    return [Scored("s", s, {"log_mel_l1": v}) for s, v in zip(segments, values, strict=False)]


def test_rows_differ_window_by_window(ablations):
    values = np.arange(4.0)
    first, other = (
        ablations.Row(name, scored(values + more), 1.0) for name, more in (("a", 0.0), ("b", 0.5))
    )
    assert other.to(first) == "+0.50 [+0.50, +0.50]"
    assert first.to(first) == ""
    table = ablations.extraction_table([first, other])
    assert table.splitlines()[0].startswith("| 4 windows | bass | mean | to the first |")
    assert table.splitlines()[3].startswith("| b | 2.00 | 2.00 [")


def test_every_way_to_sample_is_judged_and_kept(command, tmp_path, monkeypatch, capsys):
    write_model(tmp_path / "model", make_config(4))
    found = command("sampling", "--model", tmp_path / "model", "--generated", 2)
    names = [row["name"] for row in found["extraction"]]
    assert "repaint, U = 10, 2 steps, guidance 2" in names
    assert "dpm-solver++, 20 steps, guidance 8" in names
    assert all(
        set(row["means"]["log_mel_l1"]) == {"bass", "drums", "Avg."} for row in found["extraction"]
    )
    fads = found["generation"]["FAD, mel"]
    assert [name.split(",")[0] for name in fads] == ["one stage"] * 2 + ["iterative", "round trip"]
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "out" / "sampling.md").read_text()

    monkeypatch.setattr(Model, "estimate", lambda self, heard: pytest.fail("it was there already"))
    assert command("sampling", "--model", tmp_path / "model", "--generated", 2) == found
    with pytest.raises(ConfigError, match="other windows than those asked for: take another --out"):
        command("sampling", "--model", tmp_path / "model", segments=2)


@pytest.fixture
def fitted(ablations, monkeypatch):
    """Variants that were trained; they are not, but written."""
    calls = []

    def fit(model_config, dataset_config, autoencoder, out, **options):
        calls.append((out.name.rsplit("_", 1)[0], model_config, dataset_config, options))
        write_model(out, model_config)

    monkeypatch.setattr(ablations, "fit_denoiser", fit)
    return calls


@pytest.fixture
def training(command, tmp_path):
    """Train variants for three steps."""
    config = make_config(4)
    options = {"max_lr": 1e-3, "total_steps": 99}
    scheduler = {"type": "OneCycleLR", "config": options}
    config["training"]["optimizer_configs"] = {"diffusion": {"scheduler": scheduler}}
    (tmp_path / "dit.json").write_text(json.dumps(config))
    (tmp_path / "latents.json").write_text('{"dataset_type": "mge_latents", "datasets": []}')
    files = ["--model-config", tmp_path / "dit.json", "--latents", tmp_path / "latents.json"]

    def run(*only):
        options = [*files, "--autoencoder", "ae.safetensors", "--steps", 3, "--only", *only]
        return [row["name"] for row in command("training", *options)["extraction"]]

    return run


def test_a_variant_changes_one_thing_and_is_trained_once(training, fitted):
    names = training("baseline", "absent-off", "layernorm", "absent-on")
    assert names == ["baseline", "absent-off (is baseline)", "layernorm", "absent-on"]
    assert [name for name, *_ in fitted] == ["baseline", "layernorm", "absent-on"]
    (_, model, data, options), (_, normed, same, _), (_, as_before, absent, _) = fitted
    assert model["training"]["pre_encoded"] and options["steps"] == 3
    scheduler = model["training"]["optimizer_configs"]["diffusion"]["scheduler"]
    assert scheduler["config"]["total_steps"] == 4
    assert normed["model"]["diffusion"]["config"]["norm_type"] == "layernorm"
    assert (same, as_before) == (data, model)
    assert (data["source"]["p_absent"], absent["source"]["p_absent"]) == (0.0, 0.1)
    assert training("baseline", "layernorm") == ["baseline", "layernorm"]
    assert len(fitted) == 3


def test_one_that_never_saw_a_given_track_is_judged_by_repaint(training, fitted):
    names = training("baseline", "non-adaptive")
    assert names == ["baseline", *(f"non-adaptive, U = {u}" for u in (1, 2, 4, 10))]
    patterns = training_config(fitted[1][1]).timesteps.patterns
    assert patterns.values() == (1, 0, 0, 0)
