"""Settings of every test."""

import os

os.environ["TORCH_WARM_POOL"] = "0"  # no pool of compile processes for each process of the tests

import pytest
import torch

# The tests' networks are so small that a second thread, made to wait by a busy core, slows them
# manyfold; processes that tests start get OMP_NUM_THREADS from them.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Nothing of the user's own caches is read or written, here or in processes started here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def trainer(tmp_path):
    """A Trainer on one CPU process, quiet; options go to Lightning."""
    import pytorch_lightning as pl

    def make(**options):
        defaults = {
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "default_root_dir": tmp_path,
        }
        return pl.Trainer(**defaults | options)

    return make
