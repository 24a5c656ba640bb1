"""The published implementation's tiny network with its weights."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from mge_plugin.models.dit import DiTConfig
from mge_plugin.models.mge import MGEDiffusion

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(params=("groupnorm", "layernorm"))
def golden(request):
    tensors = load_file(GOLDEN / f"official_dit_{request.param}_tiny.safetensors")
    return tensors | {"norm": request.param}


@pytest.fixture
def make_network(golden):
    """Builds it anew; options go to its config."""

    def make(**options):
        config = DiTConfig(
            io_channels=24,
            embed_dim=96,
            depth=2,
            num_heads=3,
            global_cond_dim=16,
            norm_type=golden["norm"],
            **options,
        )
        network = MGEDiffusion(config).eval().requires_grad_(False)
        weights = {
            key.removeprefix("model_dit.").replace("to_scale_shift_gate", "to_modulations"): value
            for key, value in golden.items()
            if key.startswith("model_dit.")
        }
        network.model.load_state_dict(weights, strict=True)
        return network

    return make


@pytest.fixture
def network(make_network):
    return make_network()
