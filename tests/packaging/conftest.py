import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGED = ("mge_plugin", "minislakh", "model_configs", "dataset_configs", "patches", "weights")
METADATA = ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    """A copy of what a distribution is built from: building leaves an egg-info beside setup.cfg."""
    copy = tmp_path_factory.mktemp("project")
    for name in PACKAGED:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in METADATA:
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="session")
def pip():
    """Run this environment's pip and setuptools; a failure shows pip's own words."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check"]

    def run(subcommand: str, *arguments: str) -> None:
        result = subprocess.run(
            [*command, subcommand, "--no-build-isolation", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr

    return run
