"""The Stems tab without a browser: the form, runs, what is shown, kept and removed."""

import json
import re
import threading
import zipfile

import gradio as gr
import numpy as np
import pytest
import soundfile as sf

from mge_plugin.inference.request import Cancelled, Finish, Sampling
from mge_plugin.interface import form, sessions, stems_tab
from mge_plugin.interface.sessions import Step
from mge_plugin.tracks import TASKS
from tests.interface.conftest import make_ui

FORM = {
    "task": "extract", "given": None, "songs": None, "prompts": "bass", "new_prompt": "",
    "seconds": None, "preset": "", "example": None, "text_weight": 0.5, "current": None,
    "redo_from": 0, "redo_to": 0, "negative": "", "preview_every": 1,
}  # fmt: skip
FORM |= vars(Sampling(steps=3, seed=1)) | vars(Finish(gate=False))


class Page:
    """A Gradio request of one page."""

    def __init__(self, name):
        self.session_hash = name


@pytest.fixture
def runs(desk, song_file):
    """A function that runs a form to its end: (steps, runs)."""

    def make(page="page", **values):
        values = FORM | {"given": str(song_file)} | values
        news = list(stems_tab._songs(desk, page, values))
        session, count = desk.session(page), sum(not isinstance(n, Step) for n in news)
        return [n for n in news if isinstance(n, Step)], session.runs[-count:]

    return make


@pytest.fixture
def run(runs):
    """A function that runs a form once: the run."""
    return lambda **values: runs(**values)[1][0]


def read(run, name):
    audio, _ = sf.read(run.tracks[name], dtype="float32", always_2d=True)
    return audio.T


@pytest.mark.parametrize(
    ("task", "prompts", "names", "parts"),
    [
        ("generate", "a song", ["mixture"], ["mixture"]),
        ("extract", "bass\ndrums", ["mixture", "bass", "drums", "residual"], ...),
        ("add", "bass", ["mixture", "bass", "submixture"], ...),
        ("accompany", "a\nband", ["mixture", "submixture", "source"], ...),
        ("compose", "bass\npiano", ["mixture", "bass", "piano"], ...),
        ("replace", "bass", ["mixture", "tuba", "residual", "removed"], ["tuba", "residual"]),
    ],
)
def test_the_parts_of_every_task_sum_to_its_whole(runs, task, prompts, names, parts):
    steps, (made,) = runs(task=task, prompts=prompts, new_prompt="tuba", seconds=0.7)
    assert list(made.tracks) == names
    parts = names[1:] if parts is ... else parts
    marked = re.findall(r'<figure data-name="([^"]*)"[^>]*data-part', made.mixer)
    assert marked == parts
    whole = sum(read(made, name) for name in parts)
    np.testing.assert_allclose(whole, read(made, names[0]), atol=2e-6, rtol=1e-5)
    assert steps[-1].done <= steps[-1].total
    assert any(step.picture is not None for step in steps)


def test_files_are_named_after_song_and_instrument(run, song_file):
    made = run(prompts="The sound of the bass", negative="noise", seed=7)
    names = [f"song_{name}.wav" for name in ("mixture", "bass", "residual")]
    assert [path.name for path in made.tracks.values()] == names
    with zipfile.ZipFile(made.archive) as archive:
        assert archive.namelist() == [*names, "info.json"]
        info = json.loads(archive.read("info.json"))
    assert (info["task"], info["seed"], info["negative"]) == ("extract", 7, "noise")
    assert sf.info(made.tracks["bass"]).samplerate == 44100
    assert made.archive.name == "song_extract.zip"


def test_the_mixer_shows_prompt_presence_and_level(run):
    made = run(prompts="<b>bass</b>", gate=True, gate_threshold=1.0)
    assert "<b>bass" not in made.mixer and "&lt;b&gt;bass" in made.mixer
    assert re.search(r"presence 0\.\d\d, silenced: under 1", made.mixer)
    assert "silent · " in made.mixer


def test_only_the_chosen_seconds_are_generated_again(run):
    old = run(seed=1)
    new = run(seed=2, current=str(old.tracks["bass"]), redo_from=0.2, redo_to=0.4)
    before, after = read(old, "bass"), read(new, "bass")
    outside = np.r_[0 : int(0.2 * 44100), int(0.4 * 44100) + 1 : after.shape[1]]
    np.testing.assert_array_equal(after[:, outside], before[:, outside])
    assert not np.array_equal(after, before)


@pytest.mark.parametrize(("samples", "rate"), [(1, 44100), (16000 * 4, 16000)])
def test_songs_of_one_sample_and_of_many_windows(run, tmp_path, samples, rate):
    song = np.random.default_rng(0).uniform(-0.3, 0.3, (samples, 1))
    sf.write(tmp_path / "long.wav", song, rate)
    made = run(given=str(tmp_path / "long.wav"), steps=2, preview_every=0)
    assert read(made, "bass").shape == (1, samples)


