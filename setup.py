"""Metadata is in setup.cfg; here is only how a wheel takes along the folders beside the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("model_configs", "dataset_configs", "patches", "weights")


class BuildWithShippedFiles(build_py):
    """Copy the shipped folders to mge_plugin/shipped; an editable install reads them in place."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in SHIPPED:
                target = Path(self.build_lib, "mge_plugin", "shipped", name)
                shutil.copytree(name, target, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithShippedFiles})
