"""A corpus, an excerpt of noise, and `mge evaluate` on a tiny model with random weights."""

import json

import numpy as np
import pytest
import torch

from mge_plugin import cli
from mge_plugin.data.corpora.index import read_corpus
from mge_plugin.data.corpora.reader import CorpusConfig
from mge_plugin.evaluation.segments import Excerpt, Segment
from mge_plugin.models.mge import create_mge_model
from minislakh import write_corpus
from tests.cli.conftest import make_config
from tests.inference.conftest import RATE
from tests.inference.conftest import model as model  # fixtures
from tests.inference.conftest import pipeline as pipeline


@pytest.fixture(scope="package")
def corpus(tmp_path_factory):
    """Six songs of which one lacks the piano."""
    root = write_corpus(tmp_path_factory.mktemp("corpus") / "mini", 6, 8.0, 1, progress=False)
    return read_corpus(CorpusConfig("mini", str(root), split="train"))


@pytest.fixture
def evaluate(model, corpus, tmp_path, monkeypatch, capsys):
    """Run the command in a folder with its input: (exit code, stdout, stderr)."""
    (tmp_path / "model.json").write_text(json.dumps(make_config(4)))
    torch.save(model.state_dict(), tmp_path / "model.ckpt")
    entry = {"id": "mini", "path": corpus.config.path, "split": "train"}
    data = {"dataset_type": "mge_triplets", "index_cache": None, "datasets": [entry]}
    (tmp_path / "data.json").write_text(json.dumps(data))

    def run(task, *options, out="out", labels=("bass", "drums")):
        line = ["mge", "evaluate", "--task", task, "--device", "cpu", "--steps", "2"]
        for name, value in (("model-config", "model.json"), ("ckpt", "model.ckpt")):
            line += [f"--{name}", tmp_path / value]
        line += ["--dataset-config", tmp_path / "data.json", "--out", tmp_path / out]
        line += [x for label in labels for x in ("--label", label)]
        monkeypatch.setattr("sys.argv", [*map(str, line), *map(str, options)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def excerpt():
    rng = np.random.default_rng(0)
    rest, truth = rng.uniform(-0.3, 0.3, (2, 1, 8000)).astype(np.float32)
    segment = Segment("extract/x/bass/0000", "extract", "x", "s", 0, 8000, RATE, ("bass",))
    return Excerpt(segment, rest + truth, rest + truth, truth)


@pytest.fixture
def embedder(evaluate, tmp_path):
    """Give the command's model a conditioner that supports audio."""
    config = make_config(4)
    options = {"channels": 8, "bands": 16, "words": 64}
    entry = {"id": "prompt", "type": "mge_text_audio", "config": options}
    config["model"]["conditioning"]["configs"] = [entry]
    torch.manual_seed(0)
    (tmp_path / "model.json").write_text(json.dumps(config))
    torch.save(create_mge_model(config).state_dict(), tmp_path / "model.ckpt")
