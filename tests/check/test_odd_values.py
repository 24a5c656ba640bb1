from itertools import product

import pytest

from mge_plugin import check as check_module
from mge_plugin.config import at

AUTOENCODER = ("model", "pretransform", "config")
SATS_OWN = (  # sections that SAT reads by itself
    (*AUTOENCODER, "encoder", "type"),
    (*AUTOENCODER, "encoder", "config"),
    (*AUTOENCODER, "decoder", "type"),
    (*AUTOENCODER, "decoder", "config"),
    (*AUTOENCODER, "bottleneck"),
    (*AUTOENCODER, "in_channels"),
    (*AUTOENCODER, "out_channels"),
    (*AUTOENCODER, "pretransform"),
    ("model", "pretransform", "iterate_batch"),
)
ODD_VALUES = (None, True, 0, -1, 2.5, 10**400, float("nan"), "", "x", "\ud800", "~x/y", [], {})
ODD_VALUES += ([[]], [None], {"a": None}, "x" * 5000)


def nodes(value, path=()):
    """The place of every value in a JSON document, outermost first."""
    if path:
        yield path
    if isinstance(value, (dict, list)):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from nodes(child, (*path, key))


def are_sentences(problems):
    return all(isinstance(problem, str) and problem for problem in problems)


def is_sats(place):
    inside = any(place[: len(own)] == own for own in SATS_OWN)
    return (inside and "strides" not in place) or "optimizer_configs" in place


@pytest.fixture
def build_once(monkeypatch):
    """Build a model again only if more than its training section has changed."""
    build, built = check_module._build, {}

    def build_or_recall(config):
        key = repr({**config, "training": at(config, "training.pre_encoded")})
        if key not in built:
            built[key] = build(config)
        return built[key]

    monkeypatch.setattr(check_module, "_build", build_or_recall)


def test_a_model_config_with_an_odd_value_anywhere_gets_sentences(check, tiny, changed, build_once):
    for place, value in product(nodes(tiny), ODD_VALUES):
        assert are_sentences(check(changed(tiny, (place, value)))), (place, value)


def test_a_value_of_the_wrong_type_is_a_problem_wherever_we_read_it(
    check, tiny, changed, build_once
):
    ours = [place for place in nodes(tiny) if not is_sats(place)]
    for place, value in product(ours, ({"a": "text"}, [None])):
        assert check(changed(tiny, (place, value))), (place, value)


def test_a_dataset_config_with_odd_values_gets_sentences(
    check, corpus, tmp_path, tiny, changed, triplets, build_once
):
    audio_dir = {
        "dataset_type": "audio_dir",
        "datasets": [{"id": "a", "path": str(tmp_path), "custom_metadata_module": "a.py"}],
    }
    ours = triplets(corpus, seed=1, silence_db=-60.0)
    ours["datasets"][0] |= {"labels": ["bass"], "split": "train", "type": "slakh"}
    for config in (audio_dir, ours):
        for place, value in product(nodes(config), ODD_VALUES):
            assert are_sentences(check(tiny, changed(config, (place, value)))), (place, value)
