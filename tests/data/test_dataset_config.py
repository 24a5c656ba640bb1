"""The dataset config: every key that cannot be used is named, and labels choose stems."""

import pytest

from mge_plugin.config import ConfigError, parse_section
from mge_plugin.data.corpora.index import index_corpora
from mge_plugin.data.dataset import TripletsConfig, create_mge_dataloader

RATE = 16_000
SAMPLES = 1000
SONGS = 4


def test_an_epoch_smaller_than_a_batch_is_an_error_unless_batches_may_be_small(corpus):
    with pytest.raises(ConfigError, match="16 items per epoch are fewer than one batch of 17"):
        corpus.loader(batch_size=17)
    assert len(list(corpus.loader(batch_size=17, drop_last=False))) == 1
    assert len(list(corpus.loader(batch_size=17, epoch_items=34))) == 2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sed": 1}, "dataset config: unknown key 'sed', did you mean 'seed'?"),
        ({"seed": -1}, "dataset config: seed: expected 0 to 4294967295, found -1"),
        ({"seed": 2**32}, "dataset config: seed: expected 0 to 4294967295, found 4294967296"),
        ({"epoch_items": 0}, "dataset config: epoch_items: expected 1 or more, found 0"),
        ({"datasets": []}, "dataset config: datasets: expected one corpus or more, found none"),
        ({"datasets": [{"id": "a"}]}, "dataset config.datasets[0]: missing key 'path'"),
        (
            {"datasets": [{"id": "a", "path": "p", "type": "slahk"}]},
            "dataset config.datasets[0].type: unknown value 'slahk', did you mean 'slakh'?",
        ),
        (
            {"datasets": [{"id": "a", "path": "p", "lables": ["bass"]}]},
            "dataset config.datasets[0]: unknown key 'lables', did you mean 'labels'?",
        ),
        (
            {"dataset_type": "mge_triplet"},
            "dataset config.dataset_type: unknown value 'mge_triplet', "
            "did you mean 'mge_triplets'?",
        ),
    ],
)
def test_a_config_that_cannot_be_used_names_the_key_and_the_remedy(slakh, keys, message):
    config = slakh.config() | keys
    with pytest.raises(ConfigError) as caught:
        create_mge_dataloader(config, 1, SAMPLES, RATE)
    assert str(caught.value) == message


def test_what_newer_versions_ask_is_taken_if_it_changes_nothing(corpus):
    arguments = corpus.arguments()
    loader = create_mge_dataloader(**arguments, tokenizers=None, pad=True)
    assert len(loader) == 4
    with pytest.raises(ConfigError, match=r"mge_triplets does not support \['pad'\]"):
        create_mge_dataloader(**arguments, tokenizers=None, pad=False)


def _index(slakh, **options):
    config = parse_section(TripletsConfig, slakh.config(**options), "dataset config")
    return [song for corpus in index_corpora(config.datasets) for song in corpus.songs]


def test_labels_keep_the_stems_so_labelled_of_songs_that_have_two(corpus, slakh, noise, caplog):
    slakh.song("Track_other", [slakh.stem(noise(SAMPLES), program) for program in (33, 73)])
    songs = _index(slakh, labels=["bass", "drums"])
    assert [song.id for song in songs] == [f"Track{number:05}" for number in range(SONGS)]
    assert {stem.label for song in songs for stem in song.stems} == {"bass", "drums"}
    (record,) = caplog.records
    reason = "song with fewer than 2 stems of the configured labels"
    assert f"corpus: left out 1: {reason}" in record.message
    assert "Track_other" in record.message


def test_a_label_that_no_stem_has_is_told_with_the_nearest(corpus, caplog):
    songs = _index(corpus, labels=["bass", "drumms", "piano"])
    assert {stem.label for song in songs for stem in song.stems} == {"bass", "piano"}
    assert "no stem is labelled 'drumms', did you mean 'drums'?" in caplog.text


def test_labels_that_leave_no_song_are_an_error_that_says_why(corpus):
    expected = r"'corpus' has no song left by its labels: .*'flute', found: bass, drums, piano"
    with pytest.raises(ConfigError, match=expected):
        _index(corpus, labels=["bass", "flute"])


def test_several_corpora_are_read_one_after_another(corpus, tmp_path, noise):
    other = type(corpus)(tmp_path / "other")
    other.song("Track_other", [other.stem(noise(SAMPLES))] * 2, "test")
    entries = corpus.config()["datasets"]
    entries.append({"id": "other", "path": str(other.root), "split": "test"})
    songs = _index(corpus, datasets=entries)
    assert len(songs) == SONGS + 1 and songs[-1].id == "Track_other"
