"""The tasks through the Python API: form, sums, order, seeds, what is told."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from mge_plugin.inference import denoiser as engine_module
from mge_plugin.inference.pipeline import pick_dtype, remix
from mge_plugin.inference.request import TASKS, Init, Keep, Request, Sampling, together
from mge_plugin.tracks import Track
from tests.inference.conftest import RATE, WINDOW

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # SAT's
QUICK = Sampling(steps=2, gate=False)


@pytest.fixture
def asked(pipeline, monkeypatch):
    """Every call of the engine: the task, the items, the latents that came back."""
    calls, denoise = [], pipeline.engine.denoise

    def spy(task, items, sampling, callback=None):
        latents = denoise(task, items, sampling, callback)
        calls.append((task, list(items), latents))
        return latents

    monkeypatch.setattr(pipeline.engine, "denoise", spy)
    return calls


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
    made = pipeline.extract(mixture, rate, ["bass", "drums"], replace(QUICK, refine=refine))
    assert list(made.audio) == ["source_1", "source_2", "residual"]
    assert all(a.shape == mixture.shape and a.dtype == np.float32 for a in made.audio.values())
    assert made.sample_rate == rate
    assert_allclose(sum(made.audio.values()), mixture, atol=closest(made.audio))


@pytest.mark.parametrize("samples", [1, 2, 1000, WINDOW, WINDOW + 1, 30_001])
@pytest.mark.parametrize("task", ["add", "accompany"])
def test_what_is_made_and_what_is_given_sum_to_the_mixture(pipeline, noise, task, samples):
    given = noise(samples, 2)
    made = getattr(pipeline, task)(given, 44100, "bass", QUICK)
    new = "source" if task == "add" else "submixture"
    assert made.audio.keys() == {new, "mixture"}
    assert all(a.shape == given.shape for a in made.audio.values())
    assert_allclose(made.audio["mixture"], given + made.audio[new], atol=closest(made.audio))


@pytest.mark.parametrize("seconds", [None, 0.00001, 0.1, 0.128, 1.03])
def test_music_is_as_long_as_asked(pipeline, seconds):
    samples = WINDOW if seconds is None else max(1, round(seconds * RATE))
    made = pipeline.generate("bass", seconds, QUICK)
    assert {n: a.shape for n, a in made.audio.items()} == {"mixture": (1, samples)}
    made = pipeline.compose(["bass", "drums"], seconds, QUICK)
    assert {a.shape for a in made.audio.values()} == {(1, samples)}
    total = made.audio["source_1"] + made.audio["source_2"]
    assert_allclose(made.audio["mixture"], total, atol=closest(made.audio))


def test_sources_are_added_in_order_each_given_the_sum_so_far(pipeline, noise, asked):
    """Paper, section 2.3: the submixture is encoded again with what was added."""
    given = noise(3000)
    made = pipeline.add(given, RATE, ["bass", "drums", "piano"], QUICK)
    total, prompts = given, []
    for i, (task, (item,), _) in enumerate(asked):
        assert task.given is Track.SUBMIXTURE
        assert_allclose(item.given, pipeline.engine.encode(total), atol=1e-5)
        prompts.append(item.prompts)
        total = total + made.audio[f"source_{i + 1}"]
    assert prompts == [{"source": "bass"}, {"source": "drums"}, {"source": "piano"}]
    assert_allclose(made.audio["mixture"], total, atol=1e-6)


def test_a_composition_begins_with_nothing_and_goes_on_with_its_first_source(pipeline, asked):
    """Paper, appendix D: the first source's own latents are the first submixture."""
    made = pipeline.compose(["bass", "drums", "piano"], 0.2, QUICK)
    (_, (first,), latents), (_, (second,), _), (_, (third,), _) = asked
    assert first.given is None
    assert torch.equal(second.given, latents[0, Track.SOURCE])
    total = made.audio["source_1"] + made.audio["source_2"]
    assert_allclose(third.given, pipeline.engine.encode(total), atol=1e-5)


