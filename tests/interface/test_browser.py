"""The page in a real browser.

MGE_UI_SCREENSHOTS names a folder for pictures. Those of docs/ are of a trained model:

    MGE_UI_SCREENSHOTS=shots MGE_UI_MODEL=folder MGE_UI_SONG=song.wav \\
        pytest tests/interface/test_browser.py -k pictures
"""

import io
import logging
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mge_plugin.report import Clip, Page, Section, write_page

pytestmark = pytest.mark.slow
WAIT = 90_000  # ms for a run on a busy machine
MIXER = "document.querySelector('#mge-mixer mge-mixer')"


@pytest.fixture(scope="module")
def address(serve):
    return serve()


@pytest.fixture
def page(chromium, address):
    """A page of its own session, on the Stems tab."""
    page = open_page(chromium, address[0])
    yield page
    page.context.close()


def open_page(chromium, address, width=1400):
    page = chromium.new_context(viewport={"width": width, "height": 1000}).new_page()
    page.set_default_timeout(WAIT)
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.goto(address)
    stems_tab(page)
    return page


def stems_tab(page):
    page.get_by_role("tab", name="Stems").click()
    page.wait_for_selector("#mge-run")


def fill_in(page, song, prompts=("bass",), steps=4):
    if page.locator("#mge-given input[type=file]").count():  # else a song is there already
        page.set_input_files("#mge-given input[type=file]", str(song))
    page.wait_for_selector("#mge-given audio, #mge-given canvas, #mge-given .waveform-container")
    page.fill("#mge-prompts textarea", "\n".join(f"The sound of the {p}" for p in prompts))
    open_group(page, "sampling")
    page.locator("#mge-steps input").fill(str(steps))
    open_group(page, "extraction")
    page.locator("#mge-gate input").uncheck()


def open_group(page, name):
    field = {"sampling": "#mge-steps input", "extraction": "#mge-gate input"}[name]
    if not page.locator(field).is_visible():
        page.locator(f"#mge-group-{name} button").first.click()


def run(page, task="extract"):
    """Run and wait for the result, whose mixer differs from the one before."""
    before = page.evaluate(f"{MIXER}?.innerHTML ?? ''")
    page.click("#mge-run")
    page.wait_for_selector(f"#mge-status >> text=/Done.*{task}/")
    page.wait_for_function(f"before => {MIXER}?.innerHTML !== before", arg=before)


def tracks(page):
    """Names of the rows that the mixer shows."""
    return page.evaluate(f"{MIXER}.lanes.map(lane => lane.name)")


def loaded(page):
    """What the mixer plays, decoded by the browser: name -> samples of the first channel."""
    page.evaluate(f"{MIXER}.load()")
    found = page.evaluate(
        f"{MIXER}.lanes.map(lane => [lane.name, Array.from(lane.buffer.getChannelData(0))])"
    )
    return {name: np.array(samples, np.float32) for name, samples in found}


def downloaded(page, name):
    """The file behind a row's download link."""
    with page.expect_download() as download:
        page.locator("#mge-mixer").get_by_label(f"Download {name}", exact=True).click()
    audio, _ = sf.read(download.value.path(), dtype="float32", always_2d=True)
    return download.value.suggested_filename, audio[:, 0]


def test_every_run_plays_its_own_tracks(page, song_file):
    """The second and third run replace what the mixer plays: it equals the files on offer."""
    heard = []
    for prompts in (["bass"], ["drums", "piano"], ["guitar"]):
        fill_in(page, song_file, prompts)
        run(page)
        assert tracks(page) == ["mixture", *prompts, "residual"]
        plays = loaded(page)
        heard.append(plays[prompts[0]])
        for name in (prompts[0], "residual"):
            file, audio = downloaded(page, name)
            assert file == f"{song_file.stem}_{name}.wav"
            np.testing.assert_allclose(plays[name], audio, atol=1e-6)
    assert not np.allclose(heard[0], heard[1]) and not np.allclose(heard[1], heard[2])
    assert page.problems == []


