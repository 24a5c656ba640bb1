"""Our CLAP is laion-clap's, offline, one a process, and disturbs nothing around it."""

import copy
import multiprocessing
import threading

import pytest
import torch
import transformers
from torch.testing import assert_close

from mge_plugin.models import clap as model
from mge_plugin.models.clap import ClapEmbedder, _TextCache
from mge_plugin.models.conditioning import TrackConditioner
from mge_plugin.tracks import Track

TEXTS = ["The sound of the bass guitar", "violin", "drums and a woman singing", ""]
CLOSE = {"atol": 1e-5, "rtol": 0.0}


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("position_ids", [True, False])
def test_texts_are_embedded_as_laion_clap_does(
    reference, save_clap, embedder, prefix, position_ids
):
    ours = embedder(save_clap(prefix, position_ids)).embed_text(TEXTS)
    assert_close(ours, torch.from_numpy(reference.get_text_embedding(TEXTS)), **CLOSE)
    assert_close(ours.norm(dim=1), torch.ones(len(TEXTS)))


def test_one_text_alone_is_embedded_as_among_others(published, embedder):
    among = embedder(published).embed_text(TEXTS)
    alone = [embedder(published).embed_text([text])[0] for text in TEXTS[:2]]
    assert_close(torch.stack(alone), among[:2], **CLOSE)


def test_one_instance_is_shared_and_a_text_embedded_once(published, embedder, monkeypatch):
    loads, calls = [], []
    load, texts = model._load_clap, model._Clap._texts
    monkeypatch.setattr(model, "_load_clap", lambda *a: loads.append(a) or load(*a))
    monkeypatch.setattr(model._Clap, "_texts", lambda s, t: calls.append(list(t)) or texts(s, t))
    first = embedder(published)
    second = ClapEmbedder(first.config)
    assert loads == []  # nothing before it is needed
    first.embed_text(["bass", "drums", "bass"])
    first.embed_text(["drums"])
    second.embed_text(["violin", "bass"])
    assert len(loads) == 1
    assert calls[1:] == [["bass", "drums"], ["violin"]]  # the first call is the self-check's


def test_texts_are_kept_on_disk_by_checkpoint(published, embedder, tmp_path, monkeypatch):
    kept = embedder(published, cache_dir=str(tmp_path)).embed_text(TEXTS)
    again = embedder(published, cache_dir=str(tmp_path))
    monkeypatch.setattr(type(again), "_clap", lambda _: pytest.fail("was loaded"))
    assert torch.equal(again.embed_text(TEXTS), kept)
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.iterdir())) == len(TEXTS)


def test_another_checkpoint_does_not_read_its_neighbours_texts(
    published, save_clap, embedder, tmp_path
):
    def louder(weights):
        weights["module.text_projection.0.weight"] = -weights["module.text_projection.0.weight"]

    first = embedder(published, cache_dir=str(tmp_path)).embed_text(["bass"])
    second = embedder(save_clap(change=louder), cache_dir=str(tmp_path)).embed_text(["bass"])
    assert not torch.equal(first, second)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_file_of_the_cache_is_made_anew(published, embedder, tmp_path):
    kept = embedder(published, cache_dir=str(tmp_path)).embed_text(["bass"])
    (file,) = tmp_path.glob("*/*.safetensors")
    file.write_bytes(b"half")
    assert torch.equal(embedder(published, cache_dir=str(tmp_path)).embed_text(["bass"]), kept)


def test_clap_is_in_no_checkpoint_and_not_halved(published, embedder):
    conditioner = TrackConditioner(embedder(published), 512)
    before, _ = conditioner([{"source": "bass"}], "cpu")
    conditioner.half()
    after, _ = conditioner([{"source": "bass"}, {"source": "violin"}], "cpu")
    assert not conditioner.state_dict()
    assert not list(conditioner.parameters())
    assert after.dtype == torch.float32
    assert_close(after[0, Track.SOURCE], before[0, Track.SOURCE])


def test_embeddings_do_not_depend_on_autocast(published, embedder, songs):
    ours = embedder(published)
    plain = ours.embed_audio([(songs.short, 48_000)])
    text = ours.embed_text(["bass"])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(embedder(published).embed_audio([(songs.short, 48_000)]), plain)
        assert torch.equal(embedder(published).embed_text(["bass"]), text)


def test_transformers_is_as_it_was(published, embedder):
    classes = (transformers.RobertaTokenizer, transformers.RobertaModel, transformers.BertTokenizer)
    before = [cls.from_pretrained for cls in classes]
    embedder(published).embed_text(["bass"])
    assert [cls.from_pretrained for cls in classes] == before


def test_threads_share_one_instance(published, embedder, monkeypatch):
    loads, load = [], model._load_clap
    monkeypatch.setattr(model, "_load_clap", lambda *a: loads.append(a) or load(*a))
    ours = embedder(published)
    threads = [threading.Thread(target=ours.embed_text, args=[[text]]) for text in TEXTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1


def test_the_first_use_may_be_in_inference_mode(published, embedder, songs):
    """Lightning's check before training is; what is made there must do for training."""
    ours = embedder(published)
    with torch.inference_mode():
        heard = ours.embed_audio([(songs.short, 48_000)])
        read = ours.embed_text(["bass"])
    ours._clap().model.to(torch.float64)  # changes weights as moving them to a GPU does
    weights = torch.ones(512, requires_grad=True)
    (ours.embed_text(["bass"]) * weights).sum().backward()
    assert_close(weights.grad, read[0])
    assert heard.isfinite().all()


def test_loading_draws_nothing_from_a_runs_randomness(published, embedder):
    before = torch.get_rng_state()
    embedder(published).embed_text(["bass"])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_copied_model_shares_the_instance(published, embedder):
    conditioner = TrackConditioner(embedder(published), 512)
    conditioner([{"source": "bass"}], "cpu")
    copied = copy.deepcopy(conditioner)
    assert copied.embedder._clap() is conditioner.embedder._clap()


def _add(folder, numbers):
    for _ in range(20):
        texts = [f"text {n}" for n in numbers]
        _TextCache(folder).add(texts, torch.tensor(numbers, dtype=torch.float)[:, None])


def test_two_processes_may_fill_a_cache_at_once(tmp_path):
    fork = multiprocessing.get_context("fork")
    others = [fork.Process(target=_add, args=(tmp_path, list(range(i, i + 8)))) for i in (0, 4)]
    for process in others:
        process.start()
    while any(process.is_alive() for process in others):
        _expect(tmp_path)
    assert [process.exitcode for process in others] == [0, 0]
    assert _expect(tmp_path) == 12
    assert len(list(tmp_path.iterdir())) == 12


def _expect(folder):
    """What is there is right, whenever one looks."""
    cache = _TextCache(folder)
    present = [number for number in range(12) if f"text {number}" in cache]
    assert [cache[f"text {number}"].item() for number in present] == present
    return len(present)