def test_an_instrument_is_replaced(pipeline, noise):
    mixture = noise(9000, 2)
    made = pipeline.replace(mixture, 44100, "piano", "guitar", QUICK)
    audio = made.audio
    assert audio.keys() == {"source", "mixture", "removed", "residual"}
    assert_allclose(audio["removed"] + audio["residual"], mixture, atol=closest(audio))
    assert_allclose(audio["mixture"], audio["residual"] + audio["source"], atol=closest(audio))
    assert made.info["tracks"].keys() == audio.keys()


def test_gains_make_a_remix(pipeline, noise):
    mixture = noise(9000, 2)
    made = pipeline.extract(mixture, 44100, ["bass", "drums"], QUICK)
    assert_allclose(remix(made, {}), mixture, atol=1e-6)
    softer = remix(made, {"source_1": -6.0, "residual": float("-inf")})
    expected = 10 ** (-0.3) * made.audio["source_1"] + made.audio["source_2"]
    assert_allclose(softer, expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"gains: expected tracks of .*found \['vocals'\]"):
        remix(made, {"vocals": 1.0})


def test_prompts_of_one_song_share_their_noise_and_do_not_change_each_other(pipeline, noise, asked):
    mixture = noise(5000)
    both = pipeline.extract(mixture, RATE, ["bass", "drums"], replace(QUICK, refine="none"))
    (_, items, _) = asked[0]
    assert len(asked) == 1 and [item.seed for item in items] == [0, 0]
    alone = pipeline.extract(mixture, RATE, "drums", replace(QUICK, refine="none"))
    assert_allclose(both.audio["source_2"], alone.audio["source"], atol=1e-5)


def test_a_batch_of_songs_gives_what_each_gives_alone(pipeline, noise):
    """Other lengths, rates, channels, seeds and prompts."""
    requests = [
        Request("extract", ("bass",), noise(5000, 1, 1), RATE, seed=3),
        Request("extract", ("drums", "piano"), noise(30000, 2, 2), 44100),
        Request("extract", ("bass",), noise(1, 1, 3), RATE, seed=4, negative="drums"),
    ]
    together = pipeline.run(requests, QUICK)
    for request, found in zip(requests, together, strict=True):
        (alone,) = pipeline.run([request], QUICK)
        assert alone.info == found.info
        for name, audio in alone.audio.items():
            assert_allclose(found.audio[name], audio, atol=2e-5)


def test_compositions_of_several_lengths_in_one_batch(pipeline):
    requests = [
        Request("compose", ("bass",), seconds=0.1, seed=1),
        Request("compose", ("drums", "piano", "bass"), seconds=0.3, seed=2),
    ]
    together = pipeline.run(requests, QUICK)
    for request, found in zip(requests, together, strict=True):
        (alone,) = pipeline.run([request], QUICK)
        for name, audio in alone.audio.items():
            assert_allclose(found.audio[name], audio, atol=2e-5)


def test_requests_of_two_tasks_are_refused(pipeline, noise):
    requests = [Request("generate"), Request("extract", ("bass",), noise(100), RATE)]
    with pytest.raises(ValueError, match="expected one task, found extract, generate"):
        pipeline.run(requests)
    assert pipeline.run([]) == []


def test_a_seed_is_a_song(pipeline):
    first, same, other = (
        pipeline.generate("bass", 0.2, QUICK, seed=seed).audio["mixture"] for seed in (1, 1, 2)
    )
    assert first.tobytes() == same.tobytes()
    assert abs(first - other).max() > 1e-3