def test_the_mixer_mixes(page, song_file):
    fill_in(page, song_file, ["bass", "drums"])
    run(page)
    plays = loaded(page)
    mixer = page.locator("#mge-mixer")
    gains = f"{MIXER}.lanes.map(lane => {MIXER}.gainOf(lane))"
    assert page.evaluate(gains) == [0, 1, 1, 1]
    mixer.get_by_label("Gain of bass").fill("-6")
    mixer.get_by_label("Mute drums").click()
    assert page.evaluate(gains) == pytest.approx([0, 10**-0.3, 0, 1])
    with page.expect_download() as download:
        mixer.get_by_role("button", name="Download mix").click()
    mix, _ = sf.read(download.value.path(), dtype="float32", always_2d=True)
    expected = 10**-0.3 * plays["bass"] + plays["residual"]
    np.testing.assert_allclose(mix[:, 0], expected, atol=1e-6)
    mixer.get_by_role("button", name="Original").click()
    assert page.evaluate(gains) == [1, 0, 0, 0]
    mixer.get_by_label("Position in bass").press("3")  # solo of the third row
    assert page.evaluate(gains) == [0, 0, 1, 0]


def test_all_tracks_play_on_one_clock(page, song_file):
    fill_in(page, song_file)
    run(page)
    plot = page.locator("#mge-mixer").get_by_label("Position in bass")
    plot.press("l")
    plot.press(" ")
    page.wait_for_function(f"{MIXER}.started && {MIXER}.now() > 0.1")
    starts = page.evaluate(f"{MIXER}.lanes.map(lane => lane.source.context.currentTime)")
    assert len(set(starts)) == 1
    page.wait_for_timeout(1000)  # longer than the song: it loops
    assert page.evaluate(f"{MIXER}.now() < {MIXER}.seconds && {MIXER}.wanted")
    plot.press(" ")
    assert page.evaluate(f"{MIXER}.started") is None
    plot.press("+")
    plot.press("w")
    page.wait_for_function(f"{MIXER}.lanes[0].canvas.width > 300 && {MIXER}.zoom === 2")
    assert page.problems == []


def test_results_survive_a_reload_and_can_be_chosen_again(page, song_file):
    fill_in(page, song_file)
    run(page)
    first = loaded(page)["bass"]
    fill_in(page, song_file, ["drums"])
    run(page)
    page.reload()
    stems_tab(page)
    page.wait_for_function(f"{MIXER}?.lanes?.length === 3")
    assert tracks(page)[1] == "drums"
    page.locator("#mge-results input").click()
    page.get_by_role("option", name=re.compile("^1\\.")).click()
    page.wait_for_function(f"{MIXER}.lanes[1].name === 'bass'")
    np.testing.assert_array_equal(loaded(page)["bass"], first)


def test_a_track_is_used_by_the_next_task(page, song_file):
    fill_in(page, song_file)
    run(page)
    page.get_by_role("button", name="Use track as submixture").click()
    page.wait_for_selector("text=Given audio: the submixture")
    assert page.get_by_role("radio", name="add").is_checked()
    run(page, "add")
    assert tracks(page) == ["mixture", "bass", "submixture"]
    with page.expect_download() as download:
        page.click("#mge-zip")
    assert download.value.suggested_filename.endswith("_add.zip")


def test_cancel_stops_a_run_and_leaves_the_page_usable(page, song_file):
    page.click("#mge-cancel")
    page.wait_for_selector("#mge-status >> text=Nothing is running.")
    fill_in(page, song_file, steps=2000)
    page.click("#mge-run")
    page.wait_for_selector("#mge-status .mge-preview")
    page.click("#mge-cancel")
    page.wait_for_selector("#mge-status >> text=Cancelled.")
    page.wait_for_selector("#mge-run:not([disabled])")
    fill_in(page, song_file, steps=2)
    run(page)


