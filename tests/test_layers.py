"""Imports follow the way of the data and never turn back; late imports count too.

stems -> triplets -> latents -> timesteps and objective -> DiT -> sampler -> tasks -> audio
"""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A module may import from its own layer and the ones above it in this list. The longest prefix
# decides: data.latents.encode needs the autoencoder, the rest of data does not.
LAYERS = (
    ("config", "files", "devices", "tracks", "prompts", "sat", "report"),
    ("data.audio", "data.songs", "data.corpora"),
    ("data.triplets", "data.cache", "data.order"),
    ("data.dataset", "data.latents"),
    ("training.randomness", "training.timesteps", "training.objective"),
    ("models", "standins", "registry"),
    ("data.latents.encode",),
    ("training",),
    ("check",),
    ("inference",),
    ("training.demo", "standins.fit", "standins.recipe", "evaluation"),
    ("interface", "cli", "demo", "doctor", "launcher", "patch", "scripts", "__main__"),
)


# Reads stems as a triplet does, to compare songs by their sound.
ALLOWED = {("mge_plugin.data.corpora.duplicates", "mge_plugin.data.triplets")}


def modules(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = {name: path for package in ("mge_plugin", "minislakh") for name, path in modules(package)}


def imported(path):
    """Modules that a file imports, at its top or later, but for type checkers."""
    nodes = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


GRAPH = {
    name: {other for other in imported(path) if other in MODULES and other != "mge_plugin"} - {name}
    for name, path in MODULES.items()
}


def layer(module):
    name = module.removeprefix("mge_plugin.")
    found = [
        (len(prefix), number)
        for number, prefixes in enumerate(LAYERS)
        for prefix in prefixes
        if name == prefix or name.startswith(f"{prefix}.")
    ]
    return max(found)[1]


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("mge_plugin.")])
def test_no_import_turns_back(module):
    others = {other for other in GRAPH[module] if other.startswith("mge_plugin.")}
    back = {other for other in others if layer(other) > layer(module)}
    back -= {other for name, other in ALLOWED if name == module}
    assert not back, f"{module} is below {sorted(back)}"


def test_there_is_no_cycle():
    graphlib.TopologicalSorter(GRAPH).prepare()


def test_the_synthetic_corpus_imports_nothing_of_the_plugin():
    for module in MODULES:
        if module.startswith("minislakh"):
            assert not any(other.startswith("mge_plugin") for other in GRAPH[module]), module
