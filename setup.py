"""Puts `configs/` and `studies/` into the wheel, so that their names work outside a checkout; the rest is setup.cfg."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("configs", "studies")


class BuildPy(build_py):
    """Copies the shipped folders beside the modules; an editable install reads them where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in SHIPPED:
                shutil.copytree(name, Path(self.build_lib, "attnsearch", name), dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildPy})
