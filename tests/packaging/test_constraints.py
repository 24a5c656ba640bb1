"""The constraint files are plain pins that stable-audio-tools accepts."""

import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "constraints").glob("py*.txt"))


def pin_lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def pins(path: Path) -> dict[str, str]:
    """Version by name."""
    split = (line.split("==") for line in pin_lines(path))
    return {canonicalize_name(name): version for name, version in split}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_line_is_a_plain_pin_in_order_of_name(path):
    lines = pin_lines(path)
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert lines == sorted(lines, key=str.lower)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_file_is_named_after_the_stable_audio_tools_it_pins(path):
    assert path.stem.split("-sat")[1] == pins(path)["stable-audio-tools"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_pinned_ruff_is_the_one_before_commits(path):
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"ruff==([\w.]+)", hooks)) == {pins(path)["ruff"]}


def test_stable_audio_tools_own_requirements_accept_the_pins():
    installed = importlib.metadata.version("stable-audio-tools")
    (path,) = (each for each in FILES if each.stem.endswith(f"-sat{installed}"))
    pinned = pins(path)
    requirements = map(Requirement, importlib.metadata.requires("stable-audio-tools"))
    refused = [
        f"{requirement} has {pinned[name]}"
        for requirement in requirements
        if (name := canonicalize_name(requirement.name)) in pinned
        and pinned[name] not in requirement.specifier
    ]
    assert refused == []
