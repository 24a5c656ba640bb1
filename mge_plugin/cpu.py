"""Let SAT's scripts, which ask for a GPU by name, run on the CPU: for smoke tests and the demo."""

import functools
from types import ModuleType
from typing import Any

import wrapt


def keep_to_cpu(processes: int) -> None:
    """Make every Lightning Trainer, from now on, use `processes` CPU processes."""
    hook = functools.partial(_wrap_trainer, processes)
    wrapt.register_post_import_hook(hook, "pytorch_lightning.trainer.trainer")
    allow_cpu_autoencoder()


def allow_cpu_autoencoder() -> None:
    """Mend SAT 0.0.20's autoencoder training, which makes a logged figure on a GPU by name."""
    module = "stable_audio_tools.training.autoencoders"
    wrapt.register_post_import_hook(_wrap_update_ratio, module)


def _wrap_trainer(processes: int, module: ModuleType) -> None:
    def on_cpu(init: Any, trainer: Any, args: tuple, kwargs: dict) -> None:
        init(*args, **kwargs | {"accelerator": "cpu", "devices": processes})

    wrapt.wrap_function_wrapper(module, "Trainer.__init__", on_cpu)


def _wrap_update_ratio(module: ModuleType) -> None:
    if not hasattr(module, "calc_update_to_weight_ratio"):
        return  # 0.0.19 has no such figure
    wrapt.wrap_function_wrapper(module, "calc_update_to_weight_ratio", _update_ratio)


def _update_ratio(on_gpu: Any, instance: Any, args: tuple, kwargs: dict) -> float:
    """Size of an update, learning rate x gradient, in relation to the weights; L2 norms."""
    network, learning_rate = args[:2]
    parameters = [p for p in network.parameters() if p.requires_grad]
    if any(p.is_cuda for p in parameters):
        return on_gpu(*args, **kwargs)
    gradients = sum(p.grad.square().sum().item() for p in parameters if p.grad is not None)
    weights = sum(p.detach().square().sum().item() for p in parameters)
    return learning_rate * gradients**0.5 / max(weights**0.5, 1e-12)