def test_two_browsers_do_not_disturb_each_other(page, chromium, address, song_file):
    other = open_page(chromium, address[0])
    fill_in(page, song_file, steps=60)
    fill_in(other, song_file, ["drums", "piano"], steps=3)
    page.click("#mge-run")
    page.wait_for_selector("#mge-status [role=progressbar]")
    other.click("#mge-run")
    for each, count in ((page, 3), (other, 4)):
        each.wait_for_selector("#mge-status >> text=Done")
        each.wait_for_function(f"{MIXER}?.lanes.length === {count}")
    other.context.close()
    assert set(loaded(page)) == {"mixture", "bass", "residual"}


def test_a_wrong_file_and_nothing_at_all_are_sentences(page, tmp_path):
    page.click("#mge-run")
    page.wait_for_selector("#mge-status >> text=/extract needs a text/")
    wrong = tmp_path / "wrong.wav"
    wrong.write_text("this is no audio")
    page.set_input_files("#mge-given input[type=file]", str(wrong))
    page.fill("#mge-prompts textarea", "The sound of the bass")
    page.wait_for_timeout(1000)
    page.click("#mge-run")
    page.wait_for_selector("#mge-status >> text=/wrong.wav/")
    assert str(tmp_path) not in page.inner_text("body")
    page.wait_for_selector("#mge-run:not([disabled])")


def test_files_go_with_the_page(chromium, address, song_file, gradio_folder):
    """Uploads, tracks and pictures are removed 20 seconds after the last page was closed."""
    song = song_file.rename(song_file.with_name("leaving.wav"))  # a name of this test alone
    page = open_page(chromium, address[0])
    fill_in(page, song)
    run(page)
    made = [path for path in gradio_folder.rglob(f"{song.stem}*") if path.is_file()]
    assert len(made) > 5 and song.name in {path.name for path in made}
    page.context.close()
    deadline = time.monotonic() + 120
    while any(path.exists() for path in made) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert [path.name for path in made if path.exists()] == []


