"""Two ranks train and validate as one with twice the batch."""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from tests.processes import run, run_ranks, run_script

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

def load(**options):
    return create_dataloader_from_config(
        dataset_config | options, batch_size=8 // ranks, num_workers=0, sample_rate=16000,
        sample_size=8192, audio_channels=1,
    )

torch.manual_seed(0)
wrapper = create_training_wrapper_from_config(model_config, create_model_from_config(model_config))
trainer = pl.Trainer(
    accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", max_steps=3,
    logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, default_root_dir=folder,
)
trainer.fit(wrapper, load(epoch_items=24), load(epoch_items=10, drop_last=False, seed=1))
if trainer.is_global_zero:
    values = {key: value for key, value in trainer.callback_metrics.items() if "val/" in key}
    torch.save([wrapper.diffusion.model.state_dict(), values], folder / f"{ranks}.pt")
"""


# SAT's FSDP strategy needs a GPU; what it does around the wrapper is done by hand.
SHARDED = """
import json, sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import enable_wrap
from mge_plugin.models.mge import create_mge_model
from mge_plugin.training.objective import weighted_mean
from mge_plugin.training.randomness import ItemRandomness, item_numbers
from mge_plugin.training.timesteps import draw_timesteps
from mge_plugin.training.wrapper import create_mge_training_wrapper

folder, ranks = Path(sys.argv[1]), int(sys.argv[2])
config, _ = json.loads((folder / "configs.json").read_text())
config["training"] |= {"pre_encoded": True, "use_ema": False}
torch.manual_seed(0)
wrapper = create_mge_training_wrapper(config, create_mge_model(config))
network, rank, sharded = wrapper.diffusion.model, 0, []
for parameter in network.parameters():
    torch.nn.init.normal_(parameter, std=0.05)
reals, metadata = torch.randn(8, 96, 16), [{"prompt": {"source": "bass"}}] * 8
if ranks > 1:
    dist.init_process_group("gloo")
    rank, options = dist.get_rank(), {"device_id": torch.device("cpu"), "use_orig_params": True}
    with enable_wrap(wrapper_cls=FullyShardedDataParallel, **options):
        wrapper.wrap_fsdp()
    units = [m for m in network.modules() if isinstance(m, FullyShardedDataParallel)]
    sharded = [id(parameter) for unit in units for parameter in unit.parameters()]
optimizer = torch.optim.SGD(network.parameters(), 20.0)
for step in range(3):
    draws = ItemRandomness(0, item_numbers(8 * step, 8 // ranks, rank, ranks))
    batch = reals[rank::ranks], metadata[rank::ranks]
    t = draw_timesteps(wrapper.config.timesteps, draws, 8)
    latents = wrapper.encode(batch[0], draws)
    losses, weights = wrapper.diffusion_losses(latents, batch, t, draws, 0.1)
    weighted_mean(losses, weights).backward()
    for parameter in network.parameters():
        if ranks > 1 and id(parameter) not in sharded:
            dist.all_reduce(parameter.grad)
            parameter.grad /= ranks
    optimizer.step()
    optimizer.zero_grad()
with FullyShardedDataParallel.summon_full_params(network):
    named = network.named_parameters()
    weights = {name.replace("_fsdp_wrapped_module.", ""): weight for name, weight in named}
    if rank == 0:
        torch.save([weights, {"sharded": torch.tensor(len(sharded))}], folder / f"{ranks}.pt")
"""


def train(
    folder: Path, ranks: int, code: str = SCRIPT
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The network after three steps in as many processes, and the values of its validation."""
    script = folder / "train.py"
    script.write_text(code)
    command = run_script, script, str(folder), str(ranks)
    if ranks == 1:
        assert run(*command, output=folder / "log") == 0, (folder / "log").read_text()[-2000:]
    else:
        run_ranks(ranks, *command, output=folder / "log")
    return torch.load(folder / f"{ranks}.pt", weights_only=True)


@pytest.mark.slow
def test_two_ranks_learn_what_one_with_twice_the_batch_does(model_config, dataset_config, tmp_path):
    """Ten items to validate: a rank's batches of four hold two of the patterns, the last is one."""
    optimizer = {"optimizer": {"type": "SGD", "config": {"lr": 0.5}}}
    model_config["training"]["optimizer_configs"] = {"diffusion": optimizer}
    model_config["training"]["timesteps"]["levels"] = "stratified"
    (tmp_path / "configs.json").write_text(json.dumps([model_config, dataset_config]))
    one, values = train(tmp_path, 1)
    two, values_of_two = train(tmp_path, 2)
    for name, weight in one.items():
        assert_close(two[name], weight, atol=1e-5, rtol=0)
    assert one["model.postprocess_conv.weight"].any()  # zeros before the first step
    assert len(values) == 10  # a loss, and nine tracks of four patterns
    assert_close(values_of_two, values, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_sharded_ranks_learn_it_too(model_config, dataset_config, tmp_path):
    (tmp_path / "configs.json").write_text(json.dumps([model_config, dataset_config]))
    one, _ = train(tmp_path, 1, SHARDED)
    two, found = train(tmp_path, 2, SHARDED)
    assert found["sharded"] > 10
    assert one.keys() == two.keys()
    for name, weight in one.items():
        assert_close(two[name], weight, atol=1e-5, rtol=0)
