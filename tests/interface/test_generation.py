"""SAT's Generation tab with this model: what its arguments request, and what the page shows."""

import inspect
import math

import gradio as gr
import numpy as np
import pytest
import soundfile as sf
import torch
from stable_audio_tools.interface import gradio as sat_gradio
from stable_audio_tools.interface.interfaces import diffusion_cond as sat

from mge_plugin.interface import generation_tab, media
from mge_plugin.interface.generation_tab import _Inputs, _parse_prompt
from mge_plugin.interface.sessions import QUEUE, Step, desk_of
from tests.interface.conftest import RATE, WINDOW, make_ui, tiny_config, tiny_model

BASS = "The sound of the bass"
SAT_SAMPLERS = (
    "dpmpp-2m-sde", "dpmpp-3m-sde", "dpmpp-2m", "k-heun", "k-lms", "k-dpmpp-2s-ancestral",
    "k-dpm-2", "k-dpm-adaptive", "k-dpm-fast", "v-ddim", "v-ddim-cfgpp",
)  # fmt: skip
# Everything on the Generation tab that a user sees; each of it is tried below.
WORKING = {
    "Seconds total", "Steps", "CFG scale", "Seed (set to -1 for random seed)", "CFG interval min",
    "CFG interval max", "CFG rescale amount", "APG scale", "Sampler type", "File format",
    "File naming", "Spec Preview Every", "Autoplay", "Infinite Radio", "Auto Download",
    "Init audio", "Init noise level", "Inpaint audio", "Mask Start (sec)", "Mask End (sec)",
    "Output audio", "Output spectrogram",
}  # fmt: skip
if "apg_scale" not in inspect.signature(sat.generate_cond).parameters:  # SAT 0.0.19
    WORKING.remove("APG scale")


def as_numpy(audio, rate):
    """(channels, samples) as Gradio passes a 16-bit file."""
    return rate, np.rint(audio.T * 32768).astype(np.int16)


@pytest.fixture
def generate(desk):
    """What the button does, with few steps: (audio, rate, pictures); `path` is the last file's."""
    defaults = {
        name: p.default for name, p in inspect.signature(sat.generate_cond).parameters.items()
    }

    def run(prompt=BASS, **values):
        few = {"steps": 2, "sampler_type": "v-ddim", "cfg_scale": 2.0, "seconds_total": 0}
        values = defaults | few | {"prompt": prompt, "seed": "1", "apg_scale": 0.0} | values
        inputs = _Inputs(values, "v")
        (news,) = (
            n for n in generation_tab.generate(desk, "page", inputs) if not isinstance(n, Step)
        )
        run.path, pictures = news
        audio, sample_rate = sf.read(run.path, dtype="float32", always_2d=True)
        return audio.T, sample_rate, pictures

    return run


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
    assert _parse_prompt(text, has_audio) == expected


def test_a_prompt_alone_makes_one_window_or_the_given_seconds(generate):
    audio, rate, pictures = generate("a song")
    assert (audio.shape, rate) == ((1, WINDOW), RATE)
    assert len(pictures) == 1 and "seed 1" in pictures[0][1]
    assert generate("a song", seconds_total=1.3)[0].shape == (1, round(1.3 * RATE))
    assert generate("compose: drums, bass")[0].shape == (1, WINDOW)


@pytest.mark.parametrize("prompt", [BASS, f"add: {BASS}", "accompany: a band", "generate: a song"])
def test_the_result_has_the_form_of_the_given_audio(generate, prompt, song, song_file):
    for given in (as_numpy(*song), str(song_file)):
        audio, rate, _ = generate(prompt, inpaint_audio=given)
        assert (audio.shape, rate) == (song[0].shape, song[1])
        assert np.isfinite(audio).all()


def test_silence_gives_silence(generate):
    audio, _, _ = generate(BASS, inpaint_audio=(44100, np.zeros((30000, 2), np.int16)))
    assert not audio.any()


@pytest.mark.parametrize("prompt", [BASS, "add: bass", "accompany: a band", "generate: a song"])
def test_beside_the_mask_nothing_changes(generate, song, prompt):
    """Extraction and new music keep the audio there, a new track is silent."""
    mask = {"mask_maskstart": 0.2, "mask_maskend": 0.4}
    audio, _, _ = generate(prompt, inpaint_audio=as_numpy(*song), **mask)
    outside = np.r_[0 : int(0.2 * 44100), int(0.4 * 44100) + 1 : song[0].shape[1]]
    is_track = prompt.startswith(("add", "accompany"))
    expected = np.zeros_like(song[0]) if is_track else song[0]
    np.testing.assert_allclose(audio[:, outside], expected[:, outside], atol=1e-4)
    assert np.abs(audio - expected).max() > 0.001