def test_a_phone_shows_the_result_without_scrolling_sideways(chromium, address, song_file):
    page = open_page(chromium, address[0], width=390)
    fill_in(page, song_file, ["bass", "drums"])
    run(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#mge-mixer").bounding_box()["height"] < 1000
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_small_print_has_a_contrast_of_4_5_to_1(chromium, address, scheme):
    context = chromium.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{address[0]}/?__theme={scheme}")
    stems_tab(page)
    page.wait_for_timeout(500)
    low = page.evaluate(CONTRASTS)
    assert low == []
    context.close()


CONTRASTS = """() => {
    const parse = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
        .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (element) => {
        for (; element; element = element.parentElement) {
            const colour = parse(getComputedStyle(element).backgroundColor);
            if (colour.length < 4 || colour[3] > 0.9) return colour;
        }
        return [255, 255, 255];
    };
    const low = [];
    for (const element of document.querySelectorAll("#component-0 *, .gradio-container *")) {
        const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
        if (!own || !element.checkVisibility({opacityProperty: true})) continue;
        if (element.closest("button, footer, [disabled]")) continue;
        const style = getComputedStyle(element);
        const [a, b] = [light(parse(style.color)), light(ground(element))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) low.push(`${ratio.toFixed(2)} ${element.textContent.trim().slice(0, 40)}`);
    }
    return [...new Set(low)];
}"""


def test_the_stock_tab_goes_on_from_its_result(page, address):
    page.get_by_role("tab", name="Generation").click()
    page.get_by_label("number input for Steps").first.fill("4")
    for name in ("Output params", "Inpainting"):
        page.get_by_role("button", name=re.compile(f"^{name}")).click()
    page.locator("#automatic-download input").check()
    page.get_by_placeholder("Prompt", exact=True).fill("a song")
    with page.expect_download() as download:
        page.get_by_role("button", name="Generate", exact=True).click()
    assert re.fullmatch(r"a_song_cfg2_seed\d+\.wav", download.value.suggested_filename)
    first, _ = sf.read(download.value.path())
    before = page.wait_for_selector("text=/seed \\d+, RMS/").inner_text()

    page.get_by_role("button", name="Send to inpaint audio").click()
    page.wait_for_function(
        """() => {
            const end = Math.ceil(document.querySelector('#mge-output audio').duration * 10) / 10;
            const sliders = [...document.querySelectorAll('input[type=range]')];
            const players = [...document.querySelectorAll('audio')].filter(audio => audio.src);
            return players.length > 1  // the output's and the sent one
                && sliders.some(slider => slider.max == end && slider.value == end);
        }"""
    )
    page.get_by_placeholder("Prompt", exact=True).fill("add: the sound of the bass")
    with page.expect_download() as download:
        page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_function(
        "before => !document.body.innerText.includes(before)"
        " && /seed \\d+, RMS/.test(document.body.innerText)",
        arg=before,
    )
    second, _ = sf.read(download.value.path())
    assert not np.array_equal(first, second)
    source = page.evaluate("document.querySelector('#mge-output audio').src")
    played = page.request.get(source).body()
    np.testing.assert_array_equal(sf.read(io.BytesIO(played))[0], second)
    assert list(address[1].iterdir()) == []


def test_the_stock_tab_says_steps_and_what_is_missing_and_can_be_cancelled(page):
    page.get_by_role("tab", name="Generation").click()
    page.get_by_placeholder("Prompt", exact=True).fill("add: the sound of the bass")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_selector("#mge-generation-status >> text=/Inpaint audio/")
    page.get_by_placeholder("Prompt", exact=True).fill("a song")
    page.get_by_label("number input for Steps").first.fill("500")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_selector("#mge-generation-status [role=progressbar]")
    page.click("#mge-generation-cancel")
    page.wait_for_selector("#mge-generation-status >> text=Cancelled.")


def test_a_result_page_plays_its_clips_under_its_own_policy(chromium, tmp_path):
    audio = np.random.default_rng(0).normal(0, 0.1, (1, 8000)).astype(np.float32)
    clips = [Clip(name, "", audio * gain, 16000) for name, gain in (("one", 1), ("two", 0.5))]
    path = write_page(Page("Demo", sections=[Section("Both", clips=clips)]), tmp_path / "demo.html")
    page = chromium.new_page()
    problems = []
    page.on("console", lambda message: problems.append(message.text))
    page.goto(path.as_uri())
    mixer = "document.querySelector('mge-mixer')"
    page.get_by_role("button", name="Play").click()
    page.wait_for_function(f"{mixer}.started")
    peaks = page.evaluate(
        f"{mixer}.lanes.map(l => Math.max(...l.buffer.getChannelData(0)) * {mixer}.gainOf(l))"
    )
    assert peaks == pytest.approx([audio.max(), 0], abs=1e-4)
    page.get_by_role("button", name="Solo two").click()
    assert page.evaluate(f"{mixer}.lanes.map(l => {mixer}.gainOf(l))") == [0, 1]
    assert problems == []
    page.close()


@pytest.mark.skipif("MGE_UI_SCREENSHOTS" not in os.environ, reason="takes pictures for docs")
@pytest.mark.parametrize("width", [1400, 390])
def test_pictures(chromium, address, song_file, width):
    """After two different runs, and the time from opening the page to a downloaded stem."""
    folder = Path(os.environ["MGE_UI_SCREENSHOTS"])
    began = time.monotonic()
    page = open_page(chromium, address[0], width)
    page.click("#mge-try")
    page.wait_for_selector("#mge-given audio, #mge-given .waveform-container")
    run(page)
    downloaded(page, tracks(page)[1])
    logging.info("%.0f s from opening the page to a stem", time.monotonic() - began)
    page.fill("#mge-prompts textarea", "The sound of the guitar")
    run(page)
    page.evaluate(f"{MIXER}.seek({MIXER}.seconds / 3)")
    page.wait_for_timeout(1500)
    page.screenshot(path=folder / f"interface_stems_{width}.png", full_page=True)
    page.get_by_role("tab", name="Generation").click()
    page.wait_for_timeout(1000)
    page.screenshot(path=folder / f"interface_generation_{width}.png", full_page=True)
    page.context.close()
