"""Patched copies of the installed stable-audio-tools, and packages that offer plugins."""

import configparser
import shutil
from importlib.util import find_spec
from pathlib import Path

from mge_plugin.patch import apply_patch

ROOT = Path(__file__).parents[2]


def installed_package() -> Path:
    """The installed package's folder."""
    return Path(find_spec("stable_audio_tools").origin).parent


def offer(folder: Path, distribution: str = "a_plugin", **plugins: str) -> None:
    """Write an installed distribution with these plugins: name -> function."""
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Name: {distribution}\nVersion: 1.0\n")
    lines = [f"{name} = {function}" for name, function in plugins.items()]
    group = ["[stable_audio_tools.plugins]", *lines]
    (info / "entry_points.txt").write_text("\n".join(group if lines else []))


def patched_copy(folder: Path) -> Path:
    """A patched copy of the installed package, with this plugin's entry points beside it."""
    package = folder / "stable_audio_tools"
    shutil.copytree(installed_package(), package)
    apply_patch(package / "__init__.py")
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    group = config["options.entry_points"]["stable_audio_tools.plugins"]
    name, _, function = group.strip().partition(" = ")
    offer(folder, "mge_plugin", **{name: function})
    return folder