@pytest.mark.parametrize("sampler", SAT_SAMPLERS)
def test_every_sampler_of_sats_list_runs(generate, sampler):
    audio, _, _ = generate("a song", steps=6, sampler_type=sampler)
    assert np.isfinite(audio).all()


def test_the_settings_do_what_their_labels_say(generate):
    plain = generate("a song", steps=4)[0]
    assert np.array_equal(generate("a song", steps=4)[0], plain)
    changes = (
        {"seed": "2"}, {"steps": 3}, {"cfg_scale": 4.0}, {"cfg_rescale": 0.7}, {"apg_scale": 1.0},
        {"cfg_interval_max": 0.8}, {"negative_prompt": "noise"},
    )  # fmt: skip
    for change in changes:
        assert not np.array_equal(generate("a song", **{"steps": 4} | change)[0], plain), change


def test_a_random_seed_differs_and_is_in_the_files_name(generate):
    _, _, first = generate("a song", seed="-1", file_naming="verbose")
    name = generate.path
    seed = first[0][1].split("seed ")[1].split(",")[0]
    assert name.endswith(f"a_song_cfg2_seed{seed}.wav")
    generate("a song", seed="-1", file_naming="verbose")
    assert generate.path.split("seed")[1] != name.split("seed")[1]


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
    inputs = _Inputs({"init_noise_level": noise, "sampler_type": sampler}, objective)
    assert inputs.init_level == pytest.approx(level)


def test_a_variation_has_the_form_of_its_beginning(generate, song):
    values = {"init_audio": as_numpy(*song), "init_noise_level": 0.3}
    audio, rate, _ = generate("a song", **values)
    assert (audio.shape, rate) == (song[0].shape, song[1])
    other = generate("a song", **values | {"init_noise_level": 0.9})[0]
    assert not np.array_equal(audio, other)


