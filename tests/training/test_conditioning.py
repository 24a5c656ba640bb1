"""What the tracks of a training batch are asked by."""

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from mge_plugin.models.conditioning import TrackConditioner
from mge_plugin.standins.hashed_words import HashedWords
from mge_plugin.tracks import Track
from mge_plugin.training.conditioning import ConditioningModes, drawn_as_kept, training_embeddings
from mge_plugin.training.randomness import ItemRandomness

WIDTH = 8


class Ear(HashedWords):
    """Hears an example's mean in every direction."""

    def embed_audio(self, examples):
        return torch.stack([torch.full((self.width,), a.mean().item()) for a, _ in examples])


def model(embedder):
    conditioners = {"prompt": TrackConditioner(embedder, WIDTH)}
    return SimpleNamespace(
        conditioner=SimpleNamespace(conditioners=conditioners),
        global_cond_ids=["prompt"],
        sample_rate=16,
    )


def batch():
    """Two items; every track's audio is a constant of its own."""
    audio = torch.arange(1.0, 7.0).reshape(2, 3, 1, 1).expand(2, 3, 1, 16)
    metadata = [
        {"prompt": {"mixture": "a song", "source": "the sound of the bass"}},
        {"prompt": {"source": "the sound of the piano"}},
    ]
    return audio, metadata


def embed(audio, metadata, embedder=None, seed=0, **modes):
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(metadata))]
    return training_embeddings(
        model(embedder or Ear(WIDTH)),
        audio,
        metadata,
        ConditioningModes(**modes),
        generators,
        torch.device("cpu"),
    )


def test_the_papers_conditioning_is_sound_and_for_the_source_a_mix():
    embeddings = embed(*batch())
    assert_close(embeddings[:, Track.MIXTURE], torch.tensor([[1.0], [4.0]]).expand(2, WIDTH))
    assert_close(embeddings[:, Track.SUBMIXTURE], torch.tensor([[2.0], [5.0]]).expand(2, WIDTH))
    texts = HashedWords(WIDTH).embed_text(["bass", "piano"])
    weights = [torch.rand((), generator=torch.Generator().manual_seed(i)).item() for i in (0, 1)]
    for i, weight in enumerate(weights):
        mixed = weight * texts[i] + (1 - weight) * (3.0 + 3 * i)
        assert_close(embeddings[i, Track.SOURCE], mixed)


def test_the_share_of_the_text_is_uniform_by_item():
    audio, metadata = torch.zeros(400, 3, 1, 4), [{"prompt": {"source": "bass"}}] * 400
    lengths = embed(audio, metadata)[:, Track.SOURCE].norm(dim=1)  # the text's share of length 1
    assert lengths.min() < 0.05
    assert lengths.max() > 0.95
    assert_close(lengths.mean(), torch.tensor(0.5), atol=0.05, rtol=0)


@pytest.mark.parametrize("mode", ["text", "audio", "none"])
def test_a_track_can_be_asked_otherwise(mode):
    bass = HashedWords(WIDTH).embed_text(["bass"])[0]
    expected = {"text": bass, "audio": torch.full((WIDTH,), 3.0), "none": torch.zeros(WIDTH)}
    embeddings = embed(*batch(), source=mode)
    assert_close(embeddings[0, Track.SOURCE], expected[mode])


def test_without_an_ear_the_labels_are_asked():
    audio, metadata = batch()
    embeddings = embed(audio, metadata, HashedWords(WIDTH))
    song, bass = HashedWords(WIDTH).embed_text(["a song", "bass"])
    assert_close(embeddings[0], torch.stack([song, torch.zeros(WIDTH), bass]))


def test_embeddings_made_ahead_stand_for_the_sound():
    _, metadata = batch()
    ahead = {track.label: torch.full((WIDTH,), float(track)) for track in Track}
    metadata = [item | {"audio_embedding": ahead} for item in metadata]
    embeddings = embed(None, metadata, source="audio")
    expected = torch.arange(3.0)[None, :, None].expand(2, 3, WIDTH)
    assert_close(embeddings, expected)


def test_latents_without_embeddings_do_not_pass_for_silence():
    _, metadata = batch()
    with pytest.raises(ValueError, match=r"conditioning.mixture is 'audio', but the latents come"):
        embed(None, metadata)
    with pytest.raises(ValueError, match=r"conditioning.source is 'mix', but the latents come"):
        embed(None, metadata, mixture="text", submixture="none")
    texts = {"mixture": "text", "submixture": "text", "source": "text"}
    assert_close(embed(None, metadata, **texts), embed(None, metadata, HashedWords(WIDTH)))


def test_items_do_not_depend_on_the_batch_they_are_in():
    audio, metadata = batch()
    alone = torch.cat([embed(audio[i : i + 1], metadata[i : i + 1], seed=i) for i in (0, 1)])
    assert_close(embed(audio, metadata), alone)


def test_dropout_zeros_tracks_by_themselves_at_the_right_rate():
    kept = drawn_as_kept(0.1, ItemRandomness(0, range(20_000)))
    assert set(kept.unique().tolist()) == {0, 1}
    dropped = 1 - kept
    assert_close(dropped.mean(dim=0), torch.full((3,), 0.1), rtol=0, atol=0.01)
    assert torch.corrcoef(dropped.T).fill_diagonal_(0).abs().max() < 0.03


@pytest.mark.parametrize(("probability", "factor"), [(0.0, 1), (1.0, 0)])
def test_dropout_0_keeps_all_and_1_none(probability, factor):
    kept = drawn_as_kept(probability, ItemRandomness(0, range(100)))
    assert_close(kept, torch.full_like(kept, factor))
