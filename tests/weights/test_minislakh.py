"""The shipped weights on a song they were not trained on: above both floors, silent if absent."""

import numpy as np
import pytest
import torch

from mge_plugin.data.audio import read_audio, resample, rms_db, to_channels
from mge_plugin.demo import _OTHER_SONGS, INSTRUMENTS, _fullest_song
from mge_plugin.evaluation.metrics import log_mel_l1
from mge_plugin.files import shipped_file
from mge_plugin.inference.pipeline import load
from mge_plugin.inference.request import Finish
from mge_plugin.prompts import label_prompt
from minislakh import write_corpus

RATE = 16000
RAW = Finish("none", gate=False)
ABSENT = ("organ", "choir", "brass")


@pytest.fixture(scope="module")
def pipeline():
    files = [
        shipped_file(f"weights/minislakh/model.{ending}") for ending in ("json", "safetensors")
    ]
    return load(*files, device="cpu")


@pytest.fixture(scope="module")
def stems(tmp_path_factory):
    """Ten seconds of each instrument, (1, samples) at 16 kHz, by label."""
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"), 5, 15.0, _OTHER_SONGS)
    stems = {}
    for stem in _fullest_song(corpus).stems:
        audio, rate = read_audio(stem.path)
        audio = resample(to_channels(audio, 1), rate, RATE)
        stems[stem.label] = stems.get(stem.label, 0) + audio[:, : 10 * RATE]
    return stems


@pytest.fixture(scope="module")
def mixture(stems):
    return sum(stems.values()).astype(np.float32)


@pytest.fixture(scope="module")
def extracted(pipeline, stems, mixture):
    """Sources for prompts of present and of absent instruments, by label."""
    labels = [*(i for i in INSTRUMENTS if i in stems), *(a for a in ABSENT if a not in stems)]
    prompts = [label_prompt(label) for label in labels]
    result = pipeline.extract((mixture, RATE), prompts, finish=RAW)
    return dict(zip(labels, result.audio.values(), strict=False))  # the residual is left out


def test_extracted_sources_are_nearer_than_the_mixture_and_than_silence(extracted, stems, mixture):
    present = [label for label in extracted if label in stems]
    assert len(present) >= 3

    def mean(estimates):
        truths = [stems[label].astype(np.float32) for label in present]
        pairs = zip(estimates, truths, strict=True)
        return np.mean([log_mel_l1(estimate, truth, RATE) for estimate, truth in pairs])

    model = mean([extracted[label] for label in present])
    assert model < 0.8 * mean([mixture] * len(present))
    assert model < 0.8 * mean([0 * mixture] * len(present))


def test_an_absent_instrument_is_much_quieter(extracted, stems):
    present = [rms_db(audio) for label, audio in extracted.items() if label in stems]
    absent = [rms_db(audio) for label, audio in extracted.items() if label not in stems]
    assert np.mean(absent) < np.mean(present) - 10


def test_the_autoencoder_reconstructs_a_mixture(pipeline, mixture):
    again = pipeline.decode(pipeline.encode(mixture), mixture.shape[1])
    assert log_mel_l1(again, mixture, RATE) < 0.6


def test_a_sound_is_nearest_to_its_own_name(pipeline, stems):
    (conditioner,) = pipeline.model.conditioner.conditioners.values()
    named = [label for label in INSTRUMENTS if label in stems]
    texts = conditioner.embedder.embed_text([label_prompt(label) for label in named])
    sounds = conditioner.embedder.embed_audio(
        [(torch.from_numpy(stems[label].astype(np.float32)), RATE) for label in named]
    )
    assert (sounds @ texts.T).argmax(dim=1).tolist() == list(range(len(named)))
