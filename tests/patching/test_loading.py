"""What a patched stable-audio-tools does with plugins: many, none, and those that fail."""

import json

import pytest

from mge_plugin.patch import apply_patch, find_file
from tests.patching.copies import ROOT, offer, patched_copy


@pytest.fixture
def stub(make_clone):
    """The patched __init__ with stubs for what it imports, so that a process takes no time."""
    clone = make_clone()
    apply_patch(find_file(clone))
    return clone


@pytest.fixture
def import_stub(stub, run_python):
    """A function that imports it in a new process with these options: (stdout, stderr).

    Without site-packages (-S), where this project's own plugin may be installed.
    """

    def run(*options, code="import stable_audio_tools as s; print(s.get_pretrained_model)"):
        done = run_python("-S", *options, "-c", code, path=[stub], cwd=stub, own=False)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return run


def test_without_plugins_nothing_is_said(import_stub):
    assert import_stub("-W", "error") == ("None\n", "")


def test_every_plugin_is_called(import_stub, stub):
    """And can import the package that is loading it, even where the plugin was imported first."""
    (stub / "good.py").write_text(
        "def install():\n"
        "    from stable_audio_tools import get_pretrained_model\n"
        "    print('installed', get_pretrained_model)\n"
    )
    offer(stub, one="good:install", two="good:install")
    for first in ("", "import good; "):
        said = import_stub("-W", "error", code=f"{first}import stable_audio_tools")
        assert said == ("installed None\n" * 2, "")


BROKEN = {
    "raises": ("bad:install", "RuntimeError('no luck')"),
    "cannot_be_imported": ("absent_module:install", "ModuleNotFoundError"),
    "has_no_function": ("bad:absent", "AttributeError"),
}


def test_a_plugin_that_fails_is_named_and_the_others_are_called(import_stub, stub):
    (stub / "bad.py").write_text("def install():\n    raise RuntimeError('no luck')\n")
    (stub / "good.py").write_text("def install():\n    print('installed')\n")
    plugins = {name: function for name, (function, _) in BROKEN.items()}
    offer(stub, **plugins, works="good:install")
    said, warned = import_stub()
    assert said == "installed\nNone\n"
    for name, (function, reason) in BROKEN.items():
        (line,) = (line for line in warned.splitlines() if f"plugin {name!r}" in line)
        assert f"({function}) was left out: {reason}" in line
    assert "plugin 'works'" not in warned


def test_broken_metadata_of_some_package_is_a_warning(import_stub, stub):
    (stub / "broken-1.0.dist-info").mkdir()
    (stub / "broken-1.0.dist-info" / "entry_points.txt").write_text("[group]\nno entry\n")
    said, warned = import_stub()
    assert said == "None\n"
    assert "UserWarning: stable-audio-tools could not look for plugins: " in warned


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    """Of a patched copy of the installed package, with this plugin's entry points beside it."""
    return patched_copy(tmp_path_factory.mktemp("patched"))


# The names that SAT's scripts import, as they import them.
FACTORIES = """
import json, sys
from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config
from stable_audio_tools.training import create_demo_callback_from_config
import stable_audio_tools
config = json.load(open(sys.argv[1]))
model = stable_audio_tools.create_model_from_config(config)
seen = [stable_audio_tools.__file__, type(model).__name__]
seen += [type(create_training_wrapper_from_config(config, model)).__name__]
factories = create_model_from_config, create_dataloader_from_config
seen += [factory.__wrapped__.__module__ for factory in factories]
try:
    create_dataloader_from_config({"dataset_type": "mge_triplet"}, 1, 1024, 16000)
except ValueError as error:
    seen += [str(error)]
print(json.dumps(seen))
"""


@pytest.mark.slow
def test_the_factories_know_our_types_by_importing_sat_alone(patched, run_python):
    config = ROOT / "model_configs" / "mge_dit_tiny.json"
    done = run_python("-c", FACTORIES, config, path=[patched])
    assert done.returncode == 0, done.stderr
    assert "was left out" not in done.stderr
    file, model, wrapper, *modules, error = json.loads(done.stdout.splitlines()[-1])
    assert file == str(patched / "stable_audio_tools" / "__init__.py")
    assert (model, wrapper) == ("MGEModel", "MGETrainingWrapper")
    assert modules == ["stable_audio_tools.models.factory", "stable_audio_tools.data.dataset"]
    assert "did you mean 'mge_triplets'" in error


@pytest.mark.slow
def test_one_of_our_modules_that_imports_sat_may_come_first(patched, run_python):
    code = (
        "import warnings; warnings.filterwarnings('error', '.*plugin.*')\n"
        "import mge_plugin.models.mge, stable_audio_tools as sat\n"
        "print(hasattr(sat.create_model_from_config, '__wrapped__'))"
    )
    done = run_python("-c", code, path=[patched])
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["True"]), done.stderr
