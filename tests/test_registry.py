"""The hooks: ours to us, everything else to SAT, no unpatched copy, nothing heavy imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mge_plugin import registry

CONFIGS = Path(__file__).parents[1] / "model_configs"


def in_fresh_python(code: str) -> str:
    """Run code in a new interpreter and return what it printed last."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


FIND_COPIES = """
import json, sys
import mge_plugin.registry as registry
left = []
for hook in registry._HOOKS:
    module = sys.modules[hook.module]
    ours = getattr(module, hook.function, None)
    if ours is None:
        continue
    original = getattr(ours, registry._MARK)
    for other in list(sys.modules.values()):
        if getattr(other, "__name__", "").startswith("stable_audio_tools"):
            left += [f"{other.__name__}.{k}" for k, v in vars(other).items() if v is original]
gradio, hooks = sys.modules["stable_audio_tools.interface.gradio"], registry.installed()
in_gradio = hasattr(gradio.create_model_from_config, registry._MARK)
print(json.dumps([sorted(hooks), all(hooks.values()), left, in_gradio]))
"""
IMPORT_SAT = """
import stable_audio_tools, stable_audio_tools.models, stable_audio_tools.training
import stable_audio_tools.data.dataset, stable_audio_tools.interface.gradio
import stable_audio_tools.models.autoencoders
"""


@pytest.mark.parametrize("order", ["before", "after"])
def test_no_unpatched_copy_is_left_whichever_is_imported_first(order):
    install = "import mge_plugin; mge_plugin.install(); mge_plugin.install()\n"
    start = install + IMPORT_SAT if order == "before" else IMPORT_SAT + install
    names, all_in, left, in_gradio = json.loads(in_fresh_python(start + FIND_COPIES))
    assert all_in
    assert left == []
    assert {"create_model_from_config", "create_dataloader_from_config"} <= set(names)
    assert in_gradio


def test_importing_and_installing_is_light():
    heavy = ["torch", "gradio", "stable_audio_tools", "pytorch_lightning", "numpy"]
    code = (
        "import sys, time; start = time.perf_counter(); import mge_plugin\n"
        "took = time.perf_counter() - start; mge_plugin.install()\n"
        f"print([took < 0.3, [m for m in {heavy} if m in sys.modules]])"
    )
    assert in_fresh_python(code) == "[True, []]"


def test_what_is_not_ours_reaches_sat_untouched():
    registry.install()
    from stable_audio_tools.models import create_model_from_config
    from stable_audio_tools.models.autoencoders import AudioAutoencoder

    config = json.loads((CONFIGS / "mge_vae_tiny.json").read_text())
    assert isinstance(create_model_from_config(config), AudioAutoencoder)
    with pytest.raises(NotImplementedError, match="nonsense"):
        create_model_from_config({"model_type": "nonsense"})


def test_the_config_that_decides_may_come_by_keyword():
    registry.install()
    from stable_audio_tools.models import create_model_from_config

    from mge_plugin.models.mge import MGEModel

    config = json.loads((CONFIGS / "mge_dit_tiny.json").read_text())
    assert isinstance(create_model_from_config(model_config=config), MGEModel)


def test_what_is_ours_comes_to_us():
    registry.install()
    from stable_audio_tools.models import create_model_from_config
    from stable_audio_tools.models.diffusion import ConditionedDiffusionModelWrapper

    from mge_plugin.models.mge import MGEModel

    config = json.loads((CONFIGS / "mge_dit_tiny.json").read_text())
    model = create_model_from_config(config)
    assert isinstance(model, MGEModel)
    assert isinstance(model, ConditionedDiffusionModelWrapper)


def test_an_unknown_dataset_type_of_ours_suggests_the_nearest():
    registry.install()
    from stable_audio_tools.data.dataset import create_dataloader_from_config

    with pytest.raises(ValueError, match="did you mean 'mge_triplets'"):
        create_dataloader_from_config({"dataset_type": "mge_triplet"}, 1, 1024, 16000)


def test_a_factory_that_sat_no_longer_has_is_one_clear_error(monkeypatch):
    import stable_audio_tools.models.factory as factory

    monkeypatch.delattr(factory, "create_model_from_config")
    hook = next(h for h in registry._HOOKS if h.function == "create_model_from_config")
    with pytest.raises(ImportError, match="has no create_model_from_config"):
        registry._replace(hook, factory)


@pytest.mark.parametrize(
    ("config", "ours"),
    [
        ({"model": {"diffusion": {"type": "mge_dit"}}}, True),
        ({"model": {"diffusion": {"type": "dit"}}}, False),
        ({"model": {"encoder": {}}}, False),
        ({"model": None}, False),
        ({}, False),
    ],
)
def test_which_model_configs_are_ours(config, ours):
    assert registry.is_our_model(config) is ours
