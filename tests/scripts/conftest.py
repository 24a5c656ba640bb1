"""stable-audio-tools' own scripts, unmodified, run as plain Python with a patched package."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minislakh import write_corpus
from tests.patching.copies import ROOT, patched_copy

CLONE = "STABLE_AUDIO_TOOLS_REPO"
SCRIPTS = ("train.py", "unwrap_model.py", "pre_encode.py", "run_gradio.py", "defaults.ini")
# They ask for a GPU by name. This registers nothing: the patched package does.
ON_CPU = """
import runpy, sys
from mge_plugin.devices import keep_to_cpu
keep_to_cpu(1)
sys.argv = sys.argv[1:]
sys.path[0] = "."
runpy.run_path(sys.argv[0], run_name="__main__")
"""
STEPS = "PL_TRAINER_MAX_STEPS"  # Lightning's own: train.py has no option for it


class Bench:
    """A folder with the scripts, tiny configs and a tiny corpus; commands run in it."""

    def __init__(self, folder, package):
        self.folder = folder
        self.variables = {
            "PYTHONPATH": os.pathsep.join(map(str, (package, ROOT))),
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "agg",
            "HF_HUB_OFFLINE": "1",
            "GRADIO_ANALYTICS_ENABLED": "False",
        }

    def environment(self, **variables):
        return os.environ | self.variables | variables

    def python(self, *arguments, **variables):
        """Run plain Python; the finished process, whatever its exit code."""
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=540,
            check=False,
        )

    def script(self, name, *arguments, **variables):
        """Run a script to its good end, kept to the CPU."""
        done = self.python("-c", ON_CPU, name, *arguments, **variables)
        assert done.returncode == 0, done.stderr
        return done

    def train(self, run, model, dataset, steps, *arguments):
        """Run train.py for so many steps; the folder with its checkpoints, one every two steps."""
        self.script(
            *("train.py", "--name", run, "--model-config", model, "--dataset-config", dataset),
            *("--batch-size", 2, "--num-workers", 0, "--precision", 32, "--checkpoint-every", 2),
            *("--logger", "none", "--save-dir", f"runs/{run}"),
            *arguments,
            **{STEPS: str(steps)},
        )
        return self.folder / "runs" / run


@pytest.fixture(scope="session")
def clone():
    """The folder that the environment names."""
    if CLONE not in os.environ:
        pytest.skip(f"{CLONE} names no clone of stable-audio-tools, whose scripts are in no wheel")
    folder = Path(os.environ[CLONE])
    missing = [name for name in SCRIPTS if not (folder / name).is_file()]
    assert not missing, f"{CLONE}: {folder} has no {', '.join(missing)}"
    return folder


@pytest.fixture(scope="session")
def bench(clone, tmp_path_factory):
    """The scripts without the clone's package, so that the installed version is what runs."""
    folder = tmp_path_factory.mktemp("bench")
    for name in SCRIPTS:
        shutil.copy(clone / name, folder)
    corpus = write_corpus(folder / "corpus", 4, 8.0, 0, progress=False)
    for name, config in (_models() | _datasets(corpus)).items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    return Bench(folder, patched_copy(tmp_path_factory.mktemp("patched")))


def _models():
    dit, vae = (
        json.loads((ROOT / "model_configs" / f"mge_{kind}_tiny.json").read_text())
        for kind in ("dit", "vae")
    )
    dit["sample_size"] = 8192
    dit["model"]["diffusion"]["config"] |= {"embed_dim": 96, "depth": 2, "num_heads": 3}
    dit["training"]["demo"] |= {"demo_steps": 2, "num_demos": 2}
    ahead = dit | {"training": dit["training"] | {"pre_encoded": True}}
    return {"dit": dit, "dit_latents": ahead, "vae": vae}


def _datasets(corpus):
    common = {"epoch_items": 12}
    songs = [{"id": "minislakh", "type": "slakh", "path": str(corpus), "split": "train"}]
    encoded = [{"id": "minislakh", "path": "latents", "split": "train"}]
    return {
        "triplets": {"dataset_type": "mge_triplets", "datasets": songs} | common,
        "tracks": {"dataset_type": "mge_tracks", "datasets": songs} | common,
        "latents": {"dataset_type": "mge_latents", "datasets": encoded} | common,
    }