def test_tracks_may_have_prompts_of_their_own(pipeline, noise, asked):
    prompt = {"mixture": "a slow ballad", "source": "bass"}
    pipeline.extract(noise(900), RATE, prompt, QUICK, negative={"source": "drums"})
    (_, (item,), _) = asked[0]
    assert item.prompts == prompt and item.negative == {"source": "drums"}
    one, two = (
        pipeline.extract(noise(900), RATE, p, replace(QUICK, refine="none")).audio["source"]
        for p in (prompt, "bass")
    )
    assert abs(one - two).max() > 1e-4


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
    plain = Sampling(steps=4, gate=False, refine="none")
    negative = change.pop("negative", None)
    changed = replace(plain, **change)
    made = [
        pipeline.extract(noise(3000), RATE, "bass", s, negative=n).audio["source"]
        for s, n in ((plain, None), (changed, negative))
    ]
    assert abs(made[0] - made[1]).max() > 1e-4
    assert np.isfinite(made[1]).all()


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 2])
def test_edges_of_steps_and_guidance(pipeline, noise, steps, scale):
    made = pipeline.extract(noise(900), RATE, "bass", Sampling(steps, scale, gate=False))
    assert np.isfinite(made.audio["source"]).all()


def test_without_guidance_a_negative_prompt_changes_nothing(pipeline, noise):
    sampling = Sampling(2, 1.0, gate=False, refine="none")
    made = [
        pipeline.extract(noise(900), RATE, "bass", sampling, negative=n).audio["source"]
        for n in (None, "drums")
    ]
    assert_allclose(made[0], made[1], atol=1e-6)


@pytest.mark.parametrize("refine", ["mask", "none"])
def test_silence_stays_silence(pipeline, refine):
    made = pipeline.extract(
        np.zeros((2, 9000), np.float32), 44100, "bass", Sampling(2, refine=refine)
    )
    assert not any(audio.any() for audio in made.audio.values())
    assert made.info["tracks"]["source"]["rms_db"] is None


@pytest.mark.parametrize("refine", ["mask", "none"])
def test_where_the_mixture_is_silent_so_is_the_source(pipeline, noise, refine):
    mixture = noise(20_000)
    mixture[:, 6000:9000] = 0.0
    source = pipeline.extract(mixture, RATE, "bass", replace(QUICK, refine=refine)).audio["source"]
    assert not source[:, 6000:9000].any()
    assert source[:, :6000].std() > 1e-3 and source[:, 9000:].std() > 1e-3


def test_silence_is_accompanied_and_added_to(pipeline):
    silence = np.zeros((1, 3000), np.float32)
    assert pipeline.add(silence, RATE, "bass", QUICK).audio["source"].std() > 1e-3
    assert pipeline.accompany(silence, RATE, "bass", QUICK).audio["submixture"].std() > 1e-3


def test_the_gate_shuts_windows_in_which_nothing_is_found(pipeline, noise, monkeypatch):
    from mge_plugin.inference import finish as mastering
    from mge_plugin.inference.presence import Presence

    scores = iter([0.9, 0.05, 0.9] * 2)
    monkeypatch.setattr(mastering.presence, "presence", lambda *_: Presence(next(scores), 1.0))
    mixture = noise(2 * 1536 + WINDOW)  # three windows
    opened, gated = (
        pipeline.extract(mixture, RATE, "bass", Sampling(2, refine="none", gate=gate))
        for gate in (False, True)
    )
    assert not gated.audio["source"][:, WINDOW : 2 * 1536].any()
    assert_allclose(gated.audio["source"][:, :1536], opened.audio["source"][:, :1536])
    assert_allclose(
        gated.audio["source"][:, 1536 + WINDOW :], opened.audio["source"][:, 1536 + WINDOW :]
    )
    told = gated.info["tracks"]["source"]["presence"]
    assert told["windows"] == [0.9, 0.05, 0.9] and told["score"] == 0.9
    assert (told["threshold"], opened.info["tracks"]["source"]["presence"]["threshold"]) == (
        0.1,
        None,
    )


def test_a_source_that_is_not_there_is_exact_silence(pipeline, noise):
    """This model makes anything but the mixture, so the gate finds nothing of it."""
    mixture = noise(9000, 2)
    made = pipeline.extract(mixture, 44100, "bass", Sampling(2, gate_threshold=1.0))
    assert not made.audio["source"].any()
    assert_allclose(made.audio["residual"], mixture, atol=1e-7)
    assert made.info["tracks"]["source"]["presence"]["score"] < 1.0


