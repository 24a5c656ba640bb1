"""What SAT's Generation tab asks of this model, by the arguments of SAT's own `generate_cond`."""

import inspect
import math

import gradio as gr
import numpy as np
import pytest
import torch
from stable_audio_tools.interface.interfaces import diffusion_cond as sat

from mge_plugin.interface.generation_tab import Asked, parse_prompt
from mge_plugin.registry import original
from tests.interface.conftest import RATE, WINDOW, as_numpy, tiny_model

BASS = "The sound of the bass"
SAT_SAMPLERS = (
    "dpmpp-2m-sde", "dpmpp-3m-sde", "dpmpp-2m", "k-heun", "k-lms", "k-dpmpp-2s-ancestral",
    "k-dpm-2", "k-dpm-adaptive", "k-dpm-fast", "v-ddim", "v-ddim-cfgpp",
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "has_audio", "expected"),
    [
        ("a slow ballad, with strings", False, ("generate", ("a slow ballad, with strings",))),
        (BASS, True, ("extract", (BASS,))),
        ("bass\ndrums", True, ("extract", ("bass", "drums"))),
        ("Add: the sound of the bass, deep", True, ("add", ("the sound of the bass, deep",))),
        ("accompany:a band", True, ("accompany", ("a band",))),
        ("compose: drums, bass\npiano", False, ("compose", ("drums", "bass", "piano"))),
        ("generate: x", True, ("generate", ("x",))),
        ("verse: slow", False, ("generate", ("verse: slow",))),
        ("", True, ("extract", ("",))),
    ],
)
def test_a_prefix_chooses_the_task(text, has_audio, expected):
    assert parse_prompt(text, has_audio) == expected


def test_a_prompt_alone_makes_one_window(generate):
    audio, rate, pictures = generate("a song")
    assert (audio.shape, rate) == ((1, WINDOW), RATE)
    assert len(pictures) == 1
    assert "seed 1" in pictures[0][1]


def test_the_length_is_asked_in_seconds_beyond_a_window_too(generate):
    assert generate("a song", seconds_total=1.3)[0].shape == (1, round(1.3 * RATE))


@pytest.mark.parametrize("prompt", [BASS, f"add: {BASS}", "accompany: a band", "generate: a song"])
def test_the_result_is_as_the_given_audio_is(generate, prompt, song, song_file):
    for given in (as_numpy(*song), str(song_file)):
        audio, rate, _ = generate(prompt, inpaint_audio=given)
        assert (audio.shape, rate) == (song[0].shape, song[1])
        assert np.isfinite(audio).all()


def test_compose_needs_no_audio(generate):
    assert generate("compose: drums, bass")[0].shape == (1, WINDOW)


def test_silence_gives_silence(generate):
    silence = (44100, np.zeros((30000, 2), np.int16))
    audio, _, _ = generate(BASS, inpaint_audio=silence)
    assert not audio.any()


def test_beside_the_mask_extraction_leaves_the_audio(generate, song):
    audio, _, _ = generate(
        BASS, inpaint_audio=as_numpy(*song), mask_maskstart=0.2, mask_maskend=0.4
    )
    outside = np.r_[0 : int(0.2 * 44100), int(0.4 * 44100) + 1 : song[0].shape[1]]
    np.testing.assert_allclose(audio[:, outside], song[0][:, outside], atol=1e-4)
    assert np.abs(audio - song[0]).max() > 0.05


@pytest.mark.parametrize("prompt", ["add: bass", "accompany: a band"])
def test_a_new_track_sounds_between_the_masks_ends_only(generate, song, prompt):
    audio, _, _ = generate(
        prompt, inpaint_audio=as_numpy(*song), mask_maskstart=0.2, mask_maskend=0.4
    )
    assert not audio[:, : int(0.2 * 44100)].any()
    assert not audio[:, int(0.4 * 44100) + 1 :].any()
    assert audio.any()


def test_music_anew_between_the_masks_ends_keeps_the_rest(generate, song):
    audio, _, _ = generate(
        "generate: a song", inpaint_audio=as_numpy(*song), mask_maskstart=0.2, mask_maskend=0.4
    )
    np.testing.assert_allclose(audio[:, :8000], song[0][:, :8000], atol=1e-4)
    assert np.abs(audio - song[0]).max() > 0.05


@pytest.mark.parametrize("sampler", SAT_SAMPLERS)
def test_every_sampler_of_sats_list_runs(generate, sampler):
    steps = 4 if sampler == "k-dpm-fast" else 3
    audio, _, _ = generate("a song", steps=steps, sampler_type=sampler)
    assert np.isfinite(audio).all()


