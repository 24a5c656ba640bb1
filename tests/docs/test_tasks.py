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
    """The demo's song in the working directory, and a tiny model as the default one."""
    folder, weights = tmp_path / "demo", tmp_path / "tiny"
    for made in (folder, weights):
        made.mkdir(parents=True)
    (weights / "model.json").write_text(json.dumps(make_config(4) | {"sampling": {"steps": 2}}))
    torch.save(model.state_dict(), weights / "model.ckpt")
    sf.write(folder / "mixture.wav", noise(5 * RATE, 1).T, RATE)
    monkeypatch.setenv("MGE_MODEL", str(weights))
    monkeypatch.chdir(tmp_path)
    return folder


def test_there_is_an_example_of_every_task():
    assert {command[1] for command in COMMANDS} == set(TASKS)


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
    assert "bass" in capsys.readouterr().out
