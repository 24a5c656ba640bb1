"""The tasks through the Python API: form, sums, order, seeds, records; opening a model."""

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import mge_plugin
from mge_plugin.devices import pick
from mge_plugin.inference import pipeline as pipeline_module
from mge_plugin.inference.pipeline import Pipeline, pick_dtype
from mge_plugin.inference.presence import Presence
from mge_plugin.inference.request import Finish, Init, Keep, Request, Sampling, remix
from mge_plugin.inference.sampling import UNBATCHED
from mge_plugin.inference.song import all_tracks
from mge_plugin.tracks import TASKS, Track
from tests.cli.conftest import make_config
from tests.inference.conftest import RATE, WINDOW

QUICK = Sampling.paper(steps=2)
OPEN, RAW = Finish(gate=False), Finish("none", gate=False)


@pytest.fixture
def calls(pipeline, monkeypatch):
    """Every sampled batch: the task, its (song, prompt, seed) rows, given latents, latents."""
    calls, denoise = [], pipeline._denoise

    def spy(task, rows, sampling, callback):
        given = [song.given for song, _, _ in rows]
        latents = denoise(task, rows, sampling, callback)
        calls.append((task, list(rows), given, latents))
        return latents

    monkeypatch.setattr(pipeline, "_denoise", spy)
    return calls


def extract(pipeline, samples, rate, prompts, sampling=QUICK, finish=OPEN, **options):
    return pipeline.extract((samples, rate), prompts, sampling=sampling, finish=finish, **options)


def closest(audio):
    """Differences of float32 sums of numbers as large as these."""
    return 4 * np.spacing(max(abs(a).max() for a in audio.values()))


@pytest.mark.parametrize("refine", ["mask", "none"])
@pytest.mark.parametrize(
    ("rate", "channels", "samples"),
    [
        (44100, 2, 1),
        (44100, 2, 2),
        (44100, 2, 14000),
        (16000, 1, WINDOW - 1),
        (16000, 1, WINDOW + 1),
        (16000, 1, 3 * WINDOW + 7),
        (48000, 1, 5000),
        (8000, 6, 500),
    ],
)
def test_sources_and_residual_have_the_songs_form_and_sum_to_it(
    pipeline, noise, refine, rate, channels, samples
):
    mixture = noise(samples, channels)
    made = extract(pipeline, mixture, rate, ["bass", "drums"], finish=Finish(refine, gate=False))
    assert list(made.audio) == ["bass", "drums", "residual"]
    assert all(a.shape == mixture.shape and a.dtype == np.float32 for a in made.audio.values())
    assert made.sample_rate == rate
    assert_allclose(sum(made.audio.values()), mixture, atol=closest(made.audio))


@pytest.mark.parametrize("samples", [1, 2, 1000, WINDOW, WINDOW + 1, 30_001])
@pytest.mark.parametrize("task", ["add", "accompany"])
def test_what_is_made_and_what_is_given_sum_to_the_mixture(pipeline, noise, task, samples):
    given = noise(samples, 2)
    made = getattr(pipeline, task)((given, 44100), "bass", sampling=QUICK)
    new = "bass" if task == "add" else "submixture"
    assert made.audio.keys() == {new, "mixture"}
    assert all(a.shape == given.shape for a in made.audio.values())
    assert_allclose(made.audio["mixture"], given + made.audio[new], atol=closest(made.audio))


@pytest.mark.parametrize("seconds", [None, 0.00001, 0.1, 0.128, 1.03])
def test_music_is_as_long_as_asked(pipeline, seconds):
    samples = WINDOW if seconds is None else max(1, round(seconds * RATE))
    made = pipeline.generate("bass", seconds, sampling=QUICK)
    assert {n: a.shape for n, a in made.audio.items()} == {"mixture": (1, samples)}
    made = pipeline.compose(["bass", "drums"], seconds, sampling=QUICK)
    assert {a.shape for a in made.audio.values()} == {(1, samples)}
    total = made.audio["bass"] + made.audio["drums"]
    assert_allclose(made.audio["mixture"], total, atol=closest(made.audio))


