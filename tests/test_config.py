import pickle
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from mge_plugin.config import ConfigError, choose, parse_section, read_json


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ConfigError(f"rate must be above 0, found {self.rate}")


@dataclass(frozen=True)
class Outer:
    size: int
    kind: Literal["small", "large"] = "small"
    is_on: bool = False
    label: str | None = None
    inner: Inner = field(default_factory=Inner)
    parts: tuple[Inner, ...] = ()
    options: dict | None = None
    anything: Any = None


@dataclass(frozen=True)
class Empty:
    pass


def problems(values: Any, cls: type = Outer) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        parse_section(cls, values, "model")
    assert str(raised.value) == "; ".join(raised.value.problems)
    return raised.value.problems


def test_a_section_is_a_dataclass_with_its_nested_sections():
    values = {"size": 3, "inner": {"rate": 2, "names": ["a"]}, "parts": [{}, {"rate": 0.5}]}
    section = parse_section(Outer, values, "model")
    assert section == Outer(3, inner=Inner(2.0, ("a",)), parts=(Inner(), Inner(0.5)))
    assert isinstance(section.inner.rate, float)


def test_an_absent_section_has_its_defaults():
    assert parse_section(Inner, None, "inner") == Inner()


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"size": 1, "labl": "x"}, "model: unknown key 'labl', did you mean 'label'?"),
        (
            {"size": 1, "inner": {"nam": []}},
            "model.inner: unknown key 'nam', did you mean 'names'?",
        ),
        ({"size": 1, "parts": [{}, {"rte": 1}]}, "model.parts[1]: unknown key 'rte', did you mean"),
        ({"size": 1, "inner": {"zzz": 1}}, "model.inner: unknown key 'zzz', known: names, rate"),
        ({}, "model: missing key 'size'"),
        ({"size": "3"}, "model.size: expected a whole number, found '3'"),
        ({"size": 3.5}, "model.size: expected a whole number, found 3.5"),
        ({"size": True}, "model.size: expected a whole number, found True"),
        ({"size": None}, "model.size: expected a whole number, found None"),
        ({"size": 1, "is_on": 1}, "model.is_on: expected true or false, found 1"),
        ({"size": 1, "label": 1}, "model.label: expected a text, found 1"),
        ({"size": 1, "options": [1]}, "model.options: expected an object, found [1]"),
        ({"size": 1, "parts": {}}, "model.parts: expected a list, found {}"),
        ({"size": 1, "inner": []}, "model.inner: expected an object, found []"),
        ({"size": 1, "inner": {"rate": float("nan")}}, "model.inner.rate: expected a number"),
        ({"size": 1, "inner": {"rate": float("inf")}}, "model.inner.rate: expected a number"),
        ({"size": 1, "inner": {"rate": 10**400}}, "model.inner.rate: expected a number"),
        ({"size": 1, "inner": {"rate": 0}}, "model.inner: rate must be above 0, found 0.0"),
        ({"size": 1, "inner": {"names": ["a", 2]}}, "model.inner.names[1]: expected a text"),
        ({"size": 1, "kind": "lrge"}, "model.kind: unknown value 'lrge', did you mean 'large'?"),
        ({"size": 1, "kind": ["large"]}, "model.kind: unknown value ['large'], did you mean"),
        ([], "model: expected an object, found []"),
        ("x", "model: expected an object, found 'x'"),
    ],
)
def test_a_problem_names_the_place_the_value_and_the_remedy(values, problem):
    (found,) = problems(values)
    assert found.startswith(problem)


def test_a_section_without_keys_says_so():
    assert problems({"x": 1}, Empty) == ("model: unknown key 'x', known: none",)


def test_every_problem_is_told_at_once():
    values = {"sze": 1, "is_on": "yes", "inner": {"rat": 1, "names": 3}, "parts": [{"rate": "x"}]}
    assert len(problems(values)) == 6


def test_a_value_of_any_length_and_depth_makes_a_short_sentence():
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 100_000, list(range(100_000)), deep):
        assert len(problems({"size": value})[0]) < 200


def test_choose_looks_up_and_suggests():
    assert choose("type", "a", {"a": 1}) == 1
    with pytest.raises(ConfigError, match="type: unknown value 'slahk', did you mean 'slakh'"):
        choose("type", "slahk", {"slakh": 1, "moises": 2})


def test_read_json_gives_the_object(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"name": "é"}', encoding="utf-8")
    assert read_json(path) == read_json(str(path)) == {"name": "é"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"<!DOCTYPE html>", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b"[1]", r"expected a JSON object, found \[1\]"),
        (b"null", "expected a JSON object, found None"),
    ],
)
def test_a_file_that_holds_no_json_object_is_named(tmp_path, content, reason):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"config.json: {reason}"):
        read_json(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.json: cannot be read \(No such file"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory"):
        read_json(tmp_path)


def test_an_error_keeps_its_message_from_one_process_to_another():
    error = ConfigError("a", "b")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == "a; b"
    assert copy.problems == ("a", "b")
