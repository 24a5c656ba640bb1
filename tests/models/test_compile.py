"""torch.compile, asked for as SAT does it: ENABLE_TORCH_COMPILE=1 compiles the blocks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from tests.processes import run, run_script

SCRIPT = Path(__file__).parent / "compiled_blocks.py"


@pytest.mark.slow
def test_compiled_blocks_give_the_same_numbers(tmp_path):
    """Output and gradients in another process, as SAT reads the variable when it is imported."""
    assert run(run_script, SCRIPT, str(tmp_path / "0.pt")) == 0
    environment = os.environ | {
        "ENABLE_TORCH_COMPILE": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, str(SCRIPT), str(tmp_path / "1.pt")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    files = tmp_path / "0.pt", tmp_path / "1.pt"
    eager, compiled = (torch.load(file, weights_only=True) for file in files)
    assert eager.pop("frames") == 0
    assert compiled.pop("frames") > 0
    assert compiled.pop("graph_breaks") == 0 == eager.pop("graph_breaks")
    assert_close(compiled, eager, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("golden", ["groupnorm"], indirect=True)
def test_a_compiled_network_takes_other_lengths(make_network, golden):
    """The whole network under `torch.compile`, with and without guidance, traced but not built."""
    torch._dynamo.reset()
    network = make_network()
    compiled = torch.compile(network, backend="eager", fullgraph=False)
    for frames in (20, 12):
        x = golden["io.x"][..., :frames]
        for cfg_scale in (1.0, 2.0):
            arguments = x, golden["io.t_per_track"], golden["io.global_embed"]
            expected = network(*arguments, cfg_scale=cfg_scale)
            found = compiled(*arguments, cfg_scale=cfg_scale)
            assert_close(found, expected, atol=1e-4, rtol=0)
    torch._dynamo.reset()