def test_the_settings_do_what_their_labels_say(generate):
    plain = generate("a song", steps=4)[0]
    assert np.array_equal(generate("a song", steps=4)[0], plain)
    changes = [
        {"seed": "2"},
        {"steps": 3},
        {"cfg_scale": 4.0},
        {"cfg_rescale": 0.7},
        {"cfg_interval_max": 0.8},
        {"negative_prompt": "noise"},
    ]
    if "apg_scale" in inspect.signature(original(sat.generate_cond)).parameters:
        plain = generate("a song", steps=4, apg_scale=0.0)[0]
        changes.append({"apg_scale": 1.0})
    for change in changes:
        assert not np.array_equal(generate("a song", **{"steps": 4} | change)[0], plain), change


def test_a_random_seed_differs_and_is_told(generate):
    _, _, first = generate("a song", seed="-1")
    assert generate.path.stem.startswith("a_song_cfg2_seed")
    assert generate.path.stem.split("seed")[1] in first[0][1]
    _, _, second = generate("a song", seed="-1")
    assert first[0][1] != second[0][1]


def test_previews_come_every_so_many_steps(generate):
    _, _, pictures = generate("a song", steps=6, preview_every=2)
    assert [caption.split(",")[0] for _, caption in pictures[1:]] == ["step 1", "step 3", "step 5"]


@pytest.mark.parametrize(
    ("objective", "sampler", "noise", "level"),
    [
        ("v", "dpmpp-3m-sde", 1.0, 0.5),
        ("v", "k-heun", 100.0, 2 / math.pi * math.atan(100)),
        ("v", "v-ddim", 0.3, 0.3),
        ("v", "v-ddim", 8, 1.0),
        ("rectified_flow", "euler", 0.9, 0.9),
    ],
)
def test_the_init_noise_level_is_sats(objective, sampler, noise, level):
    asked = Asked({"init_noise_level": noise, "sampler_type": sampler}, objective)
    assert asked.init_level == pytest.approx(level)


def test_a_variation_has_the_form_of_its_beginning(generate, song):
    inputs = {"init_audio": as_numpy(*song), "init_noise_level": 0.3}
    audio, rate, _ = generate("a song", **inputs)
    assert (audio.shape, rate) == (song[0].shape, song[1])
    other = generate("a song", **inputs | {"init_noise_level": 0.9})[0]
    assert not np.array_equal(audio, other)


@pytest.mark.parametrize(
    ("prompt", "inputs", "says"),
    [
        ("extract: bass", {}, "extract: needs the mixture as the Inpaint audio, found none"),
        ("compose: bass", {"inpaint_audio": "song"}, "compose: begins from nothing"),
        ("", {"inpaint_audio": "song"}, "prompt: expected words"),
        ("a", {"seed": "x"}, "seed: expected a whole number or -1, found 'x'"),
        ("a", {"seed": "-7"}, "seed: expected 0 to"),
        ("a", {"cfg_interval_min": 0.9, "cfg_interval_max": 0.1}, "cfg_interval: expected"),
        (BASS, {"inpaint_audio": "song", "mask_maskstart": 5}, "mask: expected its start"),
        (BASS, {"inpaint_audio": "wrong"}, "Inpaint audio: wrong.wav: not readable as audio"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(generate, prompt, inputs, says, song_file, tmp_path):
    (tmp_path / "wrong.wav").write_text("no audio")
    places = {"song": str(song_file), "wrong": str(tmp_path / "wrong.wav")}
    inputs = {k: places.get(v, v) for k, v in inputs.items()}
    with pytest.raises(gr.Error, match=says) as caught:
        generate(prompt, **inputs)
    assert str(tmp_path) not in str(caught.value)


def test_half_precision_runs_on_a_cpu(generate, monkeypatch):
    half = tiny_model().to(torch.float16)
    monkeypatch.setattr(sat, "model", half)
    audio, _, _ = generate("a song")
    assert np.isfinite(audio).all()
    assert {p.dtype for p in half.parameters()} == {torch.float32}


@pytest.mark.skipif(not hasattr(sat, "has_lora"), reason="LoRA came with SAT 0.0.20")
def test_loras_have_the_strengths_asked_for(model, generate, monkeypatch):
    import stable_audio_tools.models.lora as lora

    told = []
    monkeypatch.setattr(
        lora, "set_lora_strength", lambda part, x, lora_index: told.append((part, x))
    )
    inputs = list(inspect.signature(original(sat.generate_cond)).parameters.values())[1:-1]
    values = {p.name: p.default for p in inputs}
    values |= {"steps": 2, "sampler_type": "v-ddim", "seconds_total": 0}
    sat.generate_cond("a song", *values.values(), 0.5, 0, 1, "", 0.25, 0, 1, "")
    expected = [(part, x) for x in (0.5, 0.25) for part in (model.model, model.conditioner)]
    assert told == expected


def test_any_other_model_reaches_sats_own_function(monkeypatch):
    class Other(torch.nn.Module):
        pretransform = None

        def parameters(self):
            raise LookupError("SAT's function asks a model for its parameters")

    monkeypatch.setattr(sat, "model", Other())
    with pytest.raises(LookupError):
        sat.generate_cond("a song")
