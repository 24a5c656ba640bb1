"""Installing the plugin beside stable-audio-tools, as pip plans it, changes nothing there."""

import importlib.metadata
import json
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# A dependency of stable-audio-tools requires argparse from PyPI. pip counts argparse as a part of
# Python, so it never finds an installed one and plans to install it in every environment.
ALWAYS_PLANNED = {"argparse"}
EXTRAS = "[train,ui,minislakh,musdb,test]"


def pins_of_stable_audio_tools() -> set[str]:
    """Names that stable-audio-tools requires in one exact version, in any of its extras."""
    requirements = map(Requirement, importlib.metadata.requires("stable-audio-tools"))
    return {
        canonicalize_name(requirement.name)
        for requirement in requirements
        if any(specifier.operator == "==" for specifier in requirement.specifier)
    }


def write_empty_wheel(folder: Path, name: str) -> None:
    """Write version 1.4.0 of an empty distribution."""
    info = f"{name}-1.4.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.4.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.4.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def planned(pip, project, tmp_path_factory) -> set[str]:
    """Names of the packages that `pip install` of the plugin would install into this environment.

    No network is needed if every requirement is installed: pip finds the empty wheels.
    """
    folder = tmp_path_factory.mktemp("pip")
    for name in ALWAYS_PLANNED:
        write_empty_wheel(folder, name)
    report = folder / "report.json"
    offline = ("--find-links", str(folder), "--retries", "0")
    pip("install", *offline, "--dry-run", "--report", str(report), f"{project}{EXTRAS}")
    installations = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {canonicalize_name(each["metadata"]["name"]) for each in installations}


def test_pip_plans_to_install_the_plugin(planned):
    assert "mge-plugin" in planned


def test_no_package_that_stable_audio_tools_pins_is_touched(planned):
    pins = pins_of_stable_audio_tools()
    assert {"pandas", "wandb", "alias-free-torch"} <= pins
    assert planned.isdisjoint(pins)


def test_no_installed_package_is_replaced(planned):
    installed = {canonicalize_name(each.name) for each in importlib.metadata.distributions()}
    assert planned & installed <= {"mge-plugin", *ALWAYS_PLANNED}