def test_sources_are_added_in_order_each_given_the_sum_so_far(pipeline, noise, calls):
    """Paper, section 2.3: the submixture is encoded again with what was added."""
    given = noise(3000)
    made = pipeline.add((given, RATE), ["bass", "drums", "piano"], sampling=QUICK)
    total, names = given, []
    for task, ((_, prompt, _),), (latents,), _ in calls:
        assert task.given is Track.SUBMIXTURE
        assert_allclose(latents, pipeline.encode(total), atol=1e-5)
        names.append(prompt[Track.SOURCE].text)
        total = total + made.audio[names[-1]]
    assert names == ["bass", "drums", "piano"]
    assert_allclose(made.audio["mixture"], total, atol=1e-6)


def test_a_composition_starts_with_nothing_then_its_first_source(pipeline, calls):
    """Paper, appendix D: the first source's own latents are the first submixture."""
    made = pipeline.compose(["bass", "drums", "piano"], 0.2, sampling=QUICK)
    (_, _, (first,), latents), (_, _, (second,), _), (_, _, (third,), _) = calls
    assert first is None
    assert torch.equal(second, latents[0, Track.SOURCE])
    total = made.audio["bass"] + made.audio["drums"]
    assert_allclose(third, pipeline.encode(total), atol=1e-5)


def test_an_instrument_is_replaced(pipeline, noise):
    mixture = noise(9000, 2)
    made = pipeline.replace((mixture, 44100), "piano", "guitar", sampling=QUICK, finish=OPEN)
    audio = made.audio
    assert audio.keys() == {"guitar", "mixture", "removed", "residual"}
    assert_allclose(audio["removed"] + audio["residual"], mixture, atol=closest(audio))
    assert_allclose(audio["mixture"], audio["residual"] + audio["guitar"], atol=closest(audio))
    assert made.info["tracks"].keys() == audio.keys()


@pytest.mark.parametrize("task", sorted(TASKS))
def test_gains_make_a_remix_of_every_task(pipeline, noise, task):
    audio = None if TASKS[task].given is None else (noise(3000), RATE)
    new = "guitar" if task == "replace" else None
    request = Request(task, ["bass"], audio, new_prompt=new, sampling=QUICK, finish=OPEN)
    (made,) = pipeline.run([request])
    mixture = audio[0] if task == "extract" else made.audio["mixture"]
    assert_allclose(remix(made, {}), mixture, atol=1e-6)
    name = next(iter(made.latents))
    rest = 0 * mixture if task == "generate" else mixture - made.audio[name]
    assert_allclose(remix(made, {name: -np.inf}), rest, atol=1e-6)
    louder = remix(made, {name: 6.0})
    assert_allclose(louder, rest + 10**0.3 * made.audio[name], atol=1e-5)
    with pytest.raises(ValueError, match="vocals"):
        remix(made, {"vocals": 1.0})


def test_prompts_of_one_song_share_their_noise_and_do_not_change_each_other(pipeline, noise, calls):
    mixture = noise(5000)
    both = extract(pipeline, mixture, RATE, ["bass", "drums"], finish=RAW)
    assert [seed for _, _, seed in calls[0][1]] == [0, 0]
    alone = extract(pipeline, mixture, RATE, "drums", finish=RAW)
    assert_allclose(both.audio["drums"], alone.audio["drums"], atol=1e-5)


@pytest.mark.parametrize("sampler", ["ddim", *UNBATCHED[:4]])
def test_a_batch_of_songs_gives_what_each_gives_alone(pipeline, noise, sampler):
    """Other lengths, rates, channels, seeds and prompts."""
    sampling = Sampling(2 if sampler == "ddim" else 4, sampler=sampler)
    options = {"sampling": sampling, "finish": OPEN}
    requests = [
        Request("extract", "bass", (noise(5000, 1, 1), RATE), seed=3, **options),
        Request("extract", ["drums", "piano"], (noise(30000, 2, 2), 44100), **options),
        Request("extract", "bass", (noise(1, 1, 3), RATE), seed=4, negative="drums", **options),
    ]
    together = pipeline.run(requests)
    for request, found in zip(requests, together, strict=True):
        (alone,) = pipeline.run([request])
        assert alone.info | {"seconds": 0} == found.info | {"seconds": 0}
        for name, audio in alone.audio.items():
            assert_allclose(found.audio[name], audio, atol=2e-5)


