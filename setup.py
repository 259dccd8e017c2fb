"""What pyproject.toml cannot say: configs/ goes along inside the package, where an installed copy finds it."""

from __future__ import annotations

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["bench*"]), "bench.configs"], package_dir={"bench.configs": "configs"})
