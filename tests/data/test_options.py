"""Options of triplets through the loader: absent sources, groups, augmentation, tracks."""

import numpy as np
import pytest
import torch

from mge_plugin.config import ConfigError, parse_section
from mge_plugin.data.triplets import AugmentConfig
from mge_plugin.tracks import Track

SAMPLES = 1000


def items(corpus, epoch_items=64, **keys):
    """(reals (3, samples), metadata) of many items."""
    loader = corpus.loader(epoch_items=epoch_items, **keys)
    return [(r, m) for reals, metadata in loader for r, m in zip(reals, metadata, strict=True)]


def exact(reals):
    mixture, submixture, source = reals.unflatten(0, (3, -1))
    return torch.equal(mixture, submixture + source)


@pytest.fixture
def with_harp(corpus, slakh, noise):
    """Four songs of bass, piano and drums, and one of a harp and a piano that ends early."""
    slakh.song("Track_harp", [slakh.stem(noise(4 * SAMPLES, 9), 46), slakh.stem(noise(99, 8), 0)])
    return corpus


@pytest.fixture
def second(tmp_path, slakh, noise):
    """The entry of another corpus: songs of an organ and a guitar."""
    other = type(slakh)(tmp_path / "second")
    for number in range(3):
        stems = [slakh.stem(noise(4 * SAMPLES, 50 + number + i), p) for i, p in ((0, 16), (1, 24))]
        other.song(f"Second{number}", stems)
    return {"id": "second", "path": str(other.root)}


def asked(item):
    return item["prompt"]["source"].removeprefix("The sound of the ")


def test_an_absent_source_is_silence_and_asks_for_what_does_not_sound(with_harp):
    drawn = items(with_harp, source={"p_absent": 1.0})
    for reals, item in drawn:
        assert not reals[2].any() and reals[0].any() and torch.equal(reals[0], reals[1])
        assert item["absent"] and item["source"] is None and item["labels"]["source"] == []
        assert item["labels"]["submixture"] == item["labels"]["mixture"]
        assert asked(item) not in item["labels"]["mixture"]
        assert item["loss_mask"] == [1, 1, 1]
    assert {asked(item) for _, item in drawn} == {"bass", "drums", "harp", "piano"}
    late = [i for _, i in drawn if i["path"].endswith("harp") and i["seconds_start"] * 16_000 > 99]
    assert "piano" in {asked(item) for item in late}  # in the song, but not in the window


def test_a_share_of_items_has_an_absent_source(with_harp):
    drawn = items(with_harp, 400, source={"p_absent": 0.25})
    absent = sum(item["source"] is None for _, item in drawn)
    assert absent / 400 == pytest.approx(0.25, abs=0.07)


def test_where_everything_sounds_nothing_is_absent_and_a_source_is_asked_as_ever(corpus):
    for reals, item in items(corpus, source={"p_absent": 1.0}):
        assert reals[2].any() and [asked(item)] == item["labels"]["source"]
        assert not item["absent"]


def test_what_only_other_corpora_name_is_not_asked_as_absent(with_harp, second):
    """In their songs it may be within a stem that is called something else."""
    datasets = [*with_harp.config()["datasets"], second]
    drawn = items(with_harp, source={"p_absent": 1.0}, datasets=datasets)
    absent = {asked(item) for _, item in drawn if item["source"] is None}
    assert absent == {"bass", "drums", "harp", "piano"}
    of_second = [reals for reals, item in drawn if "Second" in item["path"]]
    assert of_second and all(reals[2].any() for reals in of_second)


def test_other_songs_leave_whole_mixtures_alone_and_give_no_voice(corpus, second):
    datasets = [*corpus.config()["datasets"], second | {"mixture_only": True}]
    plain = items(corpus, datasets=datasets)
    mixed = items(corpus, datasets=datasets, augment={"p_other_songs": 1.0})
    assert any(item["mixture_only"] for _, item in plain)
    for (before, item), (after, changed) in zip(plain, mixed, strict=True):
        assert torch.equal(before, after) == item["mixture_only"]
        assert {"bass", "drums", "piano"}.issuperset(changed["labels"]["mixture"])


