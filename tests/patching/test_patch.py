"""`mge patch`: the block goes in once and comes out to the byte, and nothing else is touched."""

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys

import pytest

from mge_plugin import cli
from mge_plugin import sat as upstream
from mge_plugin.patch import apply_patch, find_file, is_patched, revert_patch
from tests.patching.copies import ROOT

# stable_audio_tools/__init__.py is the same in 0.0.19, in 0.0.20 and in the repository since 2023.
SHA256 = "76bea5faebc1b46c1b3c160ae5038cf13afd1baeb7ce4e115a1b7dd62d9b91db"


@pytest.fixture
def file(make_clone):
    return find_file(make_clone())


@pytest.fixture
def mge_patch(monkeypatch, capsys):
    """Run `mge patch` in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mge", "patch", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code, *capsys.readouterr()

    return run


def test_each_option_reports_what_it_found_and_did(mge_patch, file):
    for options, code, said in (
        (["--check"], 1, "not applied"),
        (["--revert"], 0, "not patched, nothing to revert"),
        ([], 0, "patched"),
        ([], 0, "already patched"),
        (["--check"], 0, "applied"),
        (["--revert"], 0, "reverted"),
    ):
        assert mge_patch(file.parent, *options) == (code, f"{file}: {said}\n", "")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == SHA256


@pytest.mark.parametrize("version", upstream.TESTED_VERSIONS)
def test_git_applies_the_patch_files_with_the_same_result(version, file):
    patch = ROOT / "patches" / f"stable-audio-tools-{version}.patch"
    subprocess.run(["git", "apply", patch], cwd=file.parents[1], check=True)
    assert is_patched(file)
    revert_patch(file)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == SHA256


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + b"\n",
        lambda text: text + b"\nimport this\n",
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: b"",
    ],
    ids=["last line ends", "a line more", "Windows", "empty"],
)
def test_other_content_stays_to_the_byte(change, file):
    content = change(file.read_bytes())
    file.write_bytes(content)
    assert apply_patch(file)
    assert file.read_bytes().startswith(content)
    compile(file.read_bytes(), str(file), "exec")
    assert revert_patch(file)
    assert file.read_bytes() == content


@pytest.mark.parametrize("action", [is_patched, apply_patch, revert_patch])
def test_a_changed_block_is_refused_and_left_alone(action, file):
    apply_patch(file)
    changed = file.read_bytes().replace(b"plugin.load()()", b"plugin.load()")
    file.write_bytes(changed)
    with pytest.raises(ValueError) as error:
        action(file)
    assert str(file) in str(error.value)
    assert file.read_bytes() == changed


def test_the_mode_stays_and_nothing_is_left_beside(file):
    file.chmod(0o640)
    before = set(file.parent.iterdir())
    apply_patch(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert set(file.parent.iterdir()) == before


def test_a_file_shared_by_a_link_is_not_written_through(file, tmp_path):
    """Installers link packages to a cache that other environments share."""
    original, cached = file.read_bytes(), tmp_path / "cached.py"
    for link in (os.link, os.symlink):
        cached.write_bytes(original)
        file.unlink()
        link(cached, file)
        assert apply_patch(file)
        assert cached.read_bytes() == original
        cached.unlink()


def test_a_file_that_cannot_be_written_stays_whole_and_is_named(file, monkeypatch):
    original = file.read_bytes()

    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "some.tmp")

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", refuse)
        with pytest.raises(OSError) as error:
            apply_patch(file)
    assert str(file) in str(error.value)
    assert file.read_bytes() == original
    assert not list(file.parent.glob(".*"))


def test_the_file_is_found_by_a_clone_or_its_package_or_the_installation(
    make_clone, installed, monkeypatch
):
    clone = make_clone()
    expected = clone / "stable_audio_tools" / "__init__.py"
    assert find_file(clone) == find_file(expected.parent) == expected
    assert find_file() == installed / "__init__.py"
    shutil.rmtree(expected.parent)
    for path in (clone, clone / "setup.py", clone / "absent"):
        with pytest.raises(ValueError) as error:
            find_file(path)
        assert str(path) in str(error.value)
    monkeypatch.setattr("mge_plugin.patch.find_spec", lambda name: None)
    with pytest.raises(ValueError):
        find_file()
