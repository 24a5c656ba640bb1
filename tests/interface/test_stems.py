"""The Stems tab without a browser: forms, runs, what is shown and kept."""

import json
import threading
import zipfile

import gradio as gr
import numpy as np
import pytest
import soundfile as sf

from mge_plugin.inference.request import Cancelled
from mge_plugin.interface import desk as tracks
from mge_plugin.interface import form, stems_tab
from mge_plugin.interface import stems_tab as rows
from mge_plugin.interface.desk import desk_of
from mge_plugin.interface.stems_tab import Step, perform
from tests.interface.conftest import WINDOW, tiny_model

FILLED = {
    "task": "extract", "given": None, "prompts": "bass", "new_prompt": "", "example": None,
    "text_weight": 0.5, "negative": "", "seconds": None, "steps": 3, "cfg_scale": 2.0, "seed": 1,
    "sampler": "ddim", "schedule": "linear", "eta": 0.0, "resamplings": 1, "interval_from": 0.0,
    "interval_to": 1.0, "cfg_rescale": 0.0, "apg_scale": 0.0, "candidates": 1, "refine": "auto",
    "gate": False, "gate_threshold": 0.1, "long_form": "joint", "window_batch": 4,
    "preview_every": 1, "current": None, "redo_from": 0, "redo_to": 0,
}  # fmt: skip


class Browser:
    """A Gradio request of one page."""

    def __init__(self, name):
        self.session_hash = name


@pytest.fixture(scope="module")
def desk():
    return desk_of(tiny_model(), WINDOW)


@pytest.fixture
def run(desk, song_file):
    """A function that runs a form to its end: (steps, made)."""

    def make(page="page", every=1, **filled):
        filled = FILLED | {"given": str(song_file)} | filled
        *steps, made = perform(desk, desk.session(page), form.job(filled), every)
        assert all(isinstance(step, Step) for step in steps)
        return steps, made

    return make


@pytest.mark.parametrize(
    ("task", "prompts", "names", "parts"),
    [
        ("generate", "a song", ["mixture"], ["mixture"]),
        (
            "extract",
            "bass\ndrums",
            ["mixture", "source_1", "source_2", "residual"],
            ["source_1", "source_2", "residual"],
        ),
        ("add", "bass", ["mixture", "source", "submixture"], ["source", "submixture"]),
        ("accompany", "a\nband", ["mixture", "submixture", "source"], ["submixture", "source"]),
        ("compose", "bass\npiano", ["mixture", "source_1", "source_2"], ["source_1", "source_2"]),
        (
            "replace",
            "bass",
            ["mixture", "source", "removed", "residual"],
            ["source", "residual"],
        ),
    ],
)
def test_the_parts_of_every_task_sum_to_its_whole(run, task, prompts, names, parts):
    steps, made = run(task=task, prompts=prompts, new_prompt="tuba", seconds=0.7)
    assert [track.name for track in made.tracks] == names
    assert [track.name for track in made.tracks if track.part] == parts
    whole = made.tracks[0].audio
    np.testing.assert_allclose(tracks.remixed(made.tracks, {}), whole, atol=2e-6, rtol=1e-5)
    assert steps[-1].done <= steps[-1].total
    assert all(step.picture is not None for step in steps)
    shown = rows.shown(made.tracks)
    assert len(shown) == 6 * rows.COUNT
    assert [u["visible"] for u in shown[::6]] == [n < len(names) for n in range(rows.COUNT)]


def test_gains_are_in_db_and_the_lowest_leaves_out(run):
    _, made = run(prompts="bass\ndrums")
    _, first, second, rest = (track.audio for track in made.tracks)
    mixed = tracks.remixed(made.tracks, {"source_1": tracks.SILENT_DB, "source_2": 20.0})
    np.testing.assert_allclose(mixed, 10 * second + rest, atol=1e-5)
    assert first.any()


def test_the_zip_holds_all_tracks_and_how_they_were_made(run):
    _, made = run(prompts="bass", negative="noise", seed=7)
    with zipfile.ZipFile(made.archive) as archive:
        assert archive.namelist() == ["mixture.wav", "source.wav", "residual.wav", "info.json"]
        info = json.loads(archive.read("info.json"))
    assert (info["task"], info["seed"], info["negative"]) == ("extract", 7, "noise")
    audio, rate = sf.read(made.tracks[1].wav, dtype="float32")
    assert rate == 44100
    np.testing.assert_array_equal(audio.T, made.tracks[1].audio)


def test_a_row_says_prompt_presence_and_level(run):
    _, made = run(prompts="<b>bass</b>", gate=True, gate_threshold=1.0)
    text = rows.title(made.tracks[1])
    assert "&lt;b&gt;bass&lt;/b&gt; · presence 0." in text
    assert "silenced: under 1" in text
    assert "RMS silent, peak silent, 0.7 s" in text


def test_only_the_seconds_asked_for_are_made_anew(run, song):
    _, made = run(seed=1)
    old = made.tracks[1]
    _, made = run(seed=2, current=str(old.wav), redo_from=0.2, redo_to=0.4)
    new = made.tracks[1].audio
    outside = np.r_[0 : int(0.2 * 44100), int(0.4 * 44100) + 1 : new.shape[1]]
    np.testing.assert_array_equal(new[:, outside], old.audio[:, outside])
    assert not np.array_equal(new, old.audio)


