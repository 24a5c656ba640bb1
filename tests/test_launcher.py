"""`python -m mge_plugin SCRIPT`: alone, under Lightning DDP and under torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mge_plugin.launcher import _LAUNCH_VARIABLE, _SCRIPTS_VARIABLE, _check_weights, _Launch
from mge_plugin.scripts import _training_options
from tests.processes import run, run_mge, run_module, run_ranks

SHOW = """
import json, os, sys, __main__
if __name__ == "__main__":
    import mge_plugin.registry as registry
    import stable_audio_tools.models.factory
    print(json.dumps({
        "argv": sys.argv, "file": __file__, "path0": sys.path[0], "spec": __main__.__spec__.name,
        "in": registry.installed(),
    }))
"""

# What SAT's train.py does, as small as it can be: it asks for a GPU and starts two ranks.
TRAIN = """
import json, os, sys
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset
from stable_audio_tools.models import create_model_from_config
from mge_plugin import registry

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
    def training_step(self, batch, index):
        return self.layer(batch[0]).mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

if __name__ == "__main__":
    out = sys.argv[1]
    trainer = pl.Trainer(
        accelerator="gpu", devices="auto", strategy="ddp", max_steps=2, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, default_root_dir=out,
    )
    trainer.fit(Module(), DataLoader(TensorDataset(torch.ones(8, 1)), 2))
    state = {
        "registered": hasattr(create_model_from_config, registry._MARK),
        "ranks": trainer.world_size,
        "argv": sys.argv[1:],
    }
    with open(os.path.join(out, f"rank{trainer.global_rank}.json"), "w") as file:
        json.dump(state, file)
"""


def run_python(*command: str, cwd: Path) -> subprocess.CompletedProcess:
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {k: v for k, v in os.environ.items() if k != _LAUNCH_VARIABLE}
    environment |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "mge_plugin", *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture
def show(tmp_path):
    folder = tmp_path / "a clone"
    folder.mkdir()
    script = folder / "show.py"
    script.write_text(SHOW)
    return script


def test_the_script_sees_what_python_would_show_it(show, tmp_path):
    done = run_python(str(show), "--flag", "a b", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    seen = json.loads(line)
    assert seen["argv"] == [str(show), "--flag", "a b"]
    assert seen["file"] == str(show)
    assert seen["path0"] == str(show.parent)
    assert seen["spec"] == "mge_plugin.__main__"
    assert seen["in"]["create_model_from_config"]
    assert all(seen["in"].values())


def test_mge_run_is_the_same(show, tmp_path):
    assert run(run_mge, "run", str(show), "--flag", output=tmp_path / "log") == 0
    shown = (tmp_path / "log").read_text().splitlines()[-1]
    assert json.loads(shown)["argv"] == [str(show), "--flag"]


@pytest.mark.parametrize("name", ["train.py", "unwrap_model.py", "run_gradio.py"])
def test_without_a_clone_our_own_script_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(_SCRIPTS_VARIABLE, raising=False)
    assert run(run_module, "mge_plugin", name, "--help", output=tmp_path / "log") == 0
    assert f"usage: {name} " in (tmp_path / "log").read_text()


def check_two_ranks(out: Path) -> None:
    states = [json.loads((out / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert states == [{"registered": True, "ranks": 2, "argv": [str(out), "--flag"]}] * 2


@pytest.mark.slow
def test_both_ranks_of_lightning_ddp_are_registered(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    done = run_python("--cpu=2", str(script), str(tmp_path), "--flag", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_two_ranks(tmp_path)


@pytest.mark.slow
def test_both_ranks_of_torchrun_are_registered(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    plugin = ("mge_plugin", "--cpu=2", str(script), str(tmp_path), "--flag")
    run_ranks(2, run_module, *plugin, output=tmp_path / "log")
    check_two_ranks(tmp_path)


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "usage: python -m mge_plugin"),
        (["missing.py"], "missing.py"),
        (["--gpu", "x.py"], "--gpu"),
        (["--cpu=0", "x.py"], "--cpu=0"),
        (["--cpu=two", "x.py"], "--cpu=two"),
        (["--cpu"], "usage: python -m mge_plugin"),
    ],
)
def test_a_wrong_command_line_is_one_message(argv, named):
    with pytest.raises(SystemExit, match=named):
        _Launch.parse(argv)


def test_help_is_printed_with_exit_code_0(capsys):
    with pytest.raises(SystemExit) as stopped:
        _Launch.parse(["--cpu", "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m mge_plugin")


def test_a_script_is_found_in_the_folder_of_the_variable_or_is_ours(show, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(_SCRIPTS_VARIABLE, raising=False)
    assert _Launch.parse(["train.py", "--name", "x"]) == _Launch("train.py", ("--name", "x"))
    monkeypatch.setenv(_SCRIPTS_VARIABLE, str(show.parent))
    assert _Launch.parse(["show.py"]).script == str(show)
    monkeypatch.chdir(show.parent)
    assert _Launch.parse(["show.py"]).script == str(show)


def test_our_train_script_takes_defaults_from_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ["--model-config", "m.json", "--dataset-config", "d.json"]
    assert _training_options(line).batch_size == 4
    (tmp_path / "defaults.ini").write_text("[DEFAULTS]\nbatch_size = 7\nlogger = 'none'\n")
    options = _training_options([*line, "--seed", "3"])
    assert (options.batch_size, options.logger, options.seed) == (7, "none", 3)


class _Malicious:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    good, bad = tmp_path / "good.ckpt", tmp_path / "bad.ckpt"
    torch.save({"state_dict": {"x": torch.zeros(1)}}, good)
    torch.save({"state_dict": {"x": torch.zeros(1)}, "callbacks": _Malicious()}, bad)
    _check_weights(["--ckpt-path", str(good)])
    for arguments in (["--ckpt-path", str(bad)], [f"--ckpt-path={bad}"]):
        with pytest.raises(SystemExit, match=r"bad\.ckpt.*system"):
            _check_weights(arguments)
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"


def test_only_a_rank_with_the_same_arguments_inherits_the_launch(show, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    launch = _Launch.parse(["--cpu=2", str(show), "--a", "1"])
    monkeypatch.setenv(_LAUNCH_VARIABLE, "")
    launch.export()
    assert _Launch.inherited(["--a", "1"]) is None  # no rank
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert _Launch.inherited(["--a", "2"]) is None  # another command
    assert _Launch.inherited(["--a", "1"]) == launch
