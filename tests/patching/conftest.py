"""Clones of stable-audio-tools to patch, and processes that import them."""

import os
import subprocess
import sys

import pytest

from tests.patching.copies import ROOT, installed_package

STUBS = {
    "models/__init__.py": "",
    "models/factory.py": "create_model_from_config = create_model_from_config_path = None",
    "models/pretrained.py": "get_pretrained_model = None",
}
SAT_INIT = """\
from .models.factory import create_model_from_config, create_model_from_config_path
from .models.pretrained import get_pretrained_model"""


@pytest.fixture(scope="session")
def installed():
    """The installed package's folder."""
    return installed_package()


@pytest.fixture
def make_clone(tmp_path):
    """A function that writes the part of a clone that matters here: its package, with stubs."""

    def make():
        package = tmp_path / "a clone" / "stable_audio_tools"
        for name, text in STUBS.items():
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(text)
        (package / "__init__.py").write_text(SAT_INIT)
        (package.parent / "setup.py").touch()
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
