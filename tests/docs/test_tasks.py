"""docs/tasks.md: every command and the Python runs as written, here on a tiny model."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import soundfile as sf
import torch

from mge_plugin import cli
from mge_plugin.tracks import TASKS
from tests.cli.conftest import make_config
from tests.inference.conftest import RATE
from tests.inference.conftest import model as model  # a fixture
from tests.inference.conftest import noise as noise  # a fixture

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # SAT's
TEXT = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)


COMMANDS = [
    shlex.split(line)
    for block in blocks("sh")
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("mge ")
]


@pytest.fixture
def demo(model, noise, tmp_path, monkeypatch):
    """What `make demo` leaves in the working directory, and weights where the project has them."""
    folder, weights = tmp_path / "demo", tmp_path / "weights" / "minislakh"
    for made in (folder, weights):
        made.mkdir(parents=True)
    (weights / "model.json").write_text(json.dumps(make_config(4)))
    torch.save(model.state_dict(), weights / "model.safetensors")
    sf.write(folder / "mixture.wav", noise(5 * RATE, 1).T, RATE)
    monkeypatch.chdir(tmp_path)
    return folder


def test_there_is_an_example_of_every_task():
    assert {command[1] for command in COMMANDS} == {*TASKS, "replace"}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[1])
def test_a_command_runs_as_written(demo, command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0, capsys.readouterr().err
    made = list((demo / "tasks").glob("*.wav"))
    assert made and len(list((demo / "tasks").glob("*.json"))) == 1


def test_the_python_runs_as_written(demo, capsys):
    (code,) = blocks("python")
    exec(compile(code, "docs/tasks.md", "exec"), {})
    assert "source_1" in capsys.readouterr().out