def test_only_the_seconds_to_redo_are_made_anew(pipeline, noise):
    mixture = noise(44100, 2)
    first = pipeline.extract(mixture, 44100, "bass", QUICK).audio["source"]
    keep = Keep(first, ((0.3, 0.5), (0.7, 0.8)))
    again = pipeline.extract(mixture, 44100, "bass", QUICK, seed=9, keep=keep)
    changed = np.flatnonzero(abs(again.audio["source"] - first).max(axis=0)) / 44100
    assert 0.3 <= changed.min() < 0.31 and 0.79 < changed.max() <= 0.8
    assert not ((changed > 0.5) & (changed < 0.7)).any()
    assert_allclose(sum(again.audio.values()), mixture, atol=1e-6)
    assert again.info["redo"] == [[0.3, 0.5], [0.7, 0.8]]


@pytest.mark.parametrize("task", ["generate", "add", "accompany"])
def test_every_task_of_one_track_can_be_redone(pipeline, noise, task):
    audio = {} if task == "generate" else {"audio": noise(20_000)}
    kept = noise(20_000, seed=4)
    request = Request(task, ("bass",), sample_rate=RATE, keep=Keep(kept, ((0.5, 0.6),)), **audio)
    (made,) = pipeline.run([request], QUICK)
    new = made.audio[{"add": "source", "accompany": "submixture"}.get(task, "mixture")]
    changed = np.flatnonzero((new != kept).any(axis=0)) / RATE
    assert changed.min() >= 0.5 and changed.max() <= 0.6 and len(changed) > 1000


def test_the_best_of_several_candidates_is_kept_and_all_scores_are_told(pipeline, noise):
    sampling = replace(QUICK, candidates=3, refine="none")
    made = pipeline.extract(noise(3000), RATE, ["bass", "drums"], sampling)
    for name in ("source_1", "source_2"):
        told = made.info["tracks"][name]
        scores = [candidate["score"] for candidate in told["candidates"]]
        assert len(set(scores)) == 3 and told["chosen"] == int(np.argmax(scores))
        assert all(0 <= candidate["agreement"] <= 1 for candidate in told["candidates"])


def test_candidates_are_other_seeds_of_the_same_song(pipeline, asked):
    made = pipeline.generate("bass", 0.2, replace(QUICK, candidates=4))
    (_, items, _) = asked[0]
    assert items[0].seed == 0 and len({item.seed for item in items}) == 4
    chosen = made.info["tracks"]["mixture"]["chosen"]
    again = pipeline.generate("bass", 0.2, QUICK, seed=items[chosen].seed)
    assert_allclose(again.audio["mixture"], made.audio["mixture"], atol=1e-5)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_what_was_done_is_plain_data(pipeline, noise, task):
    audio = {} if TASKS[task].given is None else {"audio": noise(3000), "sample_rate": RATE}
    request = Request(task, ("bass",), seed=5, negative="drums", **audio)
    (made,) = pipeline.run([request], replace(QUICK, candidates=2))
    told = json.loads(json.dumps(made.info))
    assert (told["task"], told["seed"], told["negative"]) == (task, 5, "drums")
    assert told["sampling"]["steps"] == 2
    assert told["tracks"].keys() == made.audio.keys()
    new = next(iter(made.latents))
    assert told["tracks"][new]["prompt"] == "bass"
    frames = made.latents[new].shape[-1]
    assert frames == pipeline.engine.frames_of(next(iter(made.audio.values())).shape[1])


def test_an_audio_example_needs_a_model_that_hears(pipeline, noise):
    example = {"audio": torch.from_numpy(noise(1000)), "sample_rate": RATE}
    with pytest.raises(ValueError, match="embeds texts only; an audio example needs type mge_clap"):
        pipeline.extract(noise(900), RATE, example, QUICK)


