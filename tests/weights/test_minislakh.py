"""The weights that ship, on a song that they never saw: above both floors, silent if absent."""

import numpy as np
import pytest
import torch

from mge_plugin.data.audio import read_audio, resample, rms_db
from mge_plugin.demo import INSTRUMENTS, OTHER_SONGS, fullest_song
from mge_plugin.evaluation.metrics import log_mel_l1
from mge_plugin.files import shipped_file
from mge_plugin.inference.pipeline import load
from mge_plugin.inference.request import Request, Sampling
from mge_plugin.prompts import label_prompt
from minislakh import write_corpus

RATE = 16000
RAW = Sampling(20, 1.0, sampler="dpm-solver++", refine="none", gate=False)
ABSENT = ("organ", "choir", "brass")


@pytest.fixture(scope="module")
def pipeline():
    files = [
        shipped_file(f"weights/minislakh/model.{ending}") for ending in ("json", "safetensors")
    ]
    return load(*files, "cpu")


@pytest.fixture(scope="module")
def stems(tmp_path_factory):
    """Ten seconds of each instrument, (1, samples) at 16 kHz, by label."""
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"), 5, 15.0, OTHER_SONGS)
    stems = {}
    for stem in fullest_song(corpus).stems:
        audio, rate = read_audio(stem.path)
        audio = resample(audio.mean(axis=0, keepdims=True), rate, RATE)
        stems[stem.label] = stems.get(stem.label, 0) + audio[:, : 10 * RATE]
    return stems


@pytest.fixture(scope="module")
def mixture(stems):
    return sum(stems.values()).astype(np.float32)


@pytest.fixture(scope="module")
def extracted(pipeline, stems, mixture):
    """What the model makes of prompts for what is there and what is not, by label."""
    labels = [*(i for i in INSTRUMENTS if i in stems), *(a for a in ABSENT if a not in stems)]
    requests = [Request("extract", (label_prompt(label),), mixture, RATE) for label in labels]
    results = pipeline.run(requests, RAW)
    return {label: r.audio["source"] for label, r in zip(labels, results, strict=True)}


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


def test_what_is_not_there_is_much_quieter(extracted, stems):
    present = [rms_db(audio) for label, audio in extracted.items() if label in stems]
    absent = [rms_db(audio) for label, audio in extracted.items() if label not in stems]
    assert np.mean(absent) < np.mean(present) - 10


def test_the_autoencoder_gives_back_what_is_heard(pipeline, mixture):
    again = pipeline.engine.decode(pipeline.engine.encode(mixture), mixture.shape[1])
    assert log_mel_l1(again, mixture, RATE) < 0.6


def test_a_sound_is_nearest_to_its_own_name(pipeline, stems):
    (conditioner,) = pipeline.model.conditioner.conditioners.values()
    named = [label for label in INSTRUMENTS if label in stems]
    texts = conditioner.embedder.embed_text([label_prompt(label) for label in named])
    sounds = conditioner.embedder.embed_audio(
        [(torch.from_numpy(stems[label].astype(np.float32)), RATE) for label in named]
    )
    assert (sounds @ texts.T).argmax(dim=1).tolist() == list(range(len(named)))