def test_compositions_of_several_lengths_in_one_batch(pipeline):
    requests = [
        Request("compose", "bass", seconds=0.1, seed=1, sampling=QUICK),
        Request("compose", ["drums", "piano", "bass"], seconds=0.3, seed=2, sampling=QUICK),
    ]
    together = pipeline.run(requests)
    for request, found in zip(requests, together, strict=True):
        (alone,) = pipeline.run([request])
        for name, audio in alone.audio.items():
            assert_allclose(found.audio[name], audio, atol=2e-5)


def test_requests_of_several_tasks_come_back_in_order(pipeline, noise, calls):
    song = (noise(100), RATE)
    requests = [
        Request("extract", "bass", song, sampling=QUICK),
        Request("generate", sampling=QUICK),
        Request("extract", "drums", song, sampling=QUICK),
        Request("extract", "drums", song, sampling=replace(QUICK, steps=1)),
    ]
    results = pipeline.run(requests)
    assert [r.info["task"] for r in results] == ["extract", "generate", "extract", "extract"]
    assert [list(r.latents) for r in results] == [["bass"], ["mixture"], ["drums"], ["drums"]]
    assert [len(rows) for _, rows, _, _ in calls] == [2, 1, 1]
    assert pipeline.run([]) == []


def test_a_seed_is_a_song(pipeline):
    first, same, other = (
        pipeline.generate("bass", 0.2, seed=seed, sampling=QUICK).audio["mixture"]
        for seed in (1, np.int64(1), 2)
    )
    assert first.tobytes() == same.tobytes()
    assert abs(first - other).max() > 1e-3


def test_tracks_may_have_prompts_of_their_own(pipeline, noise):
    song = noise(900)
    one, two, three = (
        extract(pipeline, song, RATE, prompt, finish=RAW, negative=negative).audio["bass"]
        for prompt, negative in (
            ({"mixture": "a slow ballad", "source": "bass"}, None),
            ("bass", None),
            ("bass", {"source": "drums"}),
        )
    )
    assert abs(one - two).max() > 1e-4 and abs(three - two).max() > 1e-4


@pytest.mark.parametrize(
    "change",
    [
        {"negative": "drums"},
        {"cfg_scale": (2.0, 2.0, 5.0)},
        {"cfg_interval": (0.0, 0.5)},
        {"cfg_rescale": 1.0},
        {"apg_scale": 1.0},
        {"schedule": "log-snr"},
        {"sampler": "repaint"},
        {"eta": 1.0},
    ],
    ids=str,
)
def test_every_option_changes_the_result(pipeline, noise, change):
    plain = Sampling.paper(steps=4)
    negative = change.pop("negative", None)
    found = [
        extract(pipeline, noise(3000), RATE, "bass", s, RAW, negative=n).audio["bass"]
        for s, n in ((plain, None), (replace(plain, **change), negative))
    ]
    assert abs(found[0] - found[1]).max() > 1e-4
    assert np.isfinite(found[1]).all()


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 2])
def test_edges_of_steps_and_guidance(pipeline, noise, steps, scale):
    made = extract(pipeline, noise(900), RATE, "bass", Sampling(steps, scale))
    assert np.isfinite(made.audio["bass"]).all()


def test_without_guidance_a_negative_prompt_changes_nothing(pipeline, noise):
    made = [
        extract(pipeline, noise(900), RATE, "bass", Sampling(2, 1.0), RAW, negative=n)
        for n in (None, "drums")
    ]
    assert_allclose(made[0].audio["bass"], made[1].audio["bass"], atol=1e-6)


@pytest.mark.parametrize("task", ["extract", "add", "accompany"])
@pytest.mark.parametrize("gain", [0.01, 4.0])
def test_results_scale_with_the_input(model, noise, task, gain):
    leveled = Pipeline(model, WINDOW, 1, "cpu", input_level=-19.0)
    song = noise(WINDOW + 500)

    def run(samples):
        options = {"finish": Finish("none", gate=False)} if task == "extract" else {}
        request = Request(task, ["bass"], (samples, RATE), sampling=QUICK, **options)
        return leveled.run([request])[0]

    one, other = run(song), run(np.float32(gain) * song)
    gains = [result.info["input_gain_db"] for result in (one, other)]
    assert gains[0] - gains[1] == pytest.approx(20 * np.log10(gain), abs=1e-3)
    for name, audio in one.audio.items():
        closeness = 1e-4 * gain * abs(audio).max()
        assert_allclose(other.audio[name], gain * audio, atol=closeness, err_msg=name)


