"""laion-clap's model from its checkpoint file, asking nothing of a network.

As it ships, `import laion_clap` fetches three tokenizers, and its text branch fetches RoBERTa's
weights only to overwrite them. Here both are answered locally: no tokenizer at import, a RoBERTa of
the sizes that the checkpoint has.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mge_plugin.models.checkpoints import CheckpointError, load_pickled, misfits

TEXT = "text_branch."
OBSOLETE = f"{TEXT}embeddings.position_ids"  # in checkpoints of transformers before 4.31
HEAD_WIDTH = 64  # of RoBERTa's attention
_hub = threading.Lock()  # transformers' classes are patched for a moment


def load_clap(ckpt_path: str, audio_model: str) -> nn.Module:
    """laion-clap's model, float32 on the CPU, in eval mode, every weight from the file.

    torch's random generator is left as it was: a run must not depend on when this happens.
    """
    weights = read_weights(Path(ckpt_path))
    factory = _import_factory()
    if audio_model not in factory.list_models():
        raise ValueError(
            f"audio_model: unknown {audio_model!r}, laion-clap has {factory.list_models()}"
        )
    with _hub_answered(weights), redirect_stdout(StringIO()), torch.random.fork_rng(devices=[]):
        model, _ = factory.create_model(audio_model, "roberta", device=torch.device("cpu"))
    problems = misfits(model.state_dict(), weights)
    if problems:
        raise CheckpointError(
            f"{ckpt_path}: not the weights of a CLAP with {audio_model}: {'; '.join(problems)}"
        )
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The checkpoint's tensors under laion-clap's own names, mapped until they are used."""
    with torch.serialization.safe_globals(_numpy_scalars()):  # beside the weights: scores
        content = load_pickled(path)
    state_dict = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    tensors = {key: value for key, value in state_dict.items() if isinstance(value, Tensor)}
    weights = {key.removeprefix("module."): value for key, value in tensors.items()}
    weights.pop(OBSOLETE, None)
    if f"{TEXT}embeddings.word_embeddings.weight" not in weights:
        raise CheckpointError(
            f"{path}: not a CLAP checkpoint with a RoBERTa text branch, found keys such as "
            f"{', '.join(sorted(weights)[:3]) or 'none'}"
        )
    return weights


def _numpy_scalars() -> list[Any]:
    """What numpy needs to rebuild a number: nothing of it runs code from the file."""
    kinds = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "bool")]
    try:
        from numpy._core.multiarray import scalar
    except ImportError:  # numpy before 2
        from numpy.core.multiarray import scalar
    return [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, *kinds]


def _import_factory() -> ModuleType:
    """laion-clap's `clap_module.factory`, a top-level module of its own making."""
    with _hub_answered():
        try:
            import laion_clap  # noqa: F401
        except ModuleNotFoundError as error:
            if error.name != "laion_clap":
                raise
            raise ModuleNotFoundError(
                "the conditioner mge_clap needs laion-clap: pip install laion-clap"
            ) from error
        from clap_module import factory
    return factory


@contextmanager
def _hub_answered(weights: Mapping[str, Tensor] | None = None) -> Iterator[None]:
    """Let transformers' `from_pretrained` give no tokenizer, and a RoBERTa sized as the weights."""
    import transformers

    def no_tokenizer(*_: Any, **__: Any) -> None:
        return None

    def roberta(*_: Any, **__: Any) -> nn.Module:
        if weights is None:
            raise RuntimeError("laion-clap asks for RoBERTa's weights at import")
        return transformers.RobertaModel(_roberta_config(weights))

    answers = {
        transformers.BertTokenizer: no_tokenizer,
        transformers.RobertaTokenizer: no_tokenizer,
        transformers.BartTokenizer: no_tokenizer,
        transformers.RobertaModel: roberta,
    }
    with _hub:
        own = {cls: cls.__dict__.get("from_pretrained") for cls in answers}
        for cls, answer in answers.items():
            cls.from_pretrained = staticmethod(answer)
        try:
            yield
        finally:
            for cls, original in own.items():
                if original is None:
                    del cls.from_pretrained
                else:
                    cls.from_pretrained = original


def _roberta_config(weights: Mapping[str, Tensor]) -> Any:
    """RoBERTa's sizes as the checkpoint has them; the rest is roberta-base's."""
    from transformers import RobertaConfig

    vocabulary, width = weights[f"{TEXT}embeddings.word_embeddings.weight"].shape
    layers = {key.split(".")[3] for key in weights if key.startswith(f"{TEXT}encoder.layer.")}
    return RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=width // HEAD_WIDTH,
        intermediate_size=len(weights[f"{TEXT}encoder.layer.0.intermediate.dense.bias"]),
        max_position_embeddings=len(weights[f"{TEXT}embeddings.position_embeddings.weight"]),
        type_vocab_size=len(weights[f"{TEXT}embeddings.token_type_embeddings.weight"]),
        layer_norm_eps=1e-5,
    )
