"""The page in a real browser.

MGE_UI_SCREENSHOTS names a folder to leave pictures in. Those of docs/ are of a trained model:

    MGE_UI_SCREENSHOTS=shots MGE_UI_MODEL=folder MGE_UI_SONG=song.wav \\
        pytest tests/interface/test_browser.py -k "extract_chain or goes_on"
"""

import os
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
WAIT = 90_000  # ms for a run on a busy machine


@pytest.fixture(scope="module")
def address(serve):
    return serve()


@pytest.fixture
def page(chromium, address):
    """A page of its own session, on the Stems tab."""
    page = open_page(chromium, address[0])
    yield page
    page.context.close()


@pytest.fixture
def picture():
    """A function that keeps a screenshot if a folder is named."""

    def keep(page, name):
        if folder := os.environ.get("MGE_UI_SCREENSHOTS"):
            page.wait_for_timeout(2000)  # players draw their waveforms late
            page.screenshot(path=Path(folder, f"{name}.png"), full_page=True)

    return keep


def open_page(chromium, address):
    page = chromium.new_context(viewport={"width": 1400, "height": 1000}).new_page()
    page.set_default_timeout(WAIT)
    page.goto(address)
    page.get_by_role("tab", name="Stems").click()
    page.wait_for_selector("#mge-run")
    return page


def fill_in(page, song, prompts=("bass",), steps=4, gate=False):
    page.set_input_files("#mge-given input[type=file]", str(song))
    page.wait_for_selector("#mge-given audio, #mge-given canvas, #mge-given .waveform-container")
    for number, label in enumerate(prompts, 1):
        page.locator("#mge-suggestions button", has_text=label).first.click()
        page.wait_for_function(
            "n => document.querySelector('#mge-prompts textarea').value.split('\\n').length == n"
            " && document.querySelector('#mge-prompts textarea').value != ''",
            arg=number,
        )
    set_steps(page, steps)
    if not gate:
        page.locator("#mge-quality button").first.click()
        page.locator("#mge-gate input").uncheck()


def set_steps(page, steps):
    page.locator("#mge-steps input[type=number]").fill(str(steps))
    page.locator("#mge-steps input[type=number]").press("Enter")


def run(page, task="extract"):
    """The page may still say what the last run made, so look for this task's name."""
    page.click("#mge-run")
    page.wait_for_selector(f"#mge-status >> text=Done: {task}")


def tracks(page):
    return page.locator(".mge-track:visible")


def test_extract_chain_and_remix(page, song_file, picture):
    fill_in(page, song_file, ["bass", "drums"])
    run(page)
    assert tracks(page).count() == 4
    heads = tracks(page).locator("strong").all_inner_texts()
    assert heads == ["mixture", "source 1", "source 2", "residual"]
    assert "The sound of the drums · presence 0." in tracks(page).nth(2).inner_text()
    for number in range(4):
        row = tracks(page).nth(number)
        row.locator("img").first.wait_for()
        assert "RMS" in row.inner_text()
        row.get_by_label("Play", exact=True).first.wait_for()
    picture(page, "extracted")

    with page.expect_download() as download:
        page.click("#mge-zip")
    assert download.value.suggested_filename == "extract.zip"
    page.click("#mge-remix")
    page.locator("#mge-mixed").get_by_label("Play", exact=True).wait_for()

    tracks(page).nth(3).get_by_role("button", name="Use as submixture").click()
    page.wait_for_selector("text=Given audio: the submixture")
    assert page.get_by_role("radio", name="add").is_checked()
    run(page, "add")
    heads = tracks(page).locator("strong").all_inner_texts()
    assert heads == ["mixture", "source 1", "source 2", "submixture"]
    picture(page, "chained")


def test_cancel_stops_a_run_and_leaves_the_page_usable(page, song_file, picture):
    fill_in(page, song_file, steps=500)
    page.click("#mge-run")
    page.wait_for_selector("#mge-status [role=progressbar]")
    page.locator("#mge-preview img").wait_for()
    picture(page, "under_way")
    page.click("#mge-cancel")
    page.wait_for_selector("#mge-status >> text=Cancelled.")
    assert tracks(page).count() == 0
    set_steps(page, 2)
    run(page)
    assert tracks(page).count() == 3


def test_two_browsers_do_not_disturb_each_other(page, chromium, address, song_file):
    other = open_page(chromium, address[0])
    fill_in(page, song_file, steps=60)
    fill_in(other, song_file, ["drums", "piano"], steps=3)
    page.click("#mge-run")
    page.wait_for_selector("#mge-status [role=progressbar]")
    other.click("#mge-run")
    other.wait_for_selector("#mge-status >> text=Waiting")
    page.wait_for_selector("#mge-status >> text=Done")
    other.wait_for_selector("#mge-status >> text=Done")
    assert (tracks(page).count(), tracks(other).count()) == (3, 4)
    other.context.close()
    page.click("#mge-remix")
    page.locator("#mge-mixed").get_by_label("Play", exact=True).wait_for()


def test_a_wrong_file_is_a_sentence(page, tmp_path, picture):
    wrong = tmp_path / "wrong.wav"
    wrong.write_text("this is no audio")
    page.set_input_files("#mge-given input[type=file]", str(wrong))
    page.fill("#mge-prompts textarea", "The sound of the bass")
    page.wait_for_timeout(1000)
    page.click("#mge-run")
    page.wait_for_selector("#mge-status >> text=/wrong.wav: not readable as audio/")
    assert str(tmp_path) not in page.inner_text("body")
    page.wait_for_selector("#mge-run:not([disabled])")
    picture(page, "wrong_file")


def test_nothing_filled_in_is_a_sentence(page):
    page.click("#mge-run")
    page.wait_for_selector("#mge-status >> text=extract: needs the mixture as the given audio")


def test_the_stock_tab_goes_on_from_its_result(page, picture, address):
    page.get_by_role("tab", name="Generation").click()
    page.get_by_label("number input for Steps").first.fill("4")
    for name in ("Output params", "Inpainting"):
        page.get_by_role("button", name=re.compile(f"^{name}")).click()
    page.locator("#automatic-download input").check()
    page.get_by_placeholder("Prompt", exact=True).fill("a song")
    with page.expect_download() as download:
        page.get_by_role("button", name="Generate", exact=True).click()
    assert re.fullmatch(r"a_song_cfg2_seed\d+\.wav", download.value.suggested_filename)
    first = page.wait_for_selector("text=/seed \\d+, RMS/").inner_text()

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
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_function(
        "told => !document.body.innerText.includes(told)"
        " && /seed \\d+, RMS/.test(document.body.innerText)",
        arg=first,
    )
    picture(page, "generation")
    assert list(address[1].iterdir()) == []


def test_the_stock_tab_says_what_is_missing(page):
    page.get_by_role("tab", name="Generation").click()
    page.get_by_placeholder("Prompt", exact=True).fill("add: the sound of the bass")
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_selector("text=add: needs the submixture as the Inpaint audio, found none")
