"""Two ranks train as one with twice the batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch.testing import assert_close

SCRIPT = """
import json, sys
from pathlib import Path
import pytorch_lightning as pl
import torch
from mge_plugin import registry

registry.install()
from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config

folder, ranks = Path(sys.argv[1]), int(sys.argv[2])
model_config, dataset_config = json.loads((folder / "configs.json").read_text())
torch.manual_seed(0)
loader = create_dataloader_from_config(
    dataset_config, batch_size=8 // ranks, num_workers=0, sample_rate=16000, sample_size=8192,
    audio_channels=1,
)
wrapper = create_training_wrapper_from_config(model_config, create_model_from_config(model_config))
trainer = pl.Trainer(
    accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", max_steps=3,
    logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, default_root_dir=folder,
)
trainer.fit(wrapper, loader)
if trainer.is_global_zero:
    torch.save(wrapper.diffusion.model.state_dict(), folder / f"{ranks}.pt")
"""


def train(folder: Path, ranks: int) -> dict[str, torch.Tensor]:
    """The network after three steps in as many processes."""
    script = folder / "train.py"
    script.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [sys.executable, *(launcher if ranks > 1 else []), str(script), str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, str(ranks)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return torch.load(folder / f"{ranks}.pt", weights_only=True)


def test_two_ranks_learn_what_one_with_twice_the_batch_does(model_config, dataset_config, tmp_path):
    optimizer = {"optimizer": {"type": "SGD", "config": {"lr": 0.5}}}
    model_config["training"]["optimizer_configs"] = {"diffusion": optimizer}
    model_config["training"]["timesteps"]["levels"] = "stratified"
    dataset_config["epoch_items"] = 24
    (tmp_path / "configs.json").write_text(json.dumps([model_config, dataset_config]))
    one, two = train(tmp_path, 1), train(tmp_path, 2)
    for name, weight in one.items():
        assert_close(two[name], weight, atol=1e-5, rtol=0)
    assert one["model.postprocess_conv.weight"].any()  # zeros before the first step
