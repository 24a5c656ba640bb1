"""The content of the wheel."""

import configparser
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def wheel(pip, project, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(project))
    (path,) = folder.glob("mge_plugin-*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def files_below(project, folder: str) -> set[str]:
    return {
        path.relative_to(project).as_posix()
        for path in (project / folder).rglob("*")
        if path.is_file()
    }


def test_every_file_of_the_package_is_in_the_wheel(wheel, project):
    files = files_below(project, "mge_plugin") | files_below(project, "minislakh")
    assert files <= set(wheel.namelist())


def test_configurations_patches_and_weights_are_in_the_package(wheel, project):
    prefix = "mge_plugin/shipped/"
    shipped = {n.removeprefix(prefix) for n in wheel.namelist() if n.startswith(prefix)}
    folders = ("model_configs", "dataset_configs", "patches", "weights")
    assert shipped == set().union(*(files_below(project, folder) for folder in folders))


def test_an_unpacked_wheel_finds_its_files(wheel, tmp_path):
    wheel.extractall(tmp_path)
    code = "import mge_plugin.files as f; print(f.shipped_file('weights/minislakh/model.json'))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = tmp_path / "mge_plugin" / "shipped" / "weights" / "minislakh" / "model.json"
    assert Path(done.stdout.strip()) == expected


def test_nothing_else_is_in_the_wheel(wheel):
    tops = {name.split("/")[0].split("-")[0] for name in wheel.namelist()}
    assert tops == {"mge_plugin", "minislakh"}


def test_the_wheel_offers_the_command_and_the_plugin(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(name).decode())
    assert dict(parser["console_scripts"]) == {"mge": "mge_plugin.cli:main"}
    assert dict(parser["stable_audio_tools.plugins"]) == {"mge": "mge_plugin:install"}
