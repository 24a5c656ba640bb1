"""How SAT's pre_encode.py is told from train.py, without a clone: by what it has in `__main__`."""

import sys
from types import ModuleType

import pytest

from mge_plugin.config import ConfigError
from mge_plugin.data.dataset import _PRE_ENCODER, DATASET_TYPES, create_mge_dataloader


@pytest.mark.parametrize("name", DATASET_TYPES)
def test_pre_encode_is_told_to_use_mge_encode(name, monkeypatch, tmp_path):
    script = ModuleType("__main__")
    setattr(script, _PRE_ENCODER, type(_PRE_ENCODER, (), {}))
    monkeypatch.setitem(sys.modules, "__main__", script)
    config = {"dataset_type": name, "datasets": [{"id": "songs", "path": str(tmp_path)}]}
    with pytest.raises(ConfigError, match=f"{name}: pre_encode.py cannot .* use `mge encode`"):
        create_mge_dataloader(config, batch_size=1, sample_size=1024, sample_rate=16000)
