"""Clones of stable-audio-tools to patch, and processes that import them."""

import os
import subprocess
import sys

import pytest

from mge_plugin.patch import parse_diff, patch_files
from tests.patching.copies import ROOT, installed_package

STUBS = {
    "models/__init__.py": "",
    "models/factory.py": "create_model_from_config = create_model_from_config_path = None",
    "models/pretrained.py": "get_pretrained_model = None",
}


@pytest.fixture(scope="session")
def originals():
    """Version -> its stable_audio_tools/__init__.py, all of which is in the diff."""
    diffs = {version: parse_diff(file.read_bytes()) for version, file in patch_files().items()}
    return {version: b"".join(diff.hunks[0].old) for version, diff in diffs.items()}


@pytest.fixture(scope="session")
def installed():
    """The installed package's folder."""
    return installed_package()


@pytest.fixture
def make_clone(tmp_path, originals):
    """A function that writes what of a clone matters here: build file and package."""

    def make(version="0.0.20", setup="from setuptools import setup\n\nsetup(\n    {},\n)\n"):
        package = tmp_path / "a clone" / "stable_audio_tools"
        for name, text in STUBS.items():
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(text)
        (package / "__init__.py").write_bytes(originals.get(version, b""))
        said = f"name='stable-audio-tools',\n    version='{version}'"
        (package.parent / "setup.py").write_text(setup.format(said))
        return package.parent

    return make


@pytest.fixture(scope="session")
def run_python():
    """A function that runs Python on code or a script, with these folders found first.

    `own` says whether this project is found too, from here.
    """

    def run(*arguments, path, cwd=None, own=True):
        variables = {"PYTHONPATH": os.pathsep.join(map(str, [*path, *([ROOT] if own else [])]))}
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            env=os.environ | variables | {"OMP_NUM_THREADS": "1"},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return run
