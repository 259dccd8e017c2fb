"""Static int8 quantisation of a trained network, dense or pruned, by torch's own tools (FX graph mode), on the CPU.

Convolutions and linear layers compute in int8 with their norms and activations folded in; the ranges of activations
are observed on training images. Transposed convolutions stay in float: torch reads their int8 weights back wrongly.
So does pooling that gives indices, which int8 kernels do not.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.channels.layer_axes import adopt_shapes, adopt_sizes, sizes_without_tensors
from bench.errors import BenchError, UsageError, first_line
from bench.measure.baseline import Baseline
from bench.measure.evaluation_report import EvaluationReport, file_record
from bench.measure.latency_report import LatencyReport
from bench.measure.options import Int8Options
from bench.models import blank_model
from bench.models.checkpoint import SavedModel, load_model, spec_in
from bench.models.state_dict_file import read_file, write_file
from bench.system.files import file_digest, plain, write_json
from bench.system.provenance import provenance
from bench.torch_utils.batches import Batch
from bench.torch_utils.dry_run import blank_image
from bench.torch_utils.finite import first_fault
from bench.torch_utils.memory_format import contiguous

FORMAT = "segmentation-pruning-bench-int8/1"
INT8, INT8_REPORT = "int8_model.pt", "int8_report.json"

_SIZES = ("bytes_on_disk", "compressed_bytes")
# Only shapes are traced, so the size does not matter.
_TRACED = (64, 64)
# What torch's tracer and its quantisation passes raise over networks they cannot follow.
_UNTRACEABLE = (RuntimeError, ValueError, AssertionError, AttributeError, LookupError, TypeError)


def quantized(model: nn.Module, batches: Iterable[Batch]) -> nn.Module:
    """An int8 copy of a network; the network itself is left as it was.

    Args:
        model: a network on the CPU whose forward pass in evaluation mode `torch.fx` can trace.
        batches: images float32 [N, 3, H, W] and labels (not used), to observe the ranges of activations on.

    Returns:
        Maps images to logits in float32, as the network does; for inference alone.

    Raises:
        BenchError: the network cannot be traced, an operator of it cannot be quantised, or torch would do that wrongly
            (PReLU, InstanceNorm by running statistics).
    """
    _check_layers(model)
    observed = _observed(copy.deepcopy(model).eval())
    with torch.inference_mode():
        for images, _ in batches:
            observed(images)
    return _converted(observed)


def save_int8(path: Path, saved: SavedModel, int8: nn.Module) -> None:
    """Writes an int8 network as plain tensors and plain data.

    Args:
        path: the file.
        saved: the network it was made of.
        int8: what `quantized` made of that.
    """
    content = {
        "format": FORMAT,
        "model": plain(asdict(saved.spec)),
        "sizes": sizes_without_tensors(saved.model),
        "shapes": {name: list(tensor.shape) for name, tensor in saved.model.state_dict().items()},
        "state_dict": {
            name: contiguous(value.detach()) if isinstance(value, Tensor) else value
            for name, value in int8.state_dict().items()
        },
        "meta": plain(saved.meta),
        "torch": str(torch.__version__),
    }
    write_file(path, content)


def load_int8(path: Path) -> nn.Module:
    """Opens a file of `save_int8`.

    Raises:
        BenchError: missing or damaged, another kind of file, or one this version of torch does not read.
    """
    with _without_warnings():
        content = read_file(path)
    if content.get("format") != FORMAT:
        raise BenchError(f"{path} is no int8 network of eval.py --int8")
    fault = first_fault({name: tensor for name, tensor in content["state_dict"].items() if isinstance(tensor, Tensor)})
    if fault:
        raise BenchError(f"{path} cannot be used: {fault}; quantise the network again with eval.py --int8")
    model = blank_model(spec_in(path, content))
    adopt_sizes(model, content.get("sizes"))
    adopt_shapes(model, {name: tuple(shape) for name, shape in content["shapes"].items()})
    model = model.to_empty(device="cpu").eval()
    with torch.no_grad():
        # Any weights do, as long as folding and observing them gives numbers; the file's replace them.
        for tensor in model.state_dict().values():
            tensor.fill_(1)
    int8 = _converted(_observed(model))
    try:
        int8.load_state_dict(content["state_dict"])
    except (RuntimeError, LookupError) as error:
        raise BenchError(
            f"{path} was written with torch {content['torch']} and does not fit what torch {torch.__version__} makes "
            "of the network; quantise it again with eval.py --int8"
        ) from error
    return int8


def measure_int8(
    baseline: Baseline, report: EvaluationReport, folder: Path, options: Int8Options, seed: int
) -> dict[str, Any]:
    """Quantises a candidate and measures the result beside it.

    The folder receives `int8_model.pt` and `int8_report.json`.

    Args:
        baseline: the network and its data, on the CPU, and how networks are scored and timed.
        report: what `evaluate_pair` said about the candidate in float32.
        folder: where the files go.
        options: how many images activations are observed on.
        seed: seed of the choice of those images.

    Returns:
        What the report says.

    Raises:
        UsageError: on a GPU.
        BenchError: the network cannot be quantised.
    """
    if baseline.device.type != "cpu":
        raise UsageError("`int8` computes on the CPU; pass `device=cpu`")
    before = report["candidate"]
    saved = load_model(Path(before["path"]))
    batches = baseline.data.calibration(options.int8_images, baseline.data.eval_batch_size, seed)
    int8 = quantized(saved.model, batches)
    save_int8(folder / INT8, saved, int8)
    quality = baseline.evaluate(int8, "int8").record()
    latency = None
    if baseline.is_timed:
        latency = _in_int8(baseline.time_beside({"float32": saved.model, "int8": int8}))
    after = {**file_record(folder / INT8, file_digest(folder / INT8)), "quality": quality}
    record = plain(
        {
            "format": "int8-report/1",
            **{key: report[key] for key in ("dataset", "split", "model", "input_size")},
            "engine": torch.backends.quantized.engine,
            "calibration": {"images": sum(len(images) for images, _ in batches), "seed": seed},
            "float32": before,
            "int8": after,
            "change": {
                "miou_points": 100 * (quality["miou"] - before["quality"]["miou"]),
                **{f"{size}_percent": 100 * (after[size] / before[size] - 1) for size in _SIZES},
            },
            "latency": latency,
            "provenance": provenance(),
        }
    )
    write_json(folder / INT8_REPORT, record)
    return record


def _in_int8(report: LatencyReport) -> LatencyReport:
    """The report, saying of the int8 network what its float parameters do not tell."""
    networks = {**report.networks, "int8": replace(report.networks["int8"], precision="int8")}
    return replace(report, networks=networks, throughput=report.throughput and _in_int8(report.throughput))


def _check_layers(model: nn.Module) -> None:
    """Raises BenchError for the first layer that torch would make another one of without a word."""
    for name, layer in model.named_modules():
        kind = type(layer).__name__
        if isinstance(layer, nn.PReLU):
            raise BenchError(f"{kind} {name} cannot be quantised: torch misreads its slopes in int8; leave out `int8`")
        if isinstance(layer, nn.modules.instancenorm._InstanceNorm) and layer.track_running_stats:
            raise BenchError(
                f"{kind} {name} cannot be quantised: torch leaves its running statistics out in int8; leave out `int8`"
            )


def _observed(model: nn.Module) -> nn.Module:
    """The network with norms folded into their layers, and an observer wherever something becomes int8."""
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import prepare_fx

    engine = torch.backends.quantized.engine
    if engine == "none":
        raise BenchError("this build of torch has no int8 kernels; leave out `int8`")
    with _explained(model), _without_warnings():
        mapping = get_default_qconfig_mapping(engine).set_object_type(nn.ConvTranspose2d, None)
        for name, layer in model.named_modules():
            if isinstance(layer, nn.MaxPool2d) and layer.return_indices:
                mapping.set_module_name(name, None)
        return prepare_fx(model, mapping, (blank_image(model, _TRACED),))


def _converted(observed: nn.Module) -> nn.Module:
    from torch.ao.quantization.quantize_fx import convert_fx

    with _explained(observed), _without_warnings():
        return convert_fx(observed)


@contextlib.contextmanager
def _explained(model: nn.Module) -> Iterator[None]:
    try:
        yield
    except _UNTRACEABLE as error:
        reason = first_line(error)
        raise BenchError(
            f"{type(model).__name__} cannot be quantised: torch.fx cannot follow it ({reason}); leave out `int8`"
        ) from error


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Torch announces the end of its own tools, and warns of observers that saw nothing, as when a file is opened."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