def test_with_other_songs_the_absent_label_stays_absent(with_harp):
    drawn = items(with_harp, source={"p_absent": 1.0}, augment={"p_other_songs": 1.0})
    assert all(asked(item) not in item["labels"]["mixture"] for _, item in drawn)
    elsewhere = [set(i["labels"]["mixture"]) for _, i in drawn if i["path"].endswith("harp")]
    assert any(labels & {"bass", "drums"} for labels in elsewhere)


def test_a_group_is_asked_by_its_name(corpus):
    groups = {"rhythm section": ["bass", "drums"]}
    grouped = [
        (reals, item)
        for reals, item in items(corpus, source={"groups": groups})
        if item["prompt"]["source"] == "The sound of the rhythm section"
    ]
    assert grouped
    for reals, item in grouped:
        assert item["labels"]["source"] == ["bass", "drums"]
        assert item["labels"]["submixture"] == ["piano"]
        assert exact(reals)


def test_a_group_with_a_label_that_nothing_has_is_told(corpus, caplog):
    corpus.loader(source={"groups": {"rhythm section": ["bass", "drum"]}})
    expected = "source.groups.rhythm section: unknown value 'drum', did you mean 'drums'?"
    assert caplog.messages == [expected]
    caplog.clear()
    corpus.loader(source={"groups": {"rhythm section": ["bass", "drums"]}})
    assert not caplog.messages


def test_several_stems_are_asked_together(corpus):
    prompts = {item["prompt"]["source"] for _, item in items(corpus, source={"max_stems": 2})}
    assert "The sound of the bass and drums" in prompts
    assert "The sound of the bass" in prompts


@pytest.mark.parametrize("channels", [1, 2])
def test_augmentation_keeps_the_sum_exact(corpus, channels):
    augment = {
        "gain_db": [-12, 6], "p_polarity": 0.5, "p_swap_channels": 0.5, "p_other_songs": 0.5,
    }  # fmt: skip
    plain = items(corpus, channels=channels)
    changed = items(corpus, channels=channels, augment=augment)
    assert all(exact(reals) for reals, _ in changed)
    differ = [not torch.equal(a, b) for (a, _), (b, _) in zip(plain, changed, strict=True)]
    assert np.mean(differ) > 0.9


def test_gain_and_polarity_change_each_stem_by_itself(corpus):
    plain = items(corpus)
    changed = items(corpus, augment={"gain_db": [-6, -6], "p_polarity": 0.5})
    signs = set()
    for (before, _), (after, _) in zip(plain, changed, strict=True):
        ratio = float(after[2] @ before[2] / (before[2] @ before[2]))
        assert abs(ratio) == pytest.approx(10 ** (-6 / 20), rel=1e-5)
        signs.add(ratio > 0)
    assert signs == {True, False}


def test_left_and_right_are_swapped_in_all_tracks_alike(slakh, noise):
    left = np.stack([noise(4000, 1), 0 * noise(4000)], axis=1)
    slakh.song(stems=[slakh.stem(left, 33), slakh.stem(left, 0)])
    sides = set()
    for reals, _ in items(slakh, 16, channels=2, augment={"p_swap_channels": 0.5}):
        heard = reals.unflatten(0, (3, 2)).abs().sum(dim=2) > 0
        assert (heard == heard[0]).all()
        sides.add(tuple(heard[0].tolist()))
    assert sides == {(True, False), (False, True)}


def test_stems_of_other_songs_are_not_of_the_instrument_that_is_asked(corpus):
    for reals, item in items(corpus, augment={"p_other_songs": 1.0}):
        (label,) = item["labels"]["source"]
        assert label not in item["labels"]["submixture"]
        assert exact(reals)