@pytest.mark.parametrize(
    ("prompt", "values", "named"),
    [
        ("extract: bass", {}, "extract: .*Inpaint audio"),
        ("compose: bass", {"inpaint_audio": "song"}, "compose"),
        ("", {"inpaint_audio": "song"}, "prompt"),
        ("a", {"seed": "x"}, "seed: .*'x'"),
        ("a", {"seed": "-7"}, "seed"),
        ("a", {"cfg_interval_min": 0.9, "cfg_interval_max": 0.1}, "cfg_interval"),
        (BASS, {"inpaint_audio": "song", "mask_maskstart": 5}, "mask"),
        (BASS, {"inpaint_audio": "wrong"}, "Inpaint audio: wrong.wav"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(generate, prompt, values, named, song_file, tmp_path):
    (tmp_path / "wrong.wav").write_text("no audio")
    places = {"song": str(song_file), "wrong": str(tmp_path / "wrong.wav")}
    with pytest.raises(ValueError, match=named) as caught:
        generate(prompt, **{k: places.get(v, v) for k, v in values.items()})
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("naming", ["verbose", "prompt", "output.wav"])
def test_files_stay_in_gradios_folder(generate, naming, gradio_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generate('../../x"; touch pwned; $(touch pwned) / a', file_naming=naming, file_format="flac")
    assert generate.path.startswith(f"{gradio_folder}/mge_")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", media.formats())
def test_every_file_format_of_the_page(generate, form, song):
    audio, rate, _ = generate(BASS, inpaint_audio=as_numpy(*song), file_format=form)
    assert generate.path.endswith(f".{form.split()[0]}") and rate == 44100
    assert abs(audio.shape[1] - song[0].shape[1]) <= 4608  # MP3 pads


def test_mp3_rates_are_as_they_say(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 441000)).astype(np.float32)
    for form, kbit in (("mp3 320k", 320), ("mp3 128k", 128)):
        if form in media.formats():
            size = media.write_audio(tmp_path, form, noise, 44100, form).stat().st_size
            assert size * 8 / 10_000 == pytest.approx(kbit, rel=0.02)


def test_what_a_format_would_clip_is_a_wav_file(generate, monkeypatch):
    monkeypatch.setattr(generation_tab, "format_problem", lambda *_: "its peak would be clipped")
    _, _, pictures = generate("a song", file_format="flac")
    assert generate.path.endswith(".wav") and "no flac" in pictures[0][1]


def test_half_precision_runs_on_a_cpu():
    half = tiny_model().to(torch.float16)
    desk_of(half, WINDOW)
    assert {p.dtype for p in half.parameters()} == {torch.float32}


@pytest.mark.skipif(not hasattr(sat, "has_lora"), reason="LoRA came with SAT 0.0.20")
def test_loras_have_the_strengths_of_their_sliders(desk, monkeypatch):
    import stable_audio_tools.models.lora as lora

    set_, model = [], desk.pipeline.model
    monkeypatch.setattr(
        lora, "set_lora_strength", lambda part, x, lora_index: set_.append((part, x))
    )
    generation_tab._set_lora_strengths(model, (0.5, 0, 1, "", 0.25, 0, 1, ""))
    assert set_ == [(part, x) for x in (0.5, 0.25) for part in (model.model, model.conditioner)]


# The page


@pytest.fixture(scope="module")
def ui():
    return make_ui(tiny_model())


def visible(ui, tab):
    """All components that are seen in a tab."""

    def inside(block):
        if block.visible:
            yield block
            for child in getattr(block, "children", []):
                yield from inside(child)

    (found,) = [b for b in ui.blocks.values() if isinstance(b, gr.Tab) and b.label == tab]
    return [b for b in inside(found) if isinstance(b, gr.components.Component)]


def test_every_visible_component_of_sats_tab_works(ui):
    labels = {b.label for b in visible(ui, "Generation") if getattr(b, "label", None)}
    assert labels == WORKING


@pytest.mark.skipif(not hasattr(sat, "has_lora"), reason="LoRA came with SAT 0.0.20")
def test_of_every_lora_the_strength_is_shown(monkeypatch):
    model = tiny_model()
    model.use_lora, model.lora_names = True, ["one", "two"]
    monkeypatch.setattr(sat, "has_lora", lambda _: True)
    page = sat_gradio.create_diffusion_cond_ui(tiny_config(), in_model=model)
    labels = [b.label for b in visible(page, "Generation") if getattr(b, "label", None)]
    assert labels.count("Strength") == 2 and set(labels) == WORKING | {"Strength"}


def test_no_row_is_empty(ui):
    rows = [b for b in ui.blocks.values() if isinstance(b, gr.Row) and b.visible and b.children]
    assert all(any(child.visible for child in row.children) for row in rows)


def test_the_page_knows_the_models_window_and_reads_files_itself(ui):
    assert sat.sample_size == WINDOW
    players = [b for b in ui.blocks.values() if isinstance(b, gr.Audio)]
    assert {b.type for b in players} == {"filepath"}


def test_runs_of_both_tabs_wait_in_one_queue(ui):
    queued = {e.api_name for e in ui.fns.values() if e.concurrency_id == QUEUE}
    assert queued == {"generate", "stems"}


def test_the_api_names_its_parameters(ui):
    endpoints = ui.get_api_info()["named_endpoints"]
    names = {n: [p["parameter_name"] for p in endpoints[n]["parameters"]] for n in endpoints}
    assert {"task", "given", "prompts", "steps", "gate"} <= set(names["/stems"])
    assert {"prompt", "inpaint_audio", "steps"} <= set(names["/generate"])
    assert not [n for name in ("/stems", "/generate") for n in names[name] if "param" in n]


def test_the_mask_follows_the_audio(song_file):
    start, end = generation_tab._mask_ends(str(song_file), window=0.5)
    assert (start["value"], end["value"], end["maximum"]) == (0.0, 0.8, 0.8)
    assert generation_tab._mask_ends(None, window=0.52)[1]["value"] == 0.6


def test_another_model_gets_sats_own_page(monkeypatch):
    seen = []
    monkeypatch.setattr(gr, "Blocks", lambda *_, **__: seen.append("SAT's") or 1 / 0)
    config = {"model_type": "diffusion_cond", "sample_size": 1, "sample_rate": 1, "model": {}}
    with pytest.raises(ZeroDivisionError):
        sat.create_diffusion_cond_ui(config, object())
    assert seen == ["SAT's"]
