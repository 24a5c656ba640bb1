import json
from pathlib import Path

import pytest

from mge_plugin.check import check_configs

ROOT = Path(__file__).parents[2]
DATASETS = sorted((ROOT / "dataset_configs").glob("*.json"))


@pytest.mark.parametrize("path", DATASETS, ids=lambda path: path.stem)
def test_every_shipped_dataset_config_lacks_nothing_but_its_corpus(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind = json.loads(path.read_text())["dataset_type"]
    name = "vae_16k" if kind == "mge_tracks" else "dit_tiny"
    config = json.loads((ROOT / "model_configs" / f"mge_{name}.json").read_text())
    config["training"]["pre_encoded"] = kind == "mge_latents"
    model = tmp_path / "model.json"
    model.write_text(json.dumps(config))
    problems = check_configs(model, path)
    assert problems
    assert all("no such folder" in problem for problem in problems)


def test_songs_of_any_sample_rate_fit(check, corpus, tiny, triplets):
    assert check(tiny, triplets(corpus)) == []


def test_every_corpus_that_is_not_there_is_named(check, corpus, tiny, triplets):
    problems = check(tiny, triplets("absent", corpus, "gone"))
    assert problems == [
        "datasets: c0: absent: no such folder",
        "datasets: c2: gone: no such folder",
    ]


def test_a_corpus_without_the_split_or_songs_is_named(check, corpus, tmp_path, tiny, triplets):
    dataset = triplets(corpus, tmp_path)
    dataset["datasets"][0]["split"] = "validation"
    missing, empty = check(tiny, dataset)
    assert "has no split 'validation', found ['train']" in missing
    assert empty.startswith(f"datasets: c1: {tmp_path}: ")


def test_a_corpus_without_the_labels_asked_for_is_named(check, corpus, tiny, triplets):
    dataset = triplets(corpus)
    dataset["datasets"][0]["labels"] = ["bass", "harp"]
    (problem,) = check(tiny, dataset)
    assert problem.startswith("datasets: c0: ")
    assert "harp" in problem


def test_a_label_of_a_group_that_no_stem_has_is_named(check, corpus, tiny, triplets):
    groups = {"rhythm section": ["bass", "drum"]}
    (problem,) = check(tiny, triplets(corpus, source={"groups": groups}))
    assert "source.groups.rhythm section" in problem and "'drums'" in problem
    groups = {"rhythm section": ["bass", "drums"]}
    assert check(tiny, triplets(corpus, source={"groups": groups})) == []


def test_what_two_corpora_have_in_common_is_checked(check, corpus, tiny, triplets):
    (problem,) = check(tiny, triplets(corpus, corpus))
    assert "c0" in problem and "c1" in problem


@pytest.mark.parametrize(
    ("place", "key", "instead"),
    [
        ("dataset", "random_crop", "anywhere"),
        ("dataset", "volume_norm", "augment.gain_db"),
        ("entry", "custom_metadata_module", "templates"),
        ("entry", "keywords", "exclude_labels"),
    ],
)
def test_a_key_of_sats_that_does_not_apply_names_what_to_use(
    check, corpus, tiny, triplets, place, key, instead
):
    dataset = triplets(corpus)
    (dataset if place == "dataset" else dataset["datasets"][0])[key] = True
    (problem,) = check(tiny, dataset)
    assert key in problem and instead in problem


def test_a_model_and_a_dataset_of_different_kinds_do_not_fit(
    check, corpus, tmp_path, tiny, tiny_vae, changed, triplets
):
    folder = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(tmp_path)}]}
    assert check(tiny_vae, folder) == []
    (problem,) = check(tiny, folder)
    assert problem.endswith("dataset_type 'audio_dir' gives one: use 'mge_triplets'")
    (problem,) = check(tiny_vae, folder | {"dataset_type": []})
    assert "dataset_type" in problem
    (problem,) = check(tiny_vae, triplets(corpus))
    assert problem.endswith("not on dataset_type 'mge_triplets': use 'mge_tracks'")
    (problem,) = check(changed(tiny, ("training.pre_encoded", True)), triplets(corpus))
    assert problem.endswith("dataset_type 'mge_triplets' gives audio, not latents")


@pytest.mark.parametrize(
    ("dataset", "wrong"),
    [
        ({"dataset_type": "mge_triplts"}, "did you mean 'mge_triplets'?"),
        ({"dataset_type": "audio_dri"}, "did you mean 'audio_dir'?"),
        ({}, "dataset_type: unknown value None"),
        ({"dataset_type": "audio_dir"}, "datasets: expected a list of one or more, found None"),
        (
            {"dataset_type": "mge_triplets", "datasets": []},
            "datasets: expected one corpus or more, found none",
        ),
        (
            {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": "absent"}]},
            "datasets[0].path: no such folder 'absent'",
        ),
        (
            {"dataset_type": "pre_encoded", "datasets": [{"id": "a"}]},
            "datasets[0].path: expected a text, found None",
        ),
        (
            {
                "dataset_type": "audio_dir",
                "datasets": [{"id": "a", "path": ".", "custom_metadata_module": "absent.py"}],
            },
            "datasets[0].custom_metadata_module: no such file 'absent.py'",
        ),
    ],
)
def test_a_dataset_config_that_cannot_be_read_is_told_in_words(check, dataset, wrong, tiny):
    assert any(wrong in problem for problem in check(tiny, dataset))