def test_the_prompt_is_one_of_the_templates(corpus):
    templates = ["{label}", "a recording of {label}"]
    prompts = {item["prompt"]["source"] for _, item in items(corpus, templates=templates)}
    assert {"bass", "a recording of bass"} <= prompts
    assert not any(prompt.startswith("The sound") for prompt in prompts)


def test_a_song_shorter_than_the_window_has_a_padding_mask(slakh, noise):
    slakh.song(stems=[slakh.stem(noise(600)), slakh.stem(noise(400, 1))])
    ((reals, item),) = items(slakh, 1, batch_size=1)
    (mask,) = item["padding_mask"]
    assert mask.tolist() == [True] * 600 + [False] * 400
    assert not reals[:, 600:].any()


def test_a_level_over_full_scale_is_told_once_a_song(slakh, noise, caplog):
    caplog.set_level("INFO")
    loud = slakh.stem(np.full(4000, 0.8, dtype=np.float32))
    slakh.song(stems=[loud, loud])
    drawn = items(slakh, 8)
    assert all(item["gain"] == pytest.approx(1 / 1.6) for _, item in drawn)
    assert sum("4.1 dB over full scale" in message for message in caplog.messages) == 1


@pytest.mark.parametrize(
    ("keys", "wrong"),
    [
        ({"augment": {"gain_db": [3, -3]}}, r"gain_db: expected \[lowest, highest\] between -60"),
        ({"augment": {"gain_db": [0, 61]}}, r"gain_db: .* and 60, found \[0\.0, 61\.0\]"),
        ({"augment": {"gain_db": [3]}}, r"gain_db: .*, found \[3\.0\]"),
        ({"augment": {"p_polarity": 2}}, "p_polarity: expected 0 to 1, found 2"),
        ({"templates": ["bass"]}, r"templates\[0\]: expected \{label\} once, found 'bass'"),
        ({"source": {"p_abent": 0.1}}, "did you mean 'p_absent'"),
        ({"cache_workers": 0}, "cache_workers: expected 1 or more, found 0"),
    ],
)
def test_options_that_cannot_be(corpus, keys, wrong):
    with pytest.raises(ConfigError, match=wrong):
        corpus.loader(**keys)


def test_nothing_is_changed_by_default():
    config = parse_section(AugmentConfig, {}, "augment")
    assert config.gain_db == (0.0, 0.0)
    assert not (config.p_polarity or config.p_swap_channels or config.p_other_songs)


def test_tracks_are_single_waveforms_of_the_same_songs(corpus):
    drawn = items(corpus, 90, dataset_type="mge_tracks")
    assert all(reals.shape == (1, SAMPLES) and reals.any() for reals, _ in drawn)
    counts = [sum(item["track"] == track.label for _, item in drawn) for track in Track]
    assert min(counts) > 15
    triplets = {reals[0].numpy().tobytes() for reals, _ in items(corpus, 90)}
    mixtures = [reals for reals, item in drawn if item["track"] == "mixture"]
    assert all(reals[0].numpy().tobytes() in triplets for reals in mixtures)


def test_tracks_have_weights_and_silent_ones_are_passed_over(slakh, noise):
    slakh.song(stems=[slakh.stem(np.zeros(4000), 33), slakh.stem(noise(4000), 0)])
    only = {"mixture": 0, "submixture": 1, "source": 1}
    drawn = items(slakh, 40, dataset_type="mge_tracks", tracks=only)
    assert all(reals.any() for reals, _ in drawn)
    assert {item["track"] for _, item in drawn} == {"submixture", "source"}


def test_track_weights_that_cannot_be(corpus):
    nothing = dict.fromkeys(("mixture", "submixture", "source"), 0)
    wrong = r"tracks: expected weights of 0 or more, not all 0, found \(0\.0, 0\.0, 0\.0\)"
    with pytest.raises(ConfigError, match=wrong):
        corpus.loader(dataset_type="mge_tracks", tracks=nothing)
