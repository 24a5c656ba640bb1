"""What the demos are made of and how one is made: held-out items, a task, the averaged network."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from mge_plugin.inference.denoise import denoise_tracks
from mge_plugin.inference.tasks import Task
from mge_plugin.models.given import Given
from mge_plugin.models.latents import decode_tracks
from mge_plugin.prompts import track_prompts
from mge_plugin.tracks import NUM_TRACKS
from mge_plugin.upstream import ema_model

SEED = 0  # of every demo's noise: two steps of a run differ by what was learned alone


@dataclass(frozen=True)
class DemoItems:
    """Items of the held-out set; the same all through a run."""

    latents: Tensor  # (b, k, c, n)
    audio: Tensor  # (b, k, channels, samples) on the CPU
    metadata: Sequence[Mapping[str, Any]]


def first_batch(loader: Iterable, count: int) -> tuple[Tensor, Sequence[Mapping[str, Any]]]:
    """The set's first items, read in this process.

    Without a validation set the loader is the one that training iterates at the same time: to ask
    it for a batch would take that from training, and with workers start its epoch again.
    """
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        count = min(count, len(loader.dataset))
        loader = DataLoader(loader.dataset, count, collate_fn=loader.collate_fn)
    return next(iter(loader))


def demo_items(module: Any, loader: Iterable, count: int) -> DemoItems:
    """Up to `count` items, as the training wrapper `module` encodes them."""
    reals, metadata = first_batch(loader, count)
    latents = module.encode(reals.to(module.device))[:count]
    if module.pre_encoded:
        audio = decode_tracks(module.diffusion.pretransform, latents)
    else:
        audio = rearrange(reals[:count], "b (k c) s -> b k c s", k=NUM_TRACKS)
    return DemoItems(latents, audio.cpu(), metadata[:count])


def sample_task(
    module: Any, task: Task, items: DemoItems, schedule: Tensor, cfg_scale: float
) -> Tensor:
    """The task's prompted track of each item, (b, channels, samples) on the CPU.

    Asked by text, as a user does, with the averaged weights.
    """
    model, network = module.diffusion, ema_model(module)
    given = None if task.given is None else Given.track(task.given, items.latents[:, task.given])
    conditioning = model.conditioner(_prompts(model, task, items), module.device)
    embeddings = model.embeddings(conditioning)
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(items.latents.shape, generator=generator, dtype=torch.float32)
    latents = denoise_tracks(
        network, noise.to(module.device), embeddings, given, schedule, cfg_scale
    )
    return decode_tracks(model.pretransform, latents[:, [task.prompted]])[:, 0].cpu()


def _prompts(model: Any, task: Task, items: DemoItems) -> list[dict[str, Any]]:
    """The text of the prompted track alone, by the conditioners' ids."""
    prompts = []
    for item in items.metadata:
        asked = {key: track_prompts(item.get(key)) for key in model.global_cond_ids}
        texts = {key: tracks.get(task.prompted) for key, tracks in asked.items()}
        prompts.append(
            {key: {task.prompted.label: text and text.text} for key, text in texts.items()}
        )
    return prompts


@contextmanager
def undisturbed(device: torch.device, *modules: nn.Module) -> Iterator[None]:
    """Evaluate `modules`, then put their modes and the random generators back as they were."""
    devices = [device] if device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(torch.no_grad())
        for module in modules:
            for part in module.modules():
                stack.callback(setattr, part, "training", part.training)
            module.eval()
        yield
