"""A new process that opens a network and runs it once: `python -m bench.jobs.reopened MODEL NETWORK IMAGES LOGITS`."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from bench.models.checkpoint import load_model
from bench.models.state_dict_file import read_file, write_file


def main(model: str, network: str, images: str, logits: str) -> None:
    """Writes the logits that the network in a file gives for images.

    Args:
        model: what the network is called; a factory may be imported by it.
        network: the file of the network.
        images: a file of `images`, [N, channels, H, W].
        logits: the file to write, of `logits`.
    """
    opened = load_model(network, name=model).model
    write_file(logits, {"logits": seeded_logits(opened, read_file(images)["images"])})


def seeded_logits(model: nn.Module, images: Tensor) -> Tensor:
    """The logits of a network, the same each time for one that adds noise."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model(images)


if __name__ == "__main__":
    main(*sys.argv[1:])
