"""Unified diffs: they fit exactly, both ways, or say where they do not."""

import pytest

from mge_plugin.patch import MisfitError, parse_diff

OLD = b"".join(b"%d\n" % number for number in range(1, 21))
NEW = OLD.replace(b"2\n3\n", b"two\nand a half\n3\n", 1).replace(b"18\n", b"", 1) + b"21\n"
DIFF = b"""\
--- a/folder/numbers
+++ b/folder/numbers
@@ -1,5 +1,6 @@
 1
-2
+two
+and a half
 3
 4
 5
@@ -15,6 +16,6 @@
 15
 16
 17
-18
 19
 20
+21
"""
NO_LAST_END = b"""\
--- a/x
+++ b/x
@@ -1 +1,2 @@
-one
\\ No newline at end of file
+one
+two
"""


def test_every_hunk_is_applied_and_reverted_to_the_byte():
    diff = parse_diff(DIFF)
    assert diff.path == "folder/numbers"
    assert diff.apply(OLD) == NEW
    assert diff.reversed().apply(NEW) == OLD


def test_a_missing_last_line_end_comes_back():
    diff = parse_diff(NO_LAST_END)
    assert diff.apply(b"one") == b"one\ntwo\n"
    assert diff.reversed().apply(b"one\ntwo\n") == b"one"


def test_windows_line_ends_are_kept_in_the_file_and_do_not_matter_in_the_diff():
    diff = parse_diff(DIFF.replace(b"\n", b"\r\n"))
    assert diff.apply(OLD) == NEW
    windows = OLD.replace(b"\n", b"\r\n")
    assert diff.apply(windows) == NEW.replace(b"\n", b"\r\n")
    assert diff.reversed().apply(diff.apply(windows)) == windows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (OLD.replace(b"4\n", b"four\n", 1), r"line 4 is 'four\\n', expected '4\\n'"),
        (b"0\n" + OLD, "line 15 is '14.n', expected '15.n'"),
        (OLD + b"21\n", "line 21 is '21.n', expected the end of the file"),
        (OLD[:-3], "line 20 is the end of the file, expected '20.n'"),
        (OLD[:-1], "line 20 is '20', expected '20.n'"),
        (OLD.replace(b"17\n", b"17\r\n"), "line 15 is '15.n', expected '15.r.n'"),
        (b"", "line 15 is the end of the file"),
        (b"\xff\n" + OLD[2:], r"line 1 is '\\\\xff\\n'"),
    ],
)
def test_what_does_not_fit_is_named_with_its_line(content, message):
    with pytest.raises(MisfitError, match=message):
        parse_diff(DIFF).apply(content)


def test_a_file_is_not_reverted_before_it_is_patched():
    with pytest.raises(MisfitError):
        parse_diff(DIFF).reversed().apply(OLD)


@pytest.mark.parametrize("text", [b"", b"+++ b/x\n", DIFF + DIFF, DIFF[: DIFF.index(b"@@")]])
def test_what_is_no_diff_of_one_file_is_refused(text):
    with pytest.raises(ValueError, match="expected a unified diff of one file"):
        parse_diff(text)