def test_several_songs_are_several_results_and_a_broken_one_stops_none(desk, song_file, tmp_path):
    other, broken = tmp_path / "other.wav", tmp_path / "broken.wav"
    other.write_bytes(song_file.read_bytes())
    broken.write_text("no audio")
    values = FORM | {"given": str(song_file), "songs": [str(broken), str(other)]}
    with pytest.raises(ValueError, match=r"broken\.wav"):
        list(stems_tab._songs(desk, "several", values))
    assert [run.archive.name for run in desk.session("several").runs] == [
        "song_extract.zip",
        "other_extract.zip",
    ]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"given": None}, "mixture"),
        ({"prompts": " \n"}, "prompt"),
        ({"prompts": "a\n" * 65}, "prompts"),
        ({"task": "replace"}, "prompt"),
        ({"task": "sing"}, "task"),
        ({"steps": 0}, "steps"),
        ({"steps": 10**9}, "steps"),
        ({"candidates": 10**6}, "candidates"),
        ({"sampler": "repaint", "resamplings": 10**9}, "resamplings"),
        ({"task": "generate", "seconds": 1e9}, "seconds"),
        ({"sampler": "ddmi"}, "ddim"),
        ({"cfg_interval": "zero"}, "cfg_interval"),
        ({"current": "song"}, "redo"),
        ({"current": "song", "redo_to": 1, "task": "compose"}, "keep"),
        ({"current": "other", "redo_to": 1}, "keep"),
        ({"example": "song"}, "text|audio"),
        ({"given": "wrong"}, "Given audio: wrong.wav"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(run, values, named, song_file, tmp_path):
    sf.write(tmp_path / "other.wav", np.zeros(800), 8000)
    (tmp_path / "wrong.wav").write_text("no audio")
    places = {"song": str(song_file)}
    places |= {name: str(tmp_path / f"{name}.wav") for name in ("other", "wrong")}
    with pytest.raises((ValueError, TypeError), match=named) as caught:
        run(**{key: places.get(str(value), value) for key, value in values.items()})
    assert str(tmp_path) not in str(caught.value)


def test_the_fields_are_the_declared_options(desk):
    ui = make_ui(desk.pipeline.model)
    (stems,) = (event for event in ui.fns.values() if event.api_name == "stems")
    fields = {field.elem_id: field for field in stems.inputs if field.elem_id}
    for cls in (Sampling, Finish):
        assert {f"mge-{name}" for name in cls.__dataclass_fields__} <= set(fields)
    assert fields["mge-eta"].maximum == 1
    assert "ddim" in fields["mge-eta"].info


def test_presets_begin_with_the_models_own():
    own = Sampling(steps=7, sampler="heun", cfg_scale=3.0)
    presets = form.presets(own)
    assert next(iter(presets.values())) is own
    assert presets["paper"] == Sampling.paper()
    assert presets["fast"].steps < presets["fine"].steps
    assert {p.cfg_scale for p in (presets["fast"], presets["fine"])} == {3.0}


@pytest.mark.parametrize("task", TASKS)
def test_a_task_shows_what_it_needs(task):
    text, given, songs, seconds, new = form._choose(task)
    assert text == form._HELP[task]
    assert given["visible"] == songs["visible"] == (task not in ("generate", "compose"))
    assert seconds["visible"] != given["visible"]
    assert new["visible"] == (task == "replace")


def test_suggestions_make_lines():
    once = form._with_suggestion(["bass"], "")
    lines = form._with_suggestion(["drums"], once).splitlines()
    assert lines == ["The sound of the bass", "The sound of the drums"]


def test_a_value_of_the_wrong_type_is_named(desk):
    ui = make_ui(desk.pipeline.model)
    (stems,) = (event for event in ui.fns.values() if event.api_name == "stems")
    wrong = {"steps": "many", "seconds": [], "prompts": {}, "task": 3, "eta": "x", "preset": 1}
    names = list(FORM)
    for field in stems.inputs:
        name = (field.elem_id or "").removeprefix("mge-")
        if name in wrong and name in names and name != "prompts":
            with pytest.raises(gr.Error, match=name):
                field.preprocess(wrong[name])


def begin(desk, page, song_file, **values):
    request = form.read_request(FORM | {"given": str(song_file)} | values)
    return sessions.perform(desk, page, request, stems_tab._saver(desk, page, request), 1)


def test_a_cancelled_run_stops_at_its_next_step_and_the_next_one_runs(desk, run, song_file):
    session = desk.open("cancelling", "")
    session.begin()
    news = begin(desk, "cancelling", song_file, steps=500)
    assert next(news).total >= 500
    assert session.cancel()
    with pytest.raises(Cancelled):
        list(news)
    assert session.runs == [] and not session.cancel()
    session.begin()
    assert run(page="cancelling").tracks


def test_a_run_can_be_cancelled_while_it_waits(desk, song_file):
    session = desk.open("waiting", "")
    session.begin()
    assert session.cancel()
    with pytest.raises(Cancelled):
        list(begin(desk, "waiting", song_file))


@pytest.fixture
def brief(monkeypatch):
    monkeypatch.setattr(sessions, "_KEEP_SECONDS", 0.2)


def wait_until(condition, seconds=10):
    deadline = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if condition():
            return True
        deadline.wait(0.05)
    return False


def test_closing_the_page_stops_its_run_and_removes_its_files(desk, run, song_file, brief):
    session = desk.open("closing", "")
    run(page="closing")
    news = begin(desk, "closing", song_file, steps=500)
    next(news)
    desk.leave("closing")
    with pytest.raises(Cancelled):
        list(news)
    assert wait_until(lambda: not session.folder.exists())
    assert wait_until(lambda: desk.find("closing") is None)


def test_a_run_that_outlives_its_page_and_ends_without_a_result_leaves_nothing(
    desk, run, song_file, brief
):
    run(page="outlived")
    session = desk.session("outlived")
    with session.running():
        assert not wait_until(lambda: not session.folder.exists(), 1)
    assert wait_until(lambda: not session.folder.exists())


def test_the_oldest_result_makes_room(desk, run, monkeypatch):
    monkeypatch.setattr(sessions, "_MOST_RESULTS", 2)
    made = [run(page="many") for _ in range(3)]
    assert desk.session("many").runs == made[1:]
    assert [each.archive.exists() for each in made] == [False, True, True]


def test_a_reloaded_page_has_the_results_of_its_tab(desk, run, brief):
    desk.open("before", "tab")
    made = run(page="before")
    desk.leave("before")
    _, chosen, mixer, *_ = stems_tab.restore(desk)("tab", Page("after"))
    assert (mixer, chosen["value"]) == (made.mixer, 0)
    assert not wait_until(lambda: desk.find("after") is None, 1) and made.archive.exists()


def test_uploads_go_with_the_last_session_that_has_them(desk, gradio_folder, brief):
    upload = gradio_folder / "hash" / "song.wav"
    upload.parent.mkdir()
    upload.write_text("audio")
    for page in ("one", "two"):
        desk.open(page, "")
        desk.note_uploads(page, [str(upload), "/etc/hostname", None])
        assert desk.session(page).uploads == {upload}
    desk.leave("one")
    assert wait_until(lambda: desk.find("one") is None) and upload.exists()
    desk.leave("two")
    assert wait_until(lambda: not upload.exists())


def test_made_up_session_ids_leave_nothing(desk, gradio_folder):
    before, table = set(gradio_folder.iterdir()), len(desk._sessions)
    for number in range(50):
        page = Page(f"made up {number}")
        stems_tab._shower(desk)(0, page)
        desk.leave(page.session_hash)
    assert set(gradio_folder.iterdir()) == before and len(desk._sessions) == table


def test_two_pages_run_in_turn_and_keep_their_own(desk, run):
    pages = {"one": "bass", "two": "bass\ndrums"}
    threads = [
        threading.Thread(target=run, kwargs={"page": page, "prompts": prompts})
        for page, prompts in pages.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(desk.session(page).runs[-1].tracks) for page in pages] == [3, 4]
    assert desk.session("one").folder != desk.session("two").folder


def test_a_used_track_chooses_its_task(desk, run):
    made = run(page="using")
    last = len(desk.session("using").runs) - 1
    use = stems_tab._user(desk, "add")
    assert use(last, "residual", Page("using")) == ["add", str(made.tracks["residual"])]
    for number, name, page in ((0, "x", "using"), (9, "residual", "using"), (0, "bass", "nobody")):
        with pytest.raises(gr.Error):
            use(number, name, Page(page))


def test_the_page_shows_steps_then_results_or_what_went_wrong(desk, song_file):
    good = FORM | {"given": str(song_file)}
    shown = list(stems_tab.reports(stems_tab._songs(desk, "shown", good), 6))
    assert "Sampling: step 0 of" in shown[0][1]
    assert "Done: song: extract, seed 1." in shown[-1][1]
    assert {len(outputs) for outputs in shown} == {8}
    bad = stems_tab.reports(stems_tab._songs(desk, "shown", FORM), 6)
    assert "mixture" in next(bad)[1]
    with pytest.raises(gr.Error, match="mixture"):
        next(bad)


@pytest.mark.parametrize(("prompts", "is_same"), [("", True), ("bass", False)])
def test_an_audio_example_alone_or_mixed_with_a_text(
    desk, run, song_file, monkeypatch, prompts, is_same
):
    """The embedder of this test returns the text embedding of "drums" for every audio."""
    (conditioner,) = desk.pipeline.model.conditioner.conditioners.values()
    embed = conditioner.embedder.embed_text
    monkeypatch.setattr(
        conditioner.embedder,
        "embed_audio",
        lambda examples: embed(["drums"] * len(examples)),
        raising=False,
    )
    made = run(example=str(song_file), prompts=prompts, refine="none")
    drums = run(prompts="drums", refine="none")
    source = next(name for name in made.tracks if name not in ("mixture", "residual"))
    assert np.allclose(read(made, source), read(drums, "drums"), atol=1e-5) == is_same
