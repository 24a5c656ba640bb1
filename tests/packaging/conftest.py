import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGED = ("mge_plugin", "model_configs", "dataset_configs", "patches", "weights")
METADATA = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")


def build_flags() -> list[str]:
    """Let the environment's own setuptools build, which needs no network, where it is able to."""
    try:
        importlib.metadata.version("wheel")
    except importlib.metadata.PackageNotFoundError:
        version = importlib.metadata.version("setuptools").split(".")
        if tuple(map(int, version[:2])) < (70, 1):  # the first that makes wheels by itself
            return []
    return ["--no-build-isolation"]


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
    """Run this environment's pip, and fail with its own words where it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    if subprocess.run([*command, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("this environment has no pip to ask")

    def run(subcommand: str, *arguments: str) -> None:
        result = subprocess.run(
            [*command, subcommand, *build_flags(), *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr

    return run
