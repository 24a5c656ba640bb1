"""Every patch in `patches/`: in, in again, out, and never on another file."""

import errno
import hashlib
import os
import shutil
import stat

import pytest

from mge_plugin import sat as upstream
from mge_plugin.patch import State, find_patch, patch_files
from tests.patching.copies import patch_for

# Of stable_audio_tools/__init__.py in the packages on PyPI, and in the repository since 2023.
SHA256 = {
    "0.0.19": "76bea5faebc1b46c1b3c160ae5038cf13afd1baeb7ce4e115a1b7dd62d9b91db",
    "0.0.20": "76bea5faebc1b46c1b3c160ae5038cf13afd1baeb7ce4e115a1b7dd62d9b91db",
}


def test_there_is_a_patch_for_every_tested_version():
    assert tuple(patch_files()) == upstream.TESTED_VERSIONS


@pytest.mark.parametrize("version", SHA256)
def test_every_patch_goes_in_once_and_comes_out_to_the_byte(version, make_clone):
    patch = find_patch(make_clone(version))
    original = patch.file.read_bytes()
    assert hashlib.sha256(original).hexdigest() == SHA256[version]
    assert (patch.revert(), patch.state()) == (False, State.NOT_APPLIED)
    assert (patch.apply(), patch.state()) == (True, State.APPLIED)
    patched = patch.file.read_bytes()
    compile(patched, str(patch.file), "exec")
    assert (patch.apply(), patch.file.read_bytes()) == (False, patched)
    assert (patch.revert(), patch.file.read_bytes()) == (True, original)


def test_a_copy_of_the_installed_package_is_patched_and_reverted(tmp_path, installed):
    file = tmp_path / "__init__.py"
    shutil.copy(installed / "__init__.py", file)
    patch = patch_for(file)
    patch.revert()  # of those who have patched theirs
    original = file.read_bytes()
    assert hashlib.sha256(original).hexdigest() == SHA256[patch.version]
    assert patch.apply()
    assert patch.state() is State.APPLIED
    assert patch.revert()
    assert file.read_bytes() == original


def test_the_mode_stays_and_nothing_is_left_beside(make_clone):
    patch = find_patch(make_clone())
    patch.file.chmod(0o640)
    before = set(patch.file.parent.iterdir())
    patch.apply()
    assert stat.S_IMODE(patch.file.stat().st_mode) == 0o640
    assert set(patch.file.parent.iterdir()) == before


def test_a_file_shared_by_a_link_is_not_written_through(make_clone, tmp_path):
    """Installers link packages to a cache that other environments share."""
    patch = find_patch(make_clone())
    original = patch.file.read_bytes()
    cached = tmp_path / "cached.py"
    for link in (os.link, os.symlink):
        cached.write_bytes(original)
        patch.file.unlink()
        link(cached, patch.file)
        assert patch.apply()
        assert cached.read_bytes() == original
        cached.unlink()


DIRT = {
    "a line more": (lambda text: text + b"\nimport this\n", r"line 3 is 'import this\\n'"),
    "a line before": (lambda text: b"import this\n" + text, r"line 1 is 'import this\\n'"),
    "empty": (lambda text: b"", "line 1 is the end of the file"),
    "another name": (lambda text: text.replace(b"model_from", b"it_from"), "line 1 is 'from .m"),
}


@pytest.mark.parametrize(("change", "found"), DIRT.values(), ids=DIRT)
@pytest.mark.parametrize("action", ["state", "apply", "revert"])
def test_a_changed_file_is_refused_by_name_and_left_alone(action, change, found, make_clone):
    patch = find_patch(make_clone("0.0.19"))
    dirty = change(patch.file.read_bytes())
    patch.file.write_bytes(dirty)
    with pytest.raises(ValueError, match=r"neither as stable-audio-tools 0\.0\.19") as error:
        getattr(patch, action)()
    assert str(error.value).startswith(f"{patch.file}: ")
    error.match(found)
    assert patch.file.read_bytes() == dirty


def test_a_changed_loader_is_not_taken_out(make_clone):
    patch = find_patch(make_clone())
    patch.apply()
    changed = patch.file.read_bytes().replace(b"plugin.load()()", b"plugin.load()")
    patch.file.write_bytes(changed)
    for action in (patch.apply, patch.revert):
        with pytest.raises(ValueError, match=r"line \d+ is ' +plugin.load\(\).n'"):
            action()
    assert patch.file.read_bytes() == changed


def test_an_unknown_version_is_refused_with_those_that_are_known(make_clone):
    clone = make_clone("0.0.18")
    known = r"0.0.18 is a version without a patch, there is one for 0.0.19 and 0.0.20"
    with pytest.raises(ValueError, match=known) as error:
        find_patch(clone)
    assert str(error.value).startswith(f"{clone}: ")


@pytest.mark.parametrize("step", ["pathlib.Path.write_bytes", "os.replace"])
def test_what_cannot_be_written_stays_whole_and_is_named(step, make_clone, monkeypatch):
    patch = find_patch(make_clone())
    before = {path: path.read_bytes() for path in patch.file.parent.glob("*.py")}

    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "some.tmp")

    with monkeypatch.context() as patched:
        patched.setattr(step, refuse)
        with pytest.raises(OSError, match=r"left as it was.*\(Permission denied\)") as error:
            patch.apply()
    assert str(error.value).startswith(f"{patch.file}: ")
    assert {path: path.read_bytes() for path in patch.file.parent.glob("*.py")} == before
    assert not list(patch.file.parent.glob(".*"))
