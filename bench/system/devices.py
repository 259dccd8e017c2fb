"""The device a command runs on, and how reproducibly."""

from __future__ import annotations

import gc
import random

import numpy as np
import torch

from bench.errors import UsageError
from bench.system.options import RunOptions


def resolve_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` -> a device that exists.

    Raises:
        UsageError: another name, or a GPU this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UsageError(f"unknown device '{name}'; write auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise UsageError(f"device {name} does not exist: {count} CUDA devices are visible; use `device=cpu`")
    return device


def set_up(options: RunOptions) -> torch.device:
    """Applies threads, seeds and determinism, and returns the device.

    Deterministic CUDA matrix products also want CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment; torch
    says so where it is missing.
    """
    device = resolve_device(options.device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    seed_everything(options.seed)
    torch.use_deterministic_algorithms(options.deterministic)
    torch.backends.cudnn.benchmark = device.type == "cuda" and not options.deterministic
    return device


def release_memory() -> None:
    """Gives back what is no longer needed."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def seed_everything(seed: int) -> None:
    """Seeds the global generators of torch, numpy and Python."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
