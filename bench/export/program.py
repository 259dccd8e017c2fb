"""A network as torch's exporter sees it: a graph of operators, for one image size or for all."""

from __future__ import annotations

import copy
import io
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from bench.errors import BenchError, first_line
from bench.export.mirrored import mirror_padded
from bench.system.extras import without_remarks
from bench.torch_utils.network_form import form_of

# What torch's exporter raises over a network that it cannot follow.
_UNEXPORTABLE = (RuntimeError, ValueError, AssertionError, AttributeError, LookupError, TypeError, NotImplementedError)

_WHERE = re.compile(r'The following call raised this error:\n\s*File "([^"]+)", line (\d+), in .*\n\s*(.*)')
"""How torch says which operator it was."""

_BATCH = 2
"""Of the images that a network is followed with: a batch of one would be taken for the only one."""


def exported(model: nn.Module, input_size: tuple[int, int], *, fixed: bool) -> ExportedProgram:
    """Follows a network from images to logits.

    Args:
        model: on the CPU; left as it is.
        input_size: (height, width) of its images in pixels.
        fixed: whether the graph takes no other size; else height and width are left open. The number of images is left
            open in both.

    Returns:
        A graph of `torch.export`, of input `images`, [N, channels, height, width], and one output, logits
        [N, outputs, height, width]. It holds neither code nor names of files of this project.

    Raises:
        BenchError: torch is too old, or the network cannot be followed; the message has the operator and the reason.
    """
    if not hasattr(Dim, "DYNAMIC"):
        raise BenchError(f"torch {torch.__version__} cannot leave sizes open in an export; install 2.6 or newer")
    height, width = input_size
    if not fixed and height == width:
        # Equal sides could be taken for one and the same.
        width += 32
    network = copy.deepcopy(model).eval()
    if not fixed:
        mirror_padded(network)
    images = torch.zeros(_BATCH, form_of(model).input_channels, height, width)
    open_axes = {0: Dim.DYNAMIC} if fixed else dict.fromkeys((0, 2, 3), Dim.DYNAMIC)
    try:
        # Where it fails, torch prints the graph so far.
        with torch.no_grad(), without_remarks(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            program = torch.export.export(_Network(network), (images,), dynamic_shapes=(open_axes,), strict=False)
    except _UNEXPORTABLE as error:
        mend = "" if fixed else "; with `fixed`, for one image size alone, it may be"
        raise BenchError(f"{type(model).__name__} cannot be exported: {_reason(error)}{mend}") from error
    # A file would carry them, pickled.
    program.example_inputs = None
    for part in program.graph_module.modules():
        for node in getattr(getattr(part, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)
    return program


def _reason(error: Exception) -> str:
    """What torch says, and the line of the network that it names."""
    found = _WHERE.search(str(error))
    where = f" (line {found[2]} of {Path(found[1]).name}: {found[3]})" if found else ""
    return first_line(error) + where


class _Network(nn.Module):
    """A network whose input is called `images`, whoever wrote it."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)
