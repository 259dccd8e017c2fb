"""What pyproject.toml cannot say: configs/ goes along inside the package, where an installed copy finds it."""

from __future__ import annotations

from setuptools import find_packages, setup

CONFIGS = {"bench.configs": "configs", "bench.configs.studies": "configs/studies"}

setup(packages=[*find_packages(include=["bench*"]), *CONFIGS], package_dir=CONFIGS)
