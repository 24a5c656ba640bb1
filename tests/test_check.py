import copy
import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import yaml

from mge_plugin.check import check_configs

ROOT = Path(__file__).parents[1]
MODELS = sorted((ROOT / "model_configs").glob("*.json"))
DATASETS = sorted((ROOT / "dataset_configs").glob("*.json"))
OOBLECK = {"c_mults": [1, 2], "strides": [2, 4], "use_snake": True}
VAE = {
    "encoder": {"type": "oobleck", "config": OOBLECK | {"in_channels": 32, "latent_dim": 64}},
    "decoder": {"type": "oobleck", "config": OOBLECK | {"out_channels": 32, "latent_dim": 32}},
    "bottleneck": {"type": "vae"},
    "latent_dim": 32,
    "downsampling_ratio": 256,
    "io_channels": 1,
    "in_channels": 32,
    "out_channels": 32,
    "pretransform": {"type": "patched", "config": {"channels": 1, "patch_size": 32}},
}
TINY = {
    "model_type": "diffusion_cond_inpaint",
    "sample_size": 32768,
    "sample_rate": 16000,
    "audio_channels": 1,
    "model": {
        "pretransform": {"type": "autoencoder", "iterate_batch": False, "config": VAE},
        "conditioning": {
            "configs": [{"id": "prompt", "type": "mge_hashed_words", "config": {}}],
            "cond_dim": 64,
        },
        "diffusion": {
            "type": "mge_dit",
            "diffusion_objective": "v",
            "global_cond_ids": ["prompt"],
            "config": {
                "io_channels": 96,
                "embed_dim": 192,
                "depth": 4,
                "num_heads": 6,
                "global_cond_dim": 64,
            },
        },
        "io_channels": 96,
    },
    "training": {
        "use_ema": True,
        "pre_encoded": False,
        "cfg_dropout_prob": 0.1,
        "timesteps": {"t_min": 0.02, "patterns": {"none": 1, "mixture": 1, "source": 0.5}},
        "optimizer_configs": {
            "diffusion": {"optimizer": {"type": "AdamW", "config": {"lr": 1e-3}}}
        },
        "demo": {"demo_every": 500, "demo_cfg_scales": [2]},
    },
}
TINY_VAE = {
    "model_type": "autoencoder",
    "sample_size": 16384,
    "sample_rate": 16000,
    "audio_channels": 1,
    "model": VAE,
    "training": {},
}

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


def write(path, config):
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return path


def nodes(value, path=()):
    """The place of every value in a JSON document, outermost first."""
    if path:
        yield path
    if isinstance(value, (dict, list)):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from nodes(child, (*path, key))


def changed(config, *changes):
    """A copy with (place, value) changes; a place is dotted, or a tuple of keys."""
    config = copy.deepcopy(config)
    for place, value in changes:
        *outer, last = place.split(".") if isinstance(place, str) else place
        section = config
        for key in outer:
            section = section[key]
        section[last] = value
    return config