def test_a_song_of_many_windows(run, tmp_path):
    song = np.random.default_rng(0).uniform(-0.3, 0.3, (16000 * 8, 1))
    sf.write(tmp_path / "long.wav", song, 16000)
    _, made = run(given=str(tmp_path / "long.wav"), every=0, steps=2)
    assert made.tracks[1].audio.shape == (1, 16000 * 8)


@pytest.mark.parametrize(
    ("filled", "says"),
    [
        ({"given": None}, "extract: needs the mixture as the given audio"),
        ({"prompts": " \n"}, "prompt: expected words"),
        ({"prompts": "a\n" * 9}, "prompts: expected 8 lines at most, found 9"),
        ({"task": "replace"}, "replace: expected one prompt, and one for the new"),
        ({"steps": 0}, "steps: expected 1 or more"),
        ({"sampler": "ddmi"}, "ddim"),
        ({"current": "song"}, "redo: expected a start"),
        ({"current": "song", "redo_to": 1, "task": "compose"}, "keep: compose makes several"),
        ({"current": "other", "redo_to": 1}, "current track: expected 44100 Hz"),
        ({"example": "song"}, "embeds texts only"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(run, filled, says, song_file, tmp_path):
    sf.write(tmp_path / "other.wav", np.zeros(800), 8000)
    places = {"song": str(song_file), "other": str(tmp_path / "other.wav")}
    with pytest.raises(ValueError, match=says):
        run(**{key: places.get(value, value) for key, value in filled.items()})


def test_a_cancelled_run_stops_at_its_next_step_and_the_next_one_runs(desk, run, song_file):
    session = desk.session("cancelling")
    session.begin()
    news = perform(desk, session, form.job(FILLED | {"given": str(song_file), "steps": 500}), 1)
    assert next(news).done == 1
    session.cancel()
    with pytest.raises(Cancelled):
        list(news)
    assert session.tracks == []
    session.begin()
    assert run(page="cancelling")[1].tracks


def test_a_run_may_be_cancelled_while_it_waits(desk, song_file):
    session = desk.session("waiting")
    session.begin()
    session.cancel()
    with pytest.raises(Cancelled):
        list(perform(desk, session, form.job(FILLED | {"given": str(song_file)}), 0))


def test_closing_the_page_stops_its_run_and_removes_its_files(desk, song_file):
    session = desk.session("closing")
    news = perform(desk, session, form.job(FILLED | {"given": str(song_file), "steps": 500}), 1)
    next(news)
    desk.leave("closing")
    with pytest.raises(Cancelled):
        list(news)
    assert not session.folder.exists()
    assert desk.session("closing") is not session


def test_two_pages_run_in_turn_and_keep_their_own(desk, run):
    made = {}

    def work(page, prompts):
        made[page] = run(page=page, prompts=prompts, every=0)[1]

    pages = {"one": "bass", "two": "bass\ndrums"}
    threads = [threading.Thread(target=work, args=item) for item in pages.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(desk.session(page).tracks) for page in pages] == [3, 4]
    assert desk.session("one").folder != desk.session("two").folder


def test_a_used_track_chooses_its_task(desk, run):
    _, made = run(page="using")
    use = rows.user(desk, 2, "submixture")
    assert use(Browser("using")) == ["add", str(made.tracks[2].wav)]
    with pytest.raises(gr.Error, match="no such track"):
        use(Browser("another"))


def test_the_page_is_told_of_steps_then_rows(desk, song_file):
    tell = stems_tab.runner(desk, list(FILLED))
    told = list(tell(Browser("told"), *(FILLED | {"given": str(song_file)}).values()))
    assert "Step 1 of 3" in told[0][1]
    assert "Done: extract, seed 1." in told[-1][1]
    assert len({len(outputs) for outputs in told}) == 1


def test_the_page_is_told_what_went_wrong(desk):
    tell = stems_tab.runner(desk, list(FILLED))(Browser("wrong"), *FILLED.values())
    assert "extract: needs the mixture" in next(tell)[1]
    with pytest.raises(gr.Error, match="extract: needs the mixture"):
        next(tell)


@pytest.mark.parametrize(("prompts", "text"), [("", None), ("bass", "bass")])
def test_an_audio_example_is_asked_of_a_model_that_hears(
    desk, run, song_file, monkeypatch, prompts, text
):
    """Alone, or mixed with a text: the ears here hear "drums" in everything."""
    (conditioner,) = desk.pipeline.model.conditioner.conditioners.values()
    embed, heard = conditioner.embedder.embed_text, []

    def embed_audio(examples):
        heard.extend(examples)
        return embed(["drums"] * len(examples))

    monkeypatch.setattr(conditioner.embedder, "embed_audio", embed_audio, raising=False)
    _, made = run(example=str(song_file), prompts=prompts, refine="none")
    _, drums = run(prompts="drums", refine="none")
    audio, rate = sf.read(song_file, dtype="float32", always_2d=True)
    assert heard[0][1] == rate and heard[0][0].shape == audio.T.shape
    sources = [next(t.audio for t in m.tracks if t.name == "source") for m in (made, drums)]
    same = np.allclose(*sources, atol=1e-5)
    assert same if text is None else not same
