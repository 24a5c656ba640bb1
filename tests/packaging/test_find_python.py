"""tools/find_python.sh on made-up machines: the Python it takes, or what it says without one."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOW_TO_GET_ONE = ("3.10", "3.11", "apt install", "uv python install 3.10", "PYTHON=/path/to/python")


def add_python(path: Path, answer: str | None) -> Path:
    """Write a fake interpreter that answers every question with `answer`, or fails if None."""
    lines = [f"echo {word}" for word in (answer or "").split("\n")]
    body = "\n".join(lines) if answer else "echo 'shim: not installed' >&2; exit 127"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def usable(version: str) -> str:
    return f"CPython {version}\nvenv"


class Machine:
    """A home folder and a PATH with nothing but what a test puts there, in a path with a space."""

    def __init__(self, folder: Path):
        self.home = folder / "the home"
        self.bin = folder / "first bin"
        self.later_bin = folder / "later bin"
        self.tools = folder / "tools"
        for path in (self.home, self.bin, self.later_bin, self.tools):
            path.mkdir(parents=True)
        for tool in ("tr", "sed"):
            found = next(d for d in os.defpath.split(":") if d and Path(d, tool).exists())
            (self.tools / tool).symlink_to(Path(found, tool))

    def find(self, *versions: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = ":".join(map(str, (self.bin, self.later_bin, self.tools)))
        return subprocess.run(
            ["/bin/sh", ROOT / "tools" / "find_python.sh", *versions],
            env={"HOME": str(self.home), "PATH": path} | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def finds(self, *versions: str, **environment: str) -> str:
        result = self.find(*versions, **environment)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout.removesuffix("\n")

    def refuses(self, *versions: str, **environment: str) -> str:
        result = self.find(*versions, **environment)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.count("\n") == 1
        assert all(part in result.stderr for part in HOW_TO_GET_ONE)
        return result.stderr.split(":")[0]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_python_3_10_is_preferred_wherever_it_is(machine):
    add_python(machine.bin / "python3.11", usable("3.11"))
    path = add_python(machine.home / ".pyenv/versions/3.10.13/bin/python3.10", usable("3.10"))
    assert machine.finds() == f"3.10 {path}"


def test_python_3_11_does_where_there_is_no_3_10(machine):
    add_python(machine.bin / "python3.12", usable("3.12"))
    path = add_python(machine.bin / "python3.11", usable("3.11"))
    assert machine.finds() == f"3.11 {path}"


def test_a_shim_that_fails_does_not_hide_a_python_later_on_the_path(machine):
    add_python(machine.bin / "python3.10", None)
    path = add_python(machine.later_bin / "python3.10", usable("3.10"))
    assert machine.finds() == f"3.10 {path}"


def test_a_shim_that_fails_does_not_hide_pyenvs_own_pythons(machine, tmp_path):
    add_python(machine.bin / "python3.10", None)
    root = tmp_path / "pyenv root"
    path = add_python(root / "versions/3.11.7/bin/python3.11", usable("3.11"))
    assert machine.finds(PYENV_ROOT=str(root)) == f"3.11 {path}"


def test_pythons_that_uv_keeps_are_found(machine):
    folder = machine.home / ".local/share/uv/python/cpython-3.10.16-linux-x86_64-gnu/bin"
    path = add_python(folder / "python3.10", usable("3.10"))
    assert machine.finds() == f"3.10 {path}"


def test_a_python_counts_by_what_it_says_not_by_its_name(machine):
    add_python(machine.bin / "python3.10", usable("3.9"))
    path = add_python(machine.bin / "python3", usable("3.11"))
    assert machine.finds() == f"3.11 {path}"


def test_another_implementation_does_not_count(machine):
    add_python(machine.bin / "python3", "PyPy 3.10\nvenv")
    assert machine.refuses() == "no Python 3.10 or 3.11 was found"


def test_only_the_versions_asked_for_are_taken(machine):
    add_python(machine.bin / "python3.10", usable("3.10"))
    assert machine.refuses("3.11") == "no Python 3.11 was found"


def test_python_set_to_a_path_overrides_the_search(machine):
    add_python(machine.bin / "python3.10", usable("3.10"))
    path = add_python(machine.home / "mine/python", usable("3.11"))
    assert machine.finds(PYTHON=str(path)) == f"3.11 {path}"


@pytest.mark.parametrize("name", ["3.11", "python3.11"])
def test_python_set_to_a_version_chooses_it(machine, name):
    add_python(machine.bin / "python3.10", usable("3.10"))
    path = add_python(machine.home / ".pyenv/versions/3.11.7/bin/python3.11", usable("3.11"))
    assert machine.finds(PYTHON=name) == f"3.11 {path}"


@pytest.mark.parametrize("name", ["3.12", "python3.12"])
def test_python_set_to_an_unsuitable_version_is_refused(machine, name):
    add_python(machine.bin / "python3.10", usable("3.10"))
    assert machine.refuses(PYTHON=name) == f"PYTHON={name} is not Python 3.10 or 3.11"


def test_python_set_to_a_name_looks_on_the_path_only(machine):
    add_python(machine.bin / "python3.10", usable("3.10"))
    path = add_python(machine.later_bin / "python3", usable("3.11"))
    assert machine.finds(PYTHON="python3") == f"3.11 {path}"


def test_python_set_to_a_path_that_is_too_new_is_refused(machine):
    path = add_python(machine.bin / "python3", usable("3.13"))
    assert machine.refuses(PYTHON=str(path)) == f"PYTHON={path} is CPython 3.13, not 3.10 or 3.11"


def test_python_set_to_something_that_fails_is_refused(machine):
    path = add_python(machine.bin / "shim", None)
    for name in (str(path), "shim", str(machine.home), "/no/such/python"):
        assert machine.refuses(PYTHON=name) == f"PYTHON={name} does not run"


def test_a_python_without_venv_is_named(machine):
    path = add_python(machine.bin / "python3.11", "CPython 3.11")
    assert machine.refuses() == f"{path} has no venv"


def test_a_python_without_venv_is_passed_over_for_one_that_has_it(machine):
    add_python(machine.bin / "python3.10", "CPython 3.10")
    path = add_python(machine.bin / "python3.11", usable("3.11"))
    assert machine.finds() == f"3.11 {path}"
