"""Where a stable-audio-tools is and which version it is, without importing it."""

import shutil
from importlib import metadata

import pytest

from mge_plugin import sat as upstream
from mge_plugin.patch import Place, find_place


def test_a_clone_is_known_by_its_folder_or_its_packages(make_clone, monkeypatch):
    clone = make_clone("0.0.19")
    assert find_place(clone) == Place(clone, "0.0.19")
    assert find_place(clone / "stable_audio_tools") == Place(clone, "0.0.19")
    monkeypatch.chdir(clone / "stable_audio_tools")
    assert find_place(clone.relative_to(clone)) == Place(clone, "0.0.19")


def test_a_clone_that_says_its_version_in_pyproject(make_clone):
    clone = make_clone()
    (clone / "setup.py").write_text("from setuptools import setup\n\nsetup()\n")
    (clone / "pyproject.toml").write_text(
        '[tool.x]\ntarget-version = "py310"\n[project]\nname = "stable-audio-tools"\n'
        'version = "0.0.21"\n'
    )
    assert find_place(clone).version == "0.0.21"


def test_an_installation_is_known_by_its_metadata(tmp_path, installed):
    """A copy of what of the installed package matters here."""
    (info,) = (
        path for path in metadata.files(upstream.DISTRIBUTION) if path.match("*.dist-info/METADATA")
    )
    (tmp_path / info.parent.name).mkdir()
    shutil.copy(info.locate(), tmp_path / info.parent.name)
    (tmp_path / "stable_audio_tools").mkdir()
    shutil.copy(installed / "__init__.py", tmp_path / "stable_audio_tools")
    assert find_place(tmp_path) == Place(tmp_path, upstream.sat_version())


def test_the_installed_package_is_the_default(installed):
    assert find_place() == Place(installed.parent, upstream.sat_version())


def test_a_build_file_of_something_else_says_nothing(make_clone):
    clone = make_clone()
    (clone / "setup.py").write_text("setup(name='another', version='0.0.20')")
    with pytest.raises(ValueError, match=r"says neither setup\.py nor pyproject"):
        find_place(clone)


def test_what_is_no_stable_audio_tools_is_told_by_what_is_there(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for path, found in (
        (tmp_path, "a folder without it"),
        (file, "a file"),
        (file / "x", "nothing"),
    ):
        with pytest.raises(ValueError, match=f"{path}: expected .* found {found}"):
            find_place(path)


def test_without_an_installed_one_a_clone_is_asked_for(monkeypatch):
    monkeypatch.setattr("mge_plugin.patch.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="not installed here: name the folder of a clone"):
        find_place()
