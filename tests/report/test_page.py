import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from mge_plugin.report import Clip, Page, Section, Table, render_page, write_page

SAMPLE_RATE = 16000
EVIL = "<script>alert(1)</script>\"'&"


class Elements(HTMLParser):
    """Collects (tag, attributes) of every element, and the text."""

    def __init__(self, html):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


def noise(channels=1, samples=4000, scale=0.1, seed=0):
    return np.random.default_rng(seed).normal(0, scale, (channels, samples)).astype(np.float32)


def page_of(*clips, **kwargs):
    return Page("Demo", sections=[Section("Extract", clips=clips, **kwargs)])


def embedded_audio(html):
    uris = [attrs["src"] for attrs in Elements(html).all("audio")]
    return [soundfile.read(io.BytesIO(base64.b64decode(uri.split(",")[1])))[0].T for uri in uris]


@pytest.fixture(scope="module")
def html():
    """A page with untrusted text in every place that takes text."""
    clips = [Clip(EVIL, EVIL, noise(), SAMPLE_RATE, EVIL), Clip("b", "", noise(2), 44100)]
    table = Table([EVIL, "SI-SDR (dB)"], [[EVIL, "−7.1"], ["drums", "3.25"]], EVIL)
    sections = [Section(EVIL, EVIL, clips, [table]), Section("2", clips=clips), Section("3")]
    return render_page(Page(EVIL, EVIL, EVIL, sections, {EVIL: EVIL}))


def test_every_text_is_escaped(html):
    elements = Elements(html)
    assert len(elements.all("script")) == 1
    assert EVIL not in html
    assert elements.text.count(EVIL) == 18  # 7 at the top, 2 per section, 3 per clip, 3 per table
    assert elements.all("img")[0]["alt"] == f"Mel spectrogram of {EVIL}, 0.2 s"


def test_every_clip_has_a_player_and_a_picture(html):
    elements = Elements(html)
    assert len(elements.all("audio")) == len(elements.all("img")) == 4
    assert all(
        attrs["src"].startswith("data:audio/flac;base64,") for attrs in elements.all("audio")
    )
    assert all(attrs["src"].startswith("data:image/png;base64,") for attrs in elements.all("img"))
    assert all(attrs["alt"] for attrs in elements.all("img"))


def test_nothing_is_loaded_from_outside(html):
    assert not re.search(r"https?://|@import", html)
    assert "default-src 'none'" in html
    links = [
        attrs[key] for _, attrs in Elements(html).found for key in ("src", "href") if key in attrs
    ]
    assert links and all(link.startswith(("data:", "#")) for link in links)


def test_the_policy_allows_the_one_script(html):
    """A browser hashes the characters between the tags; a wrong hash would leave the page dead."""
    script = html.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "mge-mixer" in script
    assert f"script-src 'sha256-{digest}'" in html


def test_the_page_says_its_language_and_its_sections(html):
    elements = Elements(html)
    assert elements.all("html") == [{"lang": "en"}]
    targets = {f"#{attrs['id']}" for attrs in elements.all("section")}
    assert targets == {attrs["href"] for attrs in elements.all("a")}


def test_embedded_audio_is_the_clip_within_16_bit_rounding():
    audio = np.concatenate([noise(2), [[1.0, -1.0], [0.0, 0.5]]], axis=1, dtype=np.float32)
    (decoded,) = embedded_audio(render_page(page_of(Clip("x", "", audio, SAMPLE_RATE))))
    assert decoded.shape == audio.shape
    np.testing.assert_allclose(decoded, audio, atol=1 / 32768, rtol=0)


def test_a_clip_over_full_scale_is_turned_down_in_the_player_only():
    audio = np.array([[2.0, -1.0, 0.5]], np.float32)
    html = render_page(page_of(Clip("hot", "", audio, SAMPLE_RATE)))
    (decoded,) = embedded_audio(html)
    np.testing.assert_allclose(decoded, [1.0, -0.5, 0.25], atol=1 / 32768)
    assert "6.02 dB quieter" in html
    assert "peak +6.0 dBFS" in html


def test_a_quiet_clip_stays_quiet():
    audio = np.full((1, 100), 0.01, np.float32)
    html = render_page(page_of(Clip("quiet", "", audio, SAMPLE_RATE)))
    np.testing.assert_allclose(embedded_audio(html)[0], audio[0], atol=1 / 65536)
    assert "quieter" not in html


@pytest.mark.parametrize(
    ("audio", "words"),
    [(np.zeros((1, 4000)), "silent"), (np.full(1, 0.5), "62.5 µs"), (noise(2)[0], "mono")],
)
def test_silence_one_sample_and_no_channel_axis_are_shown(audio, words):
    html = render_page(page_of(Clip("x", "", audio.astype(np.float32), SAMPLE_RATE)))
    assert words in html
    assert embedded_audio(html)[0].size == audio.size


@pytest.mark.parametrize(
    ("audio", "sample_rate", "message"),
    [
        (
            np.array([[0, np.nan, np.nan]]),
            16000,
            "clip 'x': 2 of 3 values",
        ),
        (
            np.array([[0, np.inf]]),
            16000,
            "clip 'x': 1 of 2 values",
        ),
        (np.zeros((1, 0)), 16000, r"clip 'x': shape is \(1, 0\)"),
        (np.zeros((1, 1, 9)), 16000, r"clip 'x': shape is \(1, 1, 9\)"),
        (np.zeros((16000, 2)), 16000, r"16000 channels.*is the audio \(samples, channels\)"),
        (np.zeros((1, 9), np.int16), 16000, "dtype is int16, expected floats"),
        (np.zeros((1, 9)), 0, "clip 'x': sample rate is 0"),
        (np.zeros((1, 9)), 16000.5, "clip 'x': sample rate is 16000.5"),
    ],
)
def test_broken_audio_is_named(audio, sample_rate, message):
    with pytest.raises(ValueError, match=message):
        render_page(page_of(Clip("x", "", audio, sample_rate)))


def test_numbers_of_a_table_are_aligned():
    table = Table(["song", "dB"], [["a", "−3.1 ± 0.2"], ["12b", "5"]])
    cells = Elements(render_page(page_of(tables=[table]))).all("td")
    assert cells == [{}, {"class": "number"}] * 2


def test_a_ragged_table_raises():
    with pytest.raises(ValueError, match=r"table 'scores': row \['a'\] has 1 cells, expected 2"):
        Table(["song", "dB"], [["a"]], "scores")


def test_a_page_is_written_and_replaced(tmp_path):
    path = tmp_path / "new" / "demo.html"
    assert write_page(Page("first"), str(path)) == path
    assert write_page(Page("second \ud800 é"), path) == path
    assert "<title>second &#55296; é</title>" in path.read_text("utf-8")
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_page(tmp_path):
    path = write_page(Page("old"), tmp_path / "demo.html")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="clip 'x'"):
        write_page(page_of(Clip("x", "", np.full((1, 9), np.nan), SAMPLE_RATE)), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