@pytest.mark.parametrize("refine", ["mask", "none"])
def test_silence_stays_silence(pipeline, refine):
    silence = np.zeros((2, 9000), np.float32)
    made = extract(pipeline, silence, 44100, "bass", finish=Finish(refine))
    assert not any(audio.any() for audio in made.audio.values())
    assert made.info["tracks"]["bass"]["rms_db"] is None


@pytest.mark.parametrize("refine", ["mask", "none"])
def test_where_the_mixture_is_silent_so_is_the_source(pipeline, noise, refine):
    mixture = noise(20_000)
    mixture[:, 6000:9000] = 0.0
    finish = Finish(refine, gate=False)
    source = extract(pipeline, mixture, RATE, "bass", finish=finish).audio["bass"]
    assert not source[:, 6000:9000].any()
    assert source[:, :6000].std() > 1e-3 and source[:, 9000:].std() > 1e-3


def test_silence_is_accompanied_and_added_to(pipeline):
    silence = np.zeros((1, 3000), np.float32), RATE
    assert pipeline.add(silence, "bass", sampling=QUICK).audio["bass"].std() > 1e-3
    made = pipeline.accompany(silence, "bass", sampling=QUICK)
    assert made.audio["submixture"].std() > 1e-3


def test_the_gate_silences_windows_in_which_nothing_is_found(pipeline, noise, monkeypatch):
    scores = iter([0.9, 0.05, 0.9] * 2)
    monkeypatch.setattr(pipeline_module, "presence", lambda *_: Presence(next(scores), 1.0))
    mixture = noise(2 * 1536 + WINDOW)  # three windows
    opened, gated = (
        extract(pipeline, mixture, RATE, "bass", finish=Finish("none", gate))
        for gate in (False, True)
    )
    found, expected = gated.audio["bass"], opened.audio["bass"]
    assert not found[:, WINDOW : 2 * 1536].any()
    assert_allclose(found[:, :1536], expected[:, :1536])
    assert_allclose(found[:, 1536 + WINDOW :], expected[:, 1536 + WINDOW :])
    info = gated.info["tracks"]["bass"]["presence"]
    assert info["windows"] == [0.9, 0.05, 0.9] and info["score"] == 0.9
    assert info["threshold"] == 0.1
    assert opened.info["tracks"]["bass"]["presence"]["threshold"] is None


def test_a_source_that_is_not_in_the_song_is_exact_silence(pipeline, noise):
    """This model makes anything but the mixture, so the gate finds nothing of it."""
    mixture = noise(9000, 2)
    made = extract(pipeline, mixture, 44100, "bass", finish=Finish(gate_threshold=1.0))
    assert not made.audio["bass"].any()
    assert_allclose(made.audio["residual"], mixture, atol=1e-7)
    assert made.info["tracks"]["bass"]["presence"]["score"] < 1.0


def test_only_the_seconds_to_redo_are_generated_again(pipeline, noise):
    mixture = noise(44100, 2)
    first = extract(pipeline, mixture, 44100, "bass").audio["bass"]
    keep = Keep((first, 44100), ((0.3, 0.5), (0.7, 0.8)))
    again = extract(pipeline, mixture, 44100, "bass", seed=9, keep=keep)
    changed = np.flatnonzero(abs(again.audio["bass"] - first).max(axis=0)) / 44100
    assert 0.3 <= changed.min() < 0.31 and 0.79 < changed.max() <= 0.8
    assert not ((changed > 0.5) & (changed < 0.7)).any()
    assert_allclose(sum(again.audio.values()), mixture, atol=1e-6)
    assert again.info["redo"] == [[0.3, 0.5], [0.7, 0.8]]


@pytest.mark.parametrize("task", ["generate", "add", "accompany"])
def test_every_task_of_one_track_can_redo_a_part(pipeline, noise, task):
    audio = None if task == "generate" else (noise(20_000), RATE)
    kept = noise(20_000, seed=4)
    keep = Keep((kept, RATE), ((0.5, 0.6),))
    (made,) = pipeline.run([Request(task, "bass", audio, keep=keep, sampling=QUICK)])
    new = next(iter(made.audio.values()))
    changed = np.flatnonzero((new != kept).any(axis=0)) / RATE
    assert changed.min() >= 0.5 and changed.max() <= 0.6 and len(changed) > 1000


