"""`mge patch`: what it says, and its exit codes."""

import sys

import pytest

from mge_plugin import cli


@pytest.fixture
def mge_patch(monkeypatch, capsys):
    """Run `mge patch` in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mge", "patch", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code, *capsys.readouterr()

    return run


def test_each_action_says_what_it_found_and_did(mge_patch, make_clone):
    clone = make_clone("0.0.19")
    file = clone / "stable_audio_tools" / "__init__.py"
    for options, code, said in (
        (["--check"], 1, "not applied"),
        (["--revert"], 0, "not patched, nothing to revert"),
        ([], 0, "patched"),
        ([], 0, "already patched"),
        (["--check"], 0, "applied"),
        (["--revert"], 0, "reverted"),
        (["--check"], 1, "not applied"),
    ):
        line = f"{file}: {said} (stable-audio-tools 0.0.19)\n"
        assert mge_patch(clone, *options) == (code, line, "")


def test_the_installed_package_is_checked_by_default(mge_patch, installed):
    code, said, _ = mge_patch("--check")
    assert said.startswith(f"{installed / '__init__.py'}: ")
    assert code == (0 if ": applied" in said else 1)


def test_a_file_that_is_neither_is_one_sentence_and_exit_code_1(mge_patch, make_clone):
    clone = make_clone()
    (clone / "stable_audio_tools" / "__init__.py").write_text("import this\n")
    for options in ([], ["--check"], ["--revert"]):
        code, said, complaint = mge_patch(clone, *options)
        assert (code, said, complaint.count("\n")) == (1, "", 1)
        assert "neither as stable-audio-tools 0.0.20 has it nor patched" in complaint


def test_both_options_at_once_are_refused(mge_patch, make_clone):
    code, _, complaint = mge_patch(make_clone(), "--check", "--revert")
    assert (code, complaint) == (
        1,
        "error: --check and --revert: expected one of them, found both\n",
    )
