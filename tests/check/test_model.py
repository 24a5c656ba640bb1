import copy
from pathlib import Path

import pytest

from mge_plugin.check import check_configs

ROOT = Path(__file__).parents[2]
MODELS = sorted((ROOT / "model_configs").glob("*.json"))


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_every_shipped_model_config_is_sound(path, tmp_path, monkeypatch):
    """CLAP's files lie where the README says, in the working directory."""
    tokenizer = tmp_path / "checkpoints" / "roberta-base"
    tokenizer.mkdir(parents=True)
    (tokenizer / "tokenizer.json").touch()
    (tmp_path / "checkpoints" / "music_audioset_epoch_15_esc_90.14.pt").touch()
    monkeypatch.chdir(tmp_path)
    assert check_configs(path) == []


def test_claps_missing_files_are_named_with_their_keys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint, tokenizer = check_configs(ROOT / "model_configs" / "mge_dit_16k.json")
    where = "model.conditioning.configs[0].config"
    assert f"{where}.ckpt_path: no such file 'checkpoints/music_audioset" in checkpoint
    assert f"{where}.tokenizer_path: 'checkpoints/roberta-base' is not a folder" in tokenizer


def test_all_problems_are_told_at_once(check, corpus, tiny, changed, triplets):
    model = changed(
        tiny,
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
def test_the_nearest_sample_size_is_named(check, size, nearest, tiny, changed):
    (problem,) = check(changed(tiny, ("sample_size", size)))
    assert problem.endswith(f"the nearest that is: {nearest}")


def test_a_size_left_out_is_the_networks_own(check, tiny):
    model = copy.deepcopy(tiny)
    del model["model"]["diffusion"]["config"]["io_channels"]
    (problem,) = check(model)
    assert "model.io_channels is 96, but model.diffusion.config.io_channels is 192" in problem


@pytest.mark.parametrize("names", [["prmpt"], [], ["prompt", "tempo"]])
def test_prompts_that_nothing_embeds_are_named(check, names, tiny, changed):
    (problem,) = check(changed(tiny, ("model.diffusion.global_cond_ids", names)))
    assert problem == f"model.diffusion.global_cond_ids: expected ids of ['prompt'], found {names}"


def test_an_autoencoder_is_checked_too(check, tiny_vae, changed):
    changes = ("sample_size", 2049), ("model.encoder.config.strides", [2, 2])
    strides, size = check(changed(tiny_vae, *changes))
    assert "but model.encoder.config.strides [2, 2], times patches of 32, make 128" in strides
    assert "not divisible by the downsampling ratio 256; the nearest that is: 2048" in size


def test_the_ratio_of_an_autoencoder_of_waveforms_is_its_strides_alone(check, tiny_vae, changed):
    waveforms = changed(tiny_vae, ("model.pretransform", None), ("model.downsampling_ratio", 8))
    assert check(waveforms) == []
    wrong = check(changed(waveforms, ("model.downsampling_ratio", 16)))
    assert wrong == [
        f"model.downsampling_ratio is 16, but model.{part}.config.strides [2, 4] make 8"
        for part in ("encoder", "decoder")
    ]


def test_a_model_of_another_kind_is_not_ours(check):
    (problem,) = check({"model_type": "diffusion_cond", "model": {"diffusion": {"type": "dit"}}})
    assert "found 'dit' and 'diffusion_cond'" in problem


def test_files_that_are_missing_or_no_json_are_both_named(tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text("{")
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


AUTOENCODER = "model.pretransform.config"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            [
                (f"{AUTOENCODER}.latent_dim", 16),
                ("model.io_channels", 48),
                ("model.diffusion.config.io_channels", 48),
            ],
            "model.pretransform: encoding",
        ),
        ([("model.pretransform.scale", "one")], "model.pretransform.scale"),
        ([("training.demo.num_demos", 0)], "num_demos"),
        ([("training.optimizer_configs.diffusion.optimizer.type", "AdmW")], "AdamW"),
        ([("training.optimizer_configs.diffusion.optimizer.config.lrr", 1)], "lrr"),
        (
            [("training.optimizer_configs.diffusion.optimizer.config.betas", [0.9])],
            "optimizer.config",
        ),
        ([("training.timestep_sampler", "logit_normal")], "timesteps.levels"),
        ([("training.ema_beta", 1.0)], "ema_beta"),
    ],
)
def test_what_breaks_at_the_first_step_is_reported(check, tiny, changed, changes, named):
    assert any(named in problem for problem in check(changed(tiny, *changes)))