@pytest.fixture
def check(tmp_path):
    """Problems of a model config and, if given, of a dataset config, without the files' names."""

    def run(model, dataset=None):
        model_path = write(tmp_path / "model.json", model)
        dataset_path = None if dataset is None else write(tmp_path / "dataset.json", dataset)
        problems = check_configs(model_path, dataset_path)
        return [
            p.removeprefix(f"{model_path}: ").removeprefix(f"{dataset_path}: ") for p in problems
        ]

    return run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Two songs in Slakh's layout, stems of other rates than the model's."""
    root = tmp_path_factory.mktemp("slakh")
    for number, rate in ((1, 48000), (2, 8000)):
        song = root / "train" / f"Track{number:05d}"
        (song / "stems").mkdir(parents=True)
        stems = {"S00": {"program_num": 33, "is_drum": False}, "S01": {"program_num": 128}}
        (song / "metadata.yaml").write_text(yaml.safe_dump({"stems": stems}))
        for name in stems:
            sf.write(song / "stems" / f"{name}.wav", np.full(rate, 0.1), rate)
    return root


def triplets(*paths, **options):
    datasets = [{"id": f"c{i}", "path": str(path)} for i, path in enumerate(paths)]
    return {"dataset_type": "mge_triplets", "datasets": datasets} | options


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_every_shipped_model_config_is_sound(path):
    assert check_configs(path) == []


@pytest.mark.parametrize("path", DATASETS, ids=lambda path: path.stem)
def test_every_shipped_dataset_config_lacks_nothing_but_its_corpus(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracks = json.loads(path.read_text())["dataset_type"] == "audio_dir"
    model = ROOT / "model_configs" / f"mge_{'vae' if tracks else 'dit'}_16k.json"
    (problem,) = check_configs(model, path)
    assert "no such folder" in problem


def test_songs_of_any_sample_rate_fit(check, corpus):
    assert check(TINY, triplets(corpus)) == []


def test_all_problems_are_told_at_once(check, corpus):
    model = changed(
        TINY,
        ("sample_size", 1000),
        ("audio_channels", 2),
        ("model.io_channels", 99),
        ("model.conditioning.cond_dim", 65),
        ("model.diffusion.config.num_heads", 5),
        ("model.diffusion.dffusion_objective", "v"),
        ("model.pretransform.config.downsampling_ratio", 128),
        ("model_type", "diffusion_cond"),
        ("training.timesteps.t_min", 1.5),
        ("training.demo.demo_evry", 3),
        ("training.optimizer_configs", None),
    )
    dataset = triplets("absent", corpus, "gone", sed=3)
    expected = [
        "sample_size 1000 is not divisible by the downsampling ratio 128; the nearest that is: "
        "1024",
        "audio_channels is 2, but model.pretransform.config.io_channels is 1",
        "model.io_channels is 99, expected 3 x 32 latent channels = 96",
        "model.io_channels is 99, but model.diffusion.config.io_channels is 96: they must be equal",
        "model.conditioning.cond_dim is 65, but model.diffusion.config.global_cond_dim is 64: "
        "they must be equal",
        "model.diffusion.config: num_heads must divide embed_dim 192, found 5",
        "model.diffusion: unknown key 'dffusion_objective', did you mean 'diffusion_objective'?",
        "model.pretransform.config.downsampling_ratio is 128, but "
        "model.pretransform.config.encoder.config.strides [2, 4], times patches of 32, make 256",
        "model.pretransform.config.downsampling_ratio is 128, but "
        "model.pretransform.config.decoder.config.strides [2, 4], times patches of 32, make 256",
        "model_type: expected 'diffusion_cond_inpaint', found 'diffusion_cond'",
        "training.timesteps: t_min must be from 0 to below 1, found 1.5",
        "training.demo: unknown key 'demo_evry', did you mean 'demo_every'?",
        "training: learning_rate or optimizer_configs.diffusion is needed",
        "dataset config: unknown key 'sed', did you mean 'seed'?",
        "datasets: c0: absent: no such folder",
        "datasets: c2: gone: no such folder",
    ]
    assert sorted(check(model, dataset)) == sorted(expected)


@pytest.mark.parametrize(
    ("size", "nearest"), [(1, 256), (128, 256), (255, 256), (383, 256), (400, 512), (32769, 32768)]
)
def test_the_nearest_sample_size_is_named(check, size, nearest):
    (problem,) = check(changed(TINY, ("sample_size", size)))
    assert problem.endswith(f"the nearest that is: {nearest}")


def test_a_size_left_out_is_the_networks_own(check):
    model = copy.deepcopy(TINY)
    del model["model"]["diffusion"]["config"]["io_channels"]
    (problem,) = check(model)
    assert "model.io_channels is 96, but model.diffusion.config.io_channels is 192" in problem


@pytest.mark.parametrize("names", [["prmpt"], [], ["prompt", "tempo"]])
def test_prompts_that_nothing_embeds_are_named(check, names):
    (problem,) = check(changed(TINY, ("model.diffusion.global_cond_ids", names)))
    assert problem == f"model.diffusion.global_cond_ids: expected ids of ['prompt'], found {names}"


def test_an_autoencoder_is_checked_too(check):
    changes = ("sample_size", 2049), ("model.encoder.config.strides", [2, 2])
    strides, size = check(changed(TINY_VAE, *changes))
    assert "but model.encoder.config.strides [2, 2], times patches of 32, make 128" in strides
    assert "not divisible by the downsampling ratio 256; the nearest that is: 2048" in size


def test_the_ratio_of_an_autoencoder_of_waveforms_is_its_strides_alone(check):
    waveforms = changed(TINY_VAE, ("model.pretransform", None), ("model.downsampling_ratio", 8))
    assert check(waveforms) == []
    wrong = check(changed(waveforms, ("model.downsampling_ratio", 16)))
    assert wrong == [
        f"model.downsampling_ratio is 16, but model.{part}.config.strides [2, 4] make 8"
        for part in ("encoder", "decoder")
    ]


def test_a_model_of_another_kind_is_not_ours(check):
    (problem,) = check({"model_type": "diffusion_cond", "model": {"diffusion": {"type": "dit"}}})
    assert "found 'dit' and 'diffusion_cond'" in problem


def test_every_corpus_that_is_not_there_is_named(check, corpus):
    problems = check(TINY, triplets("absent", corpus, "gone"))
    assert problems == [
        "datasets: c0: absent: no such folder",
        "datasets: c2: gone: no such folder",
    ]


def test_a_corpus_without_the_split_or_songs_is_named(check, corpus, tmp_path):
    dataset = triplets(corpus, tmp_path)
    dataset["datasets"][0]["split"] = "validation"
    missing, empty = check(TINY, dataset)
    assert "has no split 'validation', found ['train']" in missing
    assert empty.startswith(f"datasets: c1: {tmp_path}: ")


def test_a_corpus_without_the_labels_asked_for_is_named(check, corpus):
    dataset = triplets(corpus)
    dataset["datasets"][0]["labels"] = ["bass", "harp"]
    (problem,) = check(TINY, dataset)
    assert problem.startswith("datasets: c0: ")
    assert "harp" in problem


def test_a_model_and_a_dataset_of_different_kinds_do_not_fit(check, corpus, tmp_path):
    folder = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(tmp_path)}]}
    assert check(TINY_VAE, folder) == []
    (problem,) = check(TINY, folder)
    assert problem.endswith("dataset_type 'audio_dir' gives one: use 'mge_triplets'")
    (problem,) = check(TINY_VAE, triplets(corpus))
    assert problem.endswith("not on dataset_type 'mge_triplets': use 'audio_dir'")
    (problem,) = check(changed(TINY, ("training.pre_encoded", True)), triplets(corpus))
    assert problem.endswith("dataset_type 'mge_triplets' gives audio, not latents")


@pytest.mark.parametrize(
    ("dataset", "wrong"),
    [
        ({"dataset_type": "mge_triplts"}, "did you mean 'mge_triplets'?"),
        ({"dataset_type": "audio_dri"}, "did you mean 'audio_dir'?"),
        ({}, "dataset_type: unknown value None"),
        ({"dataset_type": "audio_dir"}, "datasets: expected a list of one or more, found None"),
        (triplets(), "datasets: expected one corpus or more, found none"),
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
def test_a_dataset_config_that_cannot_be_read_is_told_in_words(check, dataset, wrong):
    assert any(wrong in problem for problem in check(TINY, dataset))


def test_files_that_are_missing_or_no_json_are_both_named(tmp_path):
    broken = write(tmp_path / "broken.json", "{")
    absent, no_json = check_configs(tmp_path / "absent.json", broken)
    assert absent.startswith(f"{tmp_path / 'absent.json'}: cannot be read")
    assert no_json.startswith(f"{broken}: not valid JSON")


@pytest.mark.parametrize(
    "model",
    [{}, {"model": 3}, {"model": {"diffusion": {"type": "mge_dit"}}}, {"model_type": "autoencoder"}]
    + [{"model": {"diffusion": {"type": "mge_dit", "config": value}}} for value in ([], "x", None)],
)
def test_a_model_config_of_almost_nothing_has_problems(check, model):
    assert check(model)


def are_sentences(problems):
    return all(isinstance(problem, str) and problem for problem in problems)


def test_a_model_config_with_an_odd_value_anywhere_gets_sentences(check):
    for place, value in product(nodes(TINY), ODD_VALUES):
        assert are_sentences(check(changed(TINY, (place, value)))), (place, value)


def is_sats(place):
    inside = any(place[: len(own)] == own for own in SATS_OWN)
    return (inside and "strides" not in place) or "optimizer_configs" in place


def test_a_value_of_the_wrong_type_is_a_problem_wherever_we_read_it(check):
    ours = [place for place in nodes(TINY) if not is_sats(place)]
    for place, value in product(ours, ({"a": "text"}, [None])):
        assert check(changed(TINY, (place, value))), (place, value)


def test_a_dataset_config_with_odd_values_gets_sentences(check, corpus, tmp_path):
    audio_dir = {
        "dataset_type": "audio_dir",
        "datasets": [{"id": "a", "path": str(tmp_path), "custom_metadata_module": "a.py"}],
    }
    ours = triplets(corpus, seed=1, silence_db=-60.0)
    ours["datasets"][0] |= {"labels": ["bass"], "split": "train", "type": "slakh"}
    for config in (audio_dir, ours):
        for place, value in product(nodes(config), ODD_VALUES):
            assert are_sentences(check(TINY, changed(config, (place, value)))), (place, value)
