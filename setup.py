"""The packages: each folder of pyproject's package-dir with all below it, under its import name."""

import tomllib
from pathlib import Path

from setuptools import find_packages, setup

ROOTS = tomllib.loads(Path(__file__).with_name("pyproject.toml").read_text(encoding="utf-8"))[
    "tool"
]["setuptools"]["package-dir"]
PACKAGES = [
    package
    for name, folder in ROOTS.items()
    for package in (name, *(f"{name}.{found}" for found in find_packages(folder)))
]

setup(packages=PACKAGES)
