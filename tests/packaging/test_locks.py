"""The lock files have hashes, and hold what stable-audio-tools and this package require."""

import ast
import configparser
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "locks").glob("py*.txt"))
ELSEWHERE = {  # not declared: installed by hand, or a folder inside another package
    "clap-module",  # of laion-clap
    "demucs",
    "mge-plugin",
    "tinysoundfont",  # see setup.cfg
}


def pins(path: Path) -> dict[str, str]:
    """Version by name."""
    lines = path.read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", lines, re.MULTILINE))


@pytest.mark.parametrize("path", sorted((ROOT / "locks").glob("*.txt")), ids=lambda path: path.stem)
def test_every_pin_has_hashes(path):
    entries = re.split(r"\n(?=\S)", path.read_text(encoding="utf-8").strip())
    entries = [entry for entry in entries if not entry.startswith("#")]
    assert entries
    assert [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_is_named_after_its_stable_audio_tools(path):
    assert path.stem.split("-sat")[1] == pins(path)["stable-audio-tools"]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_the_hook_before_commits_has_the_locked_ruff(path):
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"ruff==([\w.]+)", hooks)) == {pins(path)["ruff"]}


def test_stable_audio_tools_accepts_the_pins():
    installed = importlib.metadata.version("stable-audio-tools")
    (path,) = (each for each in LOCKS if each.stem.endswith(f"-sat{installed}"))
    pinned = pins(path)
    requirements = map(Requirement, importlib.metadata.requires("stable-audio-tools"))
    refused = [
        f"{requirement} has {pinned[name]}"
        for requirement in requirements
        if (name := canonicalize_name(requirement.name)) in pinned
        and pinned[name] not in requirement.specifier
    ]
    assert refused == []


def test_every_imported_package_is_declared():
    """By setup.cfg or, where versions must be its own, by stable-audio-tools."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = [line for text in texts for line in text.strip().splitlines()]
    lines += importlib.metadata.requires("stable-audio-tools")
    declared = {canonicalize_name(Requirement(line).name) for line in lines if line[:1] != "#"}
    declared |= ELSEWHERE
    distributions = importlib.metadata.packages_distributions()
    undeclared = {
        name
        for name in imported_packages("mge_plugin") | imported_packages("minislakh")
        if not declared & {canonicalize_name(each) for each in distributions.get(name, [name])}
    }
    assert undeclared - {"mge_plugin", "minislakh"} == set()


def imported_packages(folder: str) -> set[str]:
    """Top-level names that a package imports, without the standard library."""
    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names