def test_a_model_that_hears_is_asked_how_like_the_prompt_a_source_is(pipeline, noise, monkeypatch):
    """Its embedding of any audio is the text's own here: similarity 1."""
    (conditioner,) = pipeline.model.conditioner.conditioners.values()
    embed = conditioner.embedder.embed_text
    heard = []

    def embed_audio(examples):
        heard.extend(examples)
        return embed(["bass"] * len(examples))

    monkeypatch.setattr(conditioner.embedder, "embed_audio", embed_audio, raising=False)
    made = pipeline.extract(noise(900), RATE, "bass", replace(QUICK, candidates=2))
    told = made.info["tracks"]["source"]
    assert told["presence"]["similarity"] == pytest.approx(1.0, abs=1e-4)
    assert told["candidates"][0]["similarity"] == pytest.approx(1.0, abs=1e-4)
    assert all(rate == RATE for _, rate in heard)
    example = {"audio": torch.from_numpy(noise(1000)), "sample_rate": RATE, "text": "bass"}
    made = pipeline.extract(noise(900), RATE, example, QUICK)
    assert made.info["tracks"]["source"]["prompt"]["audio"] == "audio, 1000 samples"


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"task": "remove"}, "task: expected one of generate, extract"),
        ({"prompts": ()}, "extract: expected one prompt or more, found none"),
        ({"prompts": (" ",)}, "prompt: expected words such as"),
        ({"task": "accompany", "prompts": ("a", "b")}, "accompany: expected one prompt, found 2"),
        ({"audio": None}, "extract: needs the mixture's audio, found none"),
        ({"task": "generate"}, "generate: is given no audio, found some"),
        ({"sample_rate": None}, "sample_rate: the audio needs one, found none"),
        ({"sample_rate": 0}, "sample_rate: expected 1 Hz or more, found 0"),
        ({"seed": -1}, "seed: expected 0 to"),
        ({"keep": (99, ((0, 1),))}, "keep: expected 900 samples as the song has, found 99"),
        ({"keep": (900, ())}, "redo: expected one span of seconds or more, found none"),
        ({"keep": (900, ((2, 1),))}, "redo: expected a start from 0 up and an end after it"),
        ({"keep": (900, ((0, 1),)), "prompts": ("a", "b")}, "one track is kept, found 2 prompts"),
    ],
    ids=str,
)
def test_a_request_that_cannot_be_is_refused(noise, fields, wrong):
    good = {"task": "extract", "prompts": ("bass",), "audio": noise(900), "sample_rate": RATE}
    with pytest.raises(ValueError, match=wrong):
        if "keep" in fields:
            samples, redo = fields["keep"]
            fields = fields | {"keep": Keep(noise(samples), redo)}
        Request(**good | fields)


def test_too_little_memory_is_told_with_what_may_fit(pipeline, noise, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine_module, "denoise_songs", fail)
    with pytest.raises(MemoryError, match=r"for 4 windows of 0.1 s at a time: try window_batch 2"):
        pipeline.extract(noise(900), RATE, "bass", QUICK)
    with pytest.raises(MemoryError, match="more memory is needed"):
        pipeline.extract(noise(900), RATE, "bass", replace(QUICK, window_batch=1))