def test_the_best_of_several_candidates_is_kept_with_all_scores(pipeline, noise):
    sampling = replace(QUICK, candidates=3)
    made = extract(pipeline, noise(3000), RATE, ["bass", "drums"], sampling, RAW)
    for name in ("bass", "drums"):
        info = made.info["tracks"][name]
        scores = [candidate["score"] for candidate in info["candidates"]]
        assert len(set(scores)) == 3 and info["chosen"] == int(np.argmax(scores))
        assert all(0 <= candidate["agreement"] <= 1 for candidate in info["candidates"])


def test_candidates_are_other_seeds_of_the_same_song(pipeline, calls):
    made = pipeline.generate("bass", 0.2, sampling=replace(QUICK, candidates=4))
    seeds = [seed for _, _, seed in calls[0][1]]
    assert seeds[0] == 0 and len(set(seeds)) == 4
    chosen = made.info["tracks"]["mixture"]["chosen"]
    again = pipeline.generate("bass", 0.2, seed=seeds[chosen], sampling=QUICK)
    assert_allclose(again.audio["mixture"], made.audio["mixture"], atol=1e-5)


def test_the_mean_of_candidates_is_that_of_their_latents(pipeline, calls):
    sampling = replace(QUICK, candidates=3, choose="mean")
    made = pipeline.generate("bass", 0.2, sampling=sampling)
    latents = made.latents["mixture"]
    assert_allclose(latents, calls[0][3].mean(dim=0)[..., : latents.shape[-1]], atol=1e-6)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_what_was_done_is_plain_data(pipeline, noise, task):
    audio = None if TASKS[task].given is None else (noise(3000), RATE)
    new = "guitar" if task == "replace" else None
    sampling = replace(QUICK, candidates=2)
    request = Request(
        task, "bass", audio, seed=5, negative="drums", new_prompt=new, sampling=sampling
    )
    events = []
    (made,) = pipeline.run([request], events.append)
    info = json.loads(json.dumps(made.info, allow_nan=False))
    one = info["add"] if task == "replace" else info
    assert (info["task"], one["seed"], one["negative"]) == (task, 5, "drums")
    assert one["sampling"]["steps"] == 2 and one["sampling"]["refine"] == "auto"
    assert info["tracks"].keys() == made.audio.keys()
    name = next(iter(made.latents))
    assert info["tracks"][name]["prompt"] == (new or "bass")
    samples = next(iter(made.audio.values())).shape[1]
    assert made.latents[name].shape == (3, 4, -(-samples // pipeline.form.ratio))
    assert sum(event["advance"] for event in events) == pipeline.steps([request])


@pytest.mark.parametrize("form", ["joint", "sequential"])
@pytest.mark.parametrize("sampler", ["dpm-solver++", "heun", "repaint", "k-heun", "dpmpp-2m-sde"])
def test_progress_ends_at_its_total_and_every_call_of_the_network_can_stop_the_run(
    pipeline, noise, sampler, form
):
    events, networks = [], []
    pipeline.model.model.model.register_forward_pre_hook(lambda *_: networks.append(len(events)))
    sampling = Sampling(4, sampler=sampler, long_form=form, window_batch=1)
    song = (noise(40_000, 2), 44100)
    request = Request("extract", ["bass", "drums"], song, sampling=sampling)
    pipeline.run([request], events.append)
    pipeline.model.model.model._forward_pre_hooks.clear()
    assert sum(event["advance"] for event in events) == pipeline.steps([request])
    assert {event["stage"] for event in events} == {"sample", "decode", "refine"}
    assert len(set(networks)) == len(networks), "an event before every call"


def test_an_audio_example_needs_a_model_that_supports_it(pipeline, noise):
    example = {"audio": noise(1000), "sample_rate": RATE}
    with pytest.raises(ValueError, match="mge_clap"):
        extract(pipeline, noise(900), RATE, example)


def test_a_model_that_supports_audio_scores_similarity(pipeline, noise, monkeypatch):
    """Its embedding of any audio is the text's own here: similarity 1."""
    (conditioner,) = pipeline.model.conditioner.conditioners.values()
    embed = conditioner.embedder.embed_text
    embedded = []

    def embed_audio(examples):
        embedded.extend(examples)
        return embed(["bass"] * len(examples))

    monkeypatch.setattr(conditioner.embedder, "embed_audio", embed_audio, raising=False)
    made = extract(pipeline, noise(900), RATE, "bass", replace(QUICK, candidates=2))
    info = made.info["tracks"]["bass"]
    assert info["presence"]["similarity"] == pytest.approx(1.0, abs=1e-4)
    assert info["candidates"][0]["similarity"] == pytest.approx(1.0, abs=1e-4)
    assert all(rate == RATE for _, rate in embedded)
    example = {"audio": noise(1000), "sample_rate": RATE, "text": "bass"}
    made = extract(pipeline, noise(900), RATE, example)
    assert made.info["tracks"]["bass"]["prompt"]["audio"] == "audio, 1000 samples"


def test_the_error_for_too_little_memory_names_what_to_change(pipeline, noise, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pipeline_module, "denoise", fail)
    for changes, advice in (
        ({}, "window_batch 2"),
        ({"candidates": 3}, "candidates"),
        ({"window_batch": 1}, "shorter song"),
    ):
        with pytest.raises(MemoryError, match=advice):
            extract(pipeline, noise(900), RATE, "bass", replace(QUICK, **changes))


def test_any_other_error_stays_what_it_is(pipeline, noise, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("something else")

    monkeypatch.setattr(pipeline_module, "denoise", fail)
    with pytest.raises(RuntimeError, match="something else"):
        extract(pipeline, noise(900), RATE, "bass")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_network_in_half_precision_makes_nearly_the_same(model, noise, dtype):
    half = Pipeline(deepcopy(model), WINDOW, 1, "cpu")
    half.model.model.to(pick_dtype(dtype, "cpu"))
    whole = Pipeline(model, WINDOW, 1, "cpu")
    sampling = replace(QUICK, cfg_scale=1.0)
    exact, rough = (
        extract(p, noise(3000), RATE, "bass", sampling, RAW).audio["bass"] for p in (whole, half)
    )
    assert next(half.model.pretransform.parameters()).dtype == torch.float32
    assert 0 < abs(exact - rough).max() < 0.1 * abs(exact).max()


def test_devices_and_precisions_are_those_of_this_machine():
    assert pick("cpu") == "cpu"
    assert pick_dtype("auto", "cpu") is torch.float32
    with pytest.raises(ValueError, match="cuda:99"):
        pick("cuda:99")
    with pytest.raises(ValueError, match="int8"):
        pick_dtype("int8", "cpu")


def test_seams_are_as_smooth_as_the_rest(pipeline):
    """Second differences at the seams of windows against those everywhere (no clicks)."""
    for form in ("joint", "sequential"):
        sampling = Sampling.paper(steps=4, long_form=form)
        audio = pipeline.generate("bass", 3.0, sampling=sampling).audio["mixture"][0]
        bend = abs(np.diff(audio, 2))
        windows, ratio = pipeline.form.windows(len(audio)), pipeline.form.ratio
        edges = [s * ratio for s in windows.starts[1:]]
        edges += [(s + windows.overlap) * ratio for s in windows.starts[1:]]
        near = np.concatenate([bend[e - 16 : e + 16] for e in edges if e < len(bend) - 16])
        assert len(edges) > 20
        assert near.max() <= bend.max() and near.mean() < 1.3 * bend.mean()


@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver++", "heun", "v-ddim", "k-heun"])
@pytest.mark.parametrize("task", ["generate", "extract", "add", "accompany"])
def test_a_run_that_starts_near_a_sound_ends_near_it(pipeline, noise, task, sampler):
    """At a low level hardly anything is generated; at 1 the sound is not used."""
    audio = None if TASKS[task].given is None else (noise(3000), RATE)
    sound = noise(3000, seed=8)
    latents = pipeline.encode(sound)[:, : -(-3000 // pipeline.form.ratio)]
    sampling = Sampling(steps=3, sampler=sampler)

    def distance(level):
        init = Init((sound, RATE), level)
        request = Request(task, "bass", audio, init=init, sampling=sampling, finish=RAW)
        (made,) = pipeline.run([request])
        (found,) = made.latents.values()
        return float((found[TASKS[task].prompted] - latents).abs().mean())

    near, far = distance(0.01), distance(1.0)
    assert near < 0.2 * float(latents.abs().mean()) and near < 0.1 * far


def test_a_variation_has_the_form_of_its_sound_or_of_the_model(pipeline, noise):
    init = Init((noise(9000, 2), 44100), 0.5)
    alike, other = pipeline.run(
        [Request("generate", seconds=s, init=init, sampling=QUICK) for s in (None, 0.5)]
    )
    assert alike.audio["mixture"].shape == (2, 9000) and alike.sample_rate == 44100
    assert other.audio["mixture"].shape == (1, RATE // 2) and other.sample_rate == RATE


@pytest.mark.parametrize("task", sorted(TASKS))
def test_tracks_to_start_from_sum_up(task, noise):
    tracks = all_tracks(TASKS[task], noise(50), noise(50, seed=1))
    total = tracks[Track.SUBMIXTURE] + tracks[Track.SOURCE]
    assert_allclose(tracks[Track.MIXTURE], total, atol=1e-6)
    assert_allclose(tracks[TASKS[task].prompted], noise(50))


@pytest.mark.parametrize(
    ("seconds", "windows"), [(None, 1), (0.01, 1), (0.128, 1), (0.13, 2), (0.25, 3)]
)
def test_steps_of_windows_that_are_sampled_one_after_another(pipeline, seconds, windows):
    for form, count in (("joint", 1), ("sequential", windows)):
        request = Request("generate", seconds=seconds, sampling=Sampling(5, long_form=form))
        assert pipeline.steps([request]) == 5 * count + 1


@pytest.fixture
def files(model, tmp_path):
    """A model config with its own sampling, and its checkpoint."""
    config = make_config(4) | {"sampling": {"steps": 3, "cfg_scale": [1, 1, 2.5]}}
    (tmp_path / "model.json").write_text(json.dumps(config))
    torch.save(model.state_dict(), tmp_path / "model.ckpt")
    return tmp_path / "model.json", tmp_path / "model.ckpt"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_model_is_opened_from_its_files(files, pipeline, noise, dtype):
    opened = mge_plugin.load(*files, device="cpu", dtype=dtype)
    assert opened.model.model.model.preprocess_conv.weight.dtype == getattr(torch, dtype)
    assert {p.dtype for p in opened.model.pretransform.parameters()} == {torch.float32}
    assert not opened.model.training
    assert not any(p.requires_grad for p in opened.model.parameters())
    found = opened.extract((noise(900), RATE), "bass")
    assert found.info["sampling"]["steps"] == 3, "the model's own"
    assert opened.sampling == Sampling(3, (1.0, 1.0, 2.5))
    if dtype == "float32":
        song = noise(5000)
        found, expected = (extract(p, song, RATE, "bass").audio["bass"] for p in (opened, pipeline))
        assert_allclose(found, expected, atol=1e-6)


def test_a_network_is_compiled_on_the_cpu_without_graphs(files, monkeypatch):
    calls = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **k: calls.append((type(self), k)))
    opened = mge_plugin.load(*files, device="cpu", compiled=True)
    assert calls == [(type(opened.model.model.model), {"mode": None, "dynamic": False})]


@pytest.mark.slow
def test_a_compiled_network_makes_the_same_song_and_ten_lengths_compile_it_twice(model, noise):
    """Traced and run without building C++; windows of a last, smaller batch are another shape."""
    torch._dynamo.reset()
    song, sampling = noise(3 * WINDOW), replace(QUICK, window_batch=2)
    eager = Pipeline(model, WINDOW, 1, "cpu")
    expected = extract(eager, song, RATE, "bass", sampling, RAW).audio["bass"]
    compiled, compilations = deepcopy(eager), CompileCounterWithBackend("aot_eager")
    compiled.model.model.model.compile(backend=compilations, dynamic=False)
    found = extract(compiled, song, RATE, "bass", sampling, RAW).audio["bass"]
    assert_allclose(found, expected, atol=1e-4)
    assert np.abs(expected).max() > 1e-3
    for seconds in np.linspace(0.1, 1, 10):
        extract(compiled, noise(int(seconds * RATE)), RATE, "bass", sampling, RAW)
    assert compilations.frame_count <= sampling.window_batch, "a shape per size of a batch"
    torch._dynamo.reset()
