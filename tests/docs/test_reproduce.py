"""docs/reproduce.md: its shell blocks run as written; their commands run at toy size."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from mge_plugin import cli, registry, scripts
from minislakh import write_corpus
from tests.cli.conftest import make_config

ROOT = Path(__file__).parents[2]
# Prints the commands in place of running them; all else (sed, loops) runs.
RECORDER = """
mge() { printf '%q ' mge "$@"; echo; }
python() { printf '%q ' python "$@"; echo; }
"""
TOY = {"--batch-size": "2", "--precision": "32", "--max-steps": "1", "--segments": "2"}


def recorded(page, folder):
    """The commands of a page's shell blocks, which run in a folder but for the commands."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)
    script = RECORDER + "\n".join(blocks)
    shell = subprocess.run(
        ["bash", "-euc", script], cwd=folder, capture_output=True, text=True, check=True
    )
    return [shlex.split(line) for line in shell.stdout.splitlines()]


def configs(folder):
    """Copy the shipped configs into a folder."""
    for name in ("model_configs", "dataset_configs"):
        shutil.copytree(ROOT / name, folder / name)


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """A folder with the shipped configs and what the blocks made of them; all commands in it."""
    folder = tmp_path_factory.mktemp("reproduce")
    configs(folder)
    return folder, recorded("reproduce.md", folder)


def option(command, name):
    return command[command.index(name) + 1]


def test_every_table_and_run_of_the_paper_has_its_command(commands):
    folder, lines = commands
    outs = " ".join(option(line, "--out") for line in lines if "evaluate" in line)
    assert {f"table{n}" for n in (1, 2, 3, 5, 6, 7, 8)} <= set(re.findall(r"table\d", outs))
    trained = {option(line, "--name"): line for line in lines if "train.py" in line}
    assert trained.keys() == {
        "vae",
        "t1",
        "t2",
        "t3",
        "t4",
        "nonadaptive",
        "layernorm",
        "dropout50",
    }
    assert option(trained["t4"], "--max-steps") == "320000"
    for line in lines:
        for name in ("--model-config", "--dataset-config"):
            if name in line:
                config = json.loads((folder / option(line, name)).read_text())
                latents = config.get("dataset_type") == "mge_latents"
                assert not latents or "train.py" in line
    for line in trained.values():
        model = json.loads((folder / option(line, "--model-config")).read_text())
        assert model["training"].get("pre_encoded", False) is (option(line, "--name") != "vae")
    for data in ("slakh", "slakh_sa", "musdb18", "moisesdb"):
        config = json.loads((folder / f"runs/configs/{data}_test.json").read_text())
        assert {entry["split"] for entry in config["datasets"]} == {"test"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's and SAT's
def test_the_commands_run_end_to_end_at_toy_size(commands, monkeypatch, capsys):
    """The autoencoder, T1 and T1's tables, each kind of table once."""
    folder, lines = commands
    monkeypatch.chdir(folder)
    _shrink(folder)
    registry.install()
    seen = set()
    for line in map(toy, lines):
        kind = (line[1], line[3], *(o for o in line if o in ("--unconditional", "--given")))
        if line[0] == "python":
            if option(line, "--name") in ("vae", "runs/vae/vae", "t1", "runs/t1/model"):
                run(line, monkeypatch, capsys)
        elif kind not in seen and ("encode" not in line or "latents/slakh_sa" in line):
            seen.add(kind)
            run(line, monkeypatch, capsys)
    pages = {path.parent.name for path in folder.glob("results/t1/*/index.html")}
    assert {"table1_slakh_sa", "table1_prompt_slakh_sa", "table2_sa", "table2_sb"} <= pages
    assert "table3_sa" in pages and any(page.startswith("table8") for page in pages)


def _shrink(folder):
    """Configs of the same names: tiny models, and MiniSlakh in place of every corpus."""
    corpus = write_corpus(folder / "mini", 6, 6.0, 1, progress=False)
    dit = make_config(4)
    dit["training"]["demo"] |= {"demo_steps": 1, "num_demos": 1}
    tiny_vae = json.loads((ROOT / "model_configs" / "mge_vae_tiny.json").read_text())
    vae = tiny_vae | {"sample_size": 2048, "model": dit["model"]["pretransform"]["config"]}
    for file in [*folder.glob("model_configs/*.json"), *folder.glob("runs/configs/mge_*.json")]:
        encoded = json.loads(file.read_text()).get("training", {}).get("pre_encoded", False)
        small = dit | {"training": dit["training"] | {"pre_encoded": encoded}}
        file.write_text(json.dumps(vae if "vae" in file.name else small))
    for file in [*folder.glob("dataset_configs/*.json"), *folder.glob("runs/configs/*.json")]:
        content = json.loads(file.read_text())
        if content.get("dataset_type") == "mge_latents":
            file.write_text(json.dumps(content | {"epoch_items": 4}))
        elif content.get("dataset_type"):
            kept = {key: v for key, v in content["datasets"][0].items() if key in ("id", "labels")}
            entry = kept | {"type": "slakh", "path": str(corpus), "split": "train"}
            small = {"datasets": [entry], "index_cache": None, "epoch_items": 4}
            file.write_text(json.dumps(content | small))
    from torchaudio.prototype.pipelines import VGGISH

    (folder / "checkpoints").mkdir()
    torch.save(VGGISH.VGGish().state_dict(), folder / "checkpoints" / "vggish.pt")


def toy(line):
    """A command with small numbers, and with labels that MiniSlakh has."""
    line = list(line)
    for name, value in TOY.items():
        if name in line:
            line[line.index(name) + 1] = value
    if "train.py" in line:
        line += ["--num-workers", "0", "--checkpoint-every", "1"]
    if "encode" in line or "evaluate" in line:
        line += ["--device", "cpu"]
    if "evaluate" in line:
        while "--label" in line:
            at = line.index("--label")
            del line[at : at + 2]
        line += ["--label", "bass", "--label", "drums", "--steps", "1", "--seconds", "0.5"]
    return line


def run(line, monkeypatch, capsys):
    """Run a command in this process; the shell's `*` is filled in, training ends at step 1."""
    files = [re.sub(r"step=\d+", "step=1", word) for word in line]
    files = [str(next(Path().glob(word))) if "*" in word else word for word in files]
    if line[0] == "python":
        scripts.main(files[3], files[4:])
        return
    monkeypatch.setattr("sys.argv", files)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0, capsys.readouterr().err