def test_any_other_error_stays_what_it_is(pipeline, noise, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("something else")

    monkeypatch.setattr(engine_module, "denoise_songs", fail)
    with pytest.raises(RuntimeError, match="something else"):
        pipeline.extract(noise(900), RATE, "bass", QUICK)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_network_in_half_precision_makes_nearly_the_same(model, noise, dtype):
    from copy import deepcopy

    from mge_plugin.inference.pipeline import Pipeline

    half = Pipeline(deepcopy(model), WINDOW, 1, "cpu")
    half.model.model.to(pick_dtype(dtype, "cpu"))
    whole = Pipeline(model, WINDOW, 1, "cpu")
    sampling = replace(QUICK, refine="none", cfg_scale=1.0)
    exact, rough = (p.extract(noise(3000), RATE, "bass", sampling) for p in (whole, half))
    assert next(half.model.pretransform.parameters()).dtype == torch.float32
    difference = abs(exact.audio["source"] - rough.audio["source"]).max()
    assert 0 < difference < 0.1 * abs(exact.audio["source"]).max()


def test_a_precision_is_one_that_is_known():
    assert pick_dtype("auto", "cpu") is torch.float32
    with pytest.raises(ValueError, match=r"dtype: expected auto or one of float32, .*found 'int8'"):
        pick_dtype("int8", "cpu")


def test_seams_are_as_smooth_as_the_rest(pipeline):
    """Second differences at the seams of windows against those everywhere (no clicks)."""
    for form in ("joint", "sequential"):
        sampling = Sampling(steps=4, long_form=form, gate=False)
        audio = pipeline.generate("bass", 3.0, sampling).audio["mixture"][0]
        bend = abs(np.diff(audio, 2))
        windows = pipeline.engine.windows(len(audio))
        ratio = pipeline.engine.ratio
        edges = [s * ratio for s in windows.starts[1:]]
        edges += [(s + windows.overlap) * ratio for s in windows.starts[1:]]
        near = np.concatenate([bend[e - 16 : e + 16] for e in edges if e < len(bend) - 16])
        assert len(edges) > 20
        assert near.max() <= bend.max() and near.mean() < 1.3 * bend.mean()


@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver++", "heun", "v-ddim", "k-heun"])
@pytest.mark.parametrize("task", ["generate", "extract", "add", "accompany"])
def test_what_begins_near_a_sound_ends_near_it(pipeline, noise, task, sampler):
    """At a low level hardly anything is left to make; at 1 the sound is not heard."""
    audio = {} if TASKS[task].given is None else {"audio": noise(3000), "sample_rate": RATE}
    sound = noise(3000, seed=8)
    heard = pipeline.engine.encode(sound)[:, : pipeline.engine.frames_of(3000)]
    sampling = Sampling(steps=3, sampler=sampler, refine="none", gate=False)

    def distance(level):
        start = {"init": Init(sound, level), "sample_rate": RATE}
        (made,) = pipeline.run([Request(task, ("bass",), **audio | start)], sampling)
        return float((next(iter(made.latents.values())) - heard).abs().mean())

    near, far = distance(0.01), distance(1.0)
    assert near < 0.2 * float(heard.abs().mean()) and near < 0.1 * far


def test_a_variation_is_as_long_as_its_sound_and_at_its_rate(pipeline, noise):
    request = Request("generate", init=Init(noise(9000, 2), 0.5), sample_rate=44100)
    (made,) = pipeline.run([request], QUICK)
    assert made.audio["mixture"].shape == (2, 9000) and made.sample_rate == 44100


def test_a_variation_of_another_length_has_the_models_form(pipeline, noise):
    init = Init(noise(9000, 2), 0.5)
    request = Request("generate", seconds=0.5, init=init, sample_rate=44100)
    (made,) = pipeline.run([request], QUICK)
    assert made.audio["mixture"].shape == (1, RATE // 2) and made.sample_rate == RATE


@pytest.mark.parametrize("task", sorted(TASKS))
def test_tracks_that_are_begun_from_sum_up(task, noise):
    tracks = together(TASKS[task], noise(50), noise(50, seed=1))
    total = tracks[Track.SUBMIXTURE] + tracks[Track.SOURCE]
    assert_allclose(tracks[Track.MIXTURE], total, atol=1e-6)
    assert_allclose(tracks[TASKS[task].prompted], noise(50))


@pytest.mark.parametrize(
    ("level", "wrong"), [(0.0, "expected a level over 0 and up to 1"), (1.5, "found 1.5")]
)
def test_a_level_to_begin_from_is_one_of_noise(noise, level, wrong):
    with pytest.raises(ValueError, match=wrong):
        Init(noise(10), level)


def test_a_batch_begins_at_one_level(pipeline, noise):
    requests = [
        Request("generate", init=Init(noise(900), level), sample_rate=RATE) for level in (0.3, 0.6)
    ]
    with pytest.raises(ValueError, match=r"init: items of a batch begin at one level.*0.3, 0.6"):
        pipeline.run(requests, QUICK)
