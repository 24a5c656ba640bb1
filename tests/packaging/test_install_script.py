"""tools/install.sh with a fake Python: when it installs, makes an environment again, or refuses."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FAKE_PYTHON = """#!/bin/sh
# stands for python, python -m venv and python -m pip
here=$(cd "$(dirname "$0")" && pwd)
case "$*" in
    *"-m venv "*)
        for folder; do :; done
        mkdir -p "$folder/bin"
        cp "$0" "$here/version" "$folder/bin/"
        mv "$folder/bin/$(basename "$0")" "$folder/bin/python"
        echo "venv" >>"$LOG"
        ;;
    *"pip --version"* | *"pip --disable-pip-version-check --version"*) ;;
    *" pip "*)
        echo "$*" | sed 's/.* install /pip install /' >>"$LOG"
        [ -z "${PIP_FAILS:-}" ] || exit 1
        ;;
    *)
        printf 'CPython %s\\nvenv\\n' "$(cat "$here/version")"
        ;;
esac
"""


class Installer:
    def __init__(self, folder: Path):
        self.folder = folder
        self.log = folder / "log"
        self.venv = folder / "a venv"

    def python(self, version: str) -> str:
        path = self.folder / version / "python"
        path.parent.mkdir(exist_ok=True)
        path.write_text(FAKE_PYTHON, encoding="utf-8")
        path.chmod(0o755)
        (path.parent / "version").write_text(version, encoding="utf-8")
        return str(path)

    def run(self, version: str = "3.10", **environment: str) -> subprocess.CompletedProcess[str]:
        self.log.write_text("", encoding="utf-8")
        return subprocess.run(
            ["/bin/sh", ROOT / "tools" / "install.sh", self.venv],
            env=os.environ | {"PYTHON": self.python(version), "LOG": str(self.log)} | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def steps(self) -> list[str]:
        """First words of what was done: "venv" and pip's commands."""
        return [line.split(" --")[0] for line in self.log.read_text(encoding="utf-8").splitlines()]


INSTALLATION = ["pip install"] * 3


@pytest.fixture
def installer(tmp_path):
    return Installer(tmp_path)


def test_a_new_environment_is_made_and_filled_by_the_constraints_of_its_python(installer):
    assert installer.run("3.11").returncode == 0
    assert installer.steps() == ["venv", *INSTALLATION]
    log = installer.log.read_text(encoding="utf-8")
    assert log.count("constraints/py311-sat0.0.19.txt") == 3
    assert "--editable .[train,ui,minislakh,musdb,test]" in log
    assert "--no-deps tinysoundfont" in log


def test_an_unchanged_environment_is_left_alone(installer):
    installer.run()
    result = installer.run()
    assert (result.returncode, result.stderr, installer.steps()) == (0, "", [])


def test_an_environment_made_from_other_requirements_is_brought_up_to_date(installer):
    installer.run()
    stamp = installer.venv / ".mge-plugin-installed"
    *where, _ = stamp.read_text(encoding="utf-8").splitlines()
    stamp.write_text("\n".join([*where, "another checksum"]), encoding="utf-8")
    assert installer.run().returncode == 0
    assert installer.steps() == INSTALLATION


def test_an_interrupted_installation_does_not_count(installer):
    assert installer.run(PIP_FAILS="1").returncode != 0
    result = installer.run()
    assert result.returncode == 0
    assert "its installation did not come to an end" in result.stderr
    assert installer.steps() == ["venv", *INSTALLATION]


def test_another_python_makes_the_environment_again(installer):
    installer.run("3.10")
    result = installer.run("3.11")
    assert result.returncode == 0
    assert "it has Python 3.10, not 3.11" in result.stderr
    assert installer.steps() == ["venv", *INSTALLATION]


def test_an_environment_that_was_moved_is_made_again(installer):
    installer.run()
    installer.venv = installer.venv.rename(installer.folder / "moved")
    result = installer.run()
    assert "it was moved" in result.stderr
    assert installer.steps() == ["venv", *INSTALLATION]


def test_an_environment_whose_python_is_gone_is_made_again(installer):
    installer.run()
    (installer.venv / "bin/python").unlink()
    assert installer.run().returncode == 0
    assert installer.steps() == ["venv", *INSTALLATION]


def test_an_environment_that_someone_else_made_is_used(installer):
    (installer.venv / "bin").mkdir(parents=True)
    for name in ("python", "version"):
        source = Path(installer.python("3.10")).parent / name
        (installer.venv / "bin" / name).write_bytes(source.read_bytes())
    (installer.venv / "bin/python").chmod(0o755)
    assert installer.run().returncode == 0
    assert installer.steps() == INSTALLATION


def test_a_folder_that_is_no_environment_is_never_removed(installer):
    installer.venv.mkdir()
    thesis = installer.venv / "thesis.txt"
    thesis.write_text("the only copy", encoding="utf-8")
    result = installer.run()
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "remove this folder or name another one with VENV=" in result.stderr
    assert thesis.exists()
    assert installer.steps() == []


def test_an_unsuitable_python_leaves_the_environment_as_it_is(installer):
    installer.run("3.10")
    result = installer.run("3.13")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "is CPython 3.13, not 3.10 or 3.11" in result.stderr
    assert (installer.venv / ".mge-plugin-installed").exists()
