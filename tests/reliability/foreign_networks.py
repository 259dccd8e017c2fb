"""Networks of other libraries through `prune.py --check`, and what may go of them beside torch-pruning's own pruner.

    python -m tests.reliability.foreign_networks [PART OF A NAME ...]

Each runs in a process of its own, and torch-pruning's pruner in another, with limits of CPU time and memory. "masked"
is how far the cut network is from the dense one whose readers of removed channels have zeros for weights, in double
precision, as a share of the largest logit: rounding alone, unless a norm or a softmax goes over channels or a layer
gives a removed channel that is not zero another reader.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT, PEER_LIMIT, OUTPUTS = 600, 120, 12
MEMORY = 6 << 30

# What nobody can name on a command line is a factory of a few lines, as a user would write it.
OWN = """
from torch import nn
import timm, torch


def segformer(num_labels):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation
    return SegformerForSemanticSegmentation(SegformerConfig(num_labels=num_labels))


class TimmUNet(nn.Module):
    def __init__(self, encoder, classes):
        super().__init__()
        self.encoder = timm.create_model(encoder, features_only=True, pretrained=False)
        *skips, deepest = self.encoder.feature_info.channels()
        self.up = nn.ModuleList()
        for width in reversed(skips):
            convolution = nn.Conv2d(deepest + width, width, 3, padding=1)
            self.up.append(nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU()))
            deepest = width
        self.head = nn.Conv2d(deepest, classes, 1)

    def forward(self, images):
        *skips, features = self.encoder(images)
        for up, skip in zip(self.up, reversed(skips)):
            features = nn.functional.interpolate(features, size=skip.shape[-2:], mode="nearest")
            features = up(torch.cat([features, skip], dim=1))
        return self.head(features)
"""

_SMP = {
    "resnet18": ("Unet", "UnetPlusPlus", "FPN", "PSPNet", "DeepLabV3Plus", "Linknet", "MAnet", "PAN", "UPerNet"),
    "mobilenet_v2": ("Unet", "DeepLabV3Plus"),
    "efficientnet-b0": ("UnetPlusPlus", "Linknet"),
    "mit_b0": ("Segformer", "FPN"),
}
NETWORKS: dict[str, tuple[str, dict[str, object]]] = {
    f"smp {decoder} {encoder}": (
        f"segmentation_models_pytorch:{decoder}",
        {"encoder_name": encoder, "encoder_weights": None},
    )
    for encoder, decoders in _SMP.items()
    for decoder in decoders
} | {
    "torchvision lraspp mobilenet_v3": (
        "torchvision.models.segmentation:lraspp_mobilenet_v3_large",
        {"weights": None, "weights_backbone": None},
    ),
    "torchvision deeplabv3 mobilenet_v3": (
        "torchvision.models.segmentation:deeplabv3_mobilenet_v3_large",
        {"weights": None, "weights_backbone": None},
    ),
    "timm U-Net mobilenetv3": ("own.py:TimmUNet", {"encoder": "mobilenetv3_small_100"}),
    "transformers SegFormer b0": ("own.py:segformer", {}),
}


def measured(name: str) -> dict[str, object]:
    """What the check of a network finds out."""
    from bench.channels.tracing import OUTPUT
    from bench.datasets.options import DataOptions
    from bench.engine.options import PruneOptions
    from bench.jobs.network_check import check_network
    from bench.models.options import ModelOptions

    spelling, args = NETWORKS[name]
    network = ModelOptions(model=spelling, model_args=args)
    with contextlib.redirect_stdout(io.StringIO()):
        check = check_network(None, network, DataOptions(), PruneOptions())
    seconds = sum(map(_cpu_seconds, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
    channels, macs = check.shares
    stays = [f"{kept.channels} {kept.reason}" for kept in check.kept if kept.reason != "network output"]
    masked = None
    with contextlib.suppress(Exception):
        masked = masked_error(network, check.groups)
    outputs = [p.layer.layer for group in check.groups if group.protected == OUTPUT for p in group.producers]
    return {"channels": channels, "macs": macs, "seconds": seconds, "stays": stays[:2], "masked": masked} | {
        "outputs": outputs
    }


def _fresh(network):
    import torch

    from bench.models import new_model

    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        return new_model(network.spec(OUTPUTS))[0].eval()


def masked_error(network, groups) -> float:
    """How far a network cut by 30 % is from one whose readers of these channels see zeros."""
    import torch

    from bench.channels.groups import prunable
    from bench.channels.layer_axes import IN, axes_of
    from bench.cut.network import cut
    from bench.plan.cost_table import CostTable
    from bench.plan.pruning_plan import make_plan
    from bench.plan.target import Goal, Target
    from bench.pruners import make_pruner
    from bench.pruners.base import Calibration
    from bench.torch_utils.dry_run import blank_image
    from bench.torch_utils.network_form import form_of

    model = _fresh(network).double()
    size = form_of(model).trace_size or (64, 64)
    scores = make_pruner("random").score(model, prunable(groups), Calibration([], 255, 0))
    plan = make_plan(groups, scores, CostTable(model, groups, size), Target(Goal("channels", 0.3), "local"))
    # Statistics that fit, so that no features fade away under the biases.
    model.train()(torch.randn_like(blank_image(model, size, batch=2)))
    masked, smaller = copy.deepcopy(model.eval()), copy.deepcopy(model)
    cut(smaller, groups, plan)
    for group in prunable(groups):
        gone = torch.ones(group.channels, dtype=torch.bool)
        gone[plan.kept[group.name]] = False
        for member in group.consumers:
            layer = masked.get_submodule(member.layer)
            axis = axes_of(layer)["weight"].index(IN)
            layer.weight.data.index_fill_(axis, member.positions[gone[member.channels]], 0)
    images = torch.randn_like(blank_image(model, size))
    with torch.no_grad():
        wanted, found = masked(images), smaller(images)
    return float((wanted - found).abs().max() / wanted.abs().max())


def peer(name: str, outputs: list[str]) -> str:
    """The share of the channels of layers that torch-pruning's pruner would prune, and whether the result runs.

    Args:
        name: of the network.
        outputs: layers that make its outputs.
    """
    import torch_pruning as tp
    from torch import nn

    from bench.models.adapter import as_it_was
    from bench.models.options import ModelOptions
    from bench.torch_utils.dry_run import blank_image
    from bench.torch_utils.network_form import form_of

    spelling, args = NETWORKS[name]
    model = _fresh(ModelOptions(model=spelling, model_args=args))
    images = blank_image(model, form_of(model).trace_size or (64, 64), batch=2)
    model = as_it_was(model)
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    ignored = [model.get_submodule(layer) for layer in outputs]
    widths = {m: getattr(m, "out_channels", None) or m.out_features for m in model.modules() if isinstance(m, kinds)}
    everything = sum(width for layer, width in widths.items() if layer not in ignored)
    before = tp.utils.count_ops_and_params(copy.deepcopy(model), images)[0]
    try:
        pruner = tp.pruner.BasePruner(
            model, images, tp.importance.RandomImportance(), pruning_ratio=0.3, ignored_layers=ignored
        )
        found: dict[nn.Module, int] = {}
        for group in pruner.DG.get_all_groups(ignored, pruner.root_module_types):
            for dependency, indices in group:
                layer = dependency.target.module
                if layer in widths and layer not in ignored and pruner.DG.is_out_channel_pruning_fn(dependency.handler):
                    found[layer] = min(widths[layer], max(found.get(layer, 0), len(set(indices))))
        share = sum(found.values()) / everything
        pruner.step()
        model(images)
        left = tp.utils.count_ops_and_params(model, images)[0] / before
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the other library's
        return f"fails: {type(error).__name__}"
    return f"{share:.2f}, {left:.2f} of the MACs left"


def alone(folder: str, words: list[str], limit: int) -> tuple[object, str | None]:
    """What a call of this module in a process of its own prints as JSON; else what went wrong, in a line."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "tests.reliability.foreign_networks", *words]
    how = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": path}, "capture_output": True, "text": True}

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))

    done = subprocess.run(command, check=False, preexec_fn=limited, **how)
    if -done.returncode in (signal.SIGXCPU, signal.SIGKILL):
        return None, f"takes more than {limit} s"
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or [f"no word, status {done.returncode}"])[-1][:200]
    return json.loads(done.stdout.splitlines()[-1]), None


def _cpu_seconds(of: int) -> float:
    usage = resource.getrusage(of)
    return usage.ru_utime + usage.ru_stime


def main(wanted: list[str]) -> None:
    """Prints the table."""
    names = [name for name in NETWORKS if not wanted or any(part in name for part in wanted)]
    head = f"{'network':36} {'channels':>8} {'MACs':>5} {'CPU s':>6} {'masked':>8}  torch-pruning; what stays"
    print(head + "\n" + "-" * len(head), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "own.py").write_text(OWN, encoding="utf-8")
        for name in names:
            found, fault = alone(folder, ["--one", name], LIMIT)
            if fault is not None:
                print(f"{name:36} {fault}", flush=True)
                continue
            share, fault = alone(folder, ["--peer", name, *found["outputs"]], PEER_LIMIT)
            masked = "-" if found["masked"] is None else f"{found['masked']:.0e}"
            print(
                f"{name:36} {found['channels']:8.2f} {found['macs']:5.2f} {found['seconds']:6.1f} {masked:>8}  "
                f"{fault or share}; {' | '.join(found['stays'])}",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measured(sys.argv[2])))
    elif sys.argv[1:2] == ["--peer"]:
        print(json.dumps(peer(sys.argv[2], sys.argv[3:])))
    else:
        main(sys.argv[1:])
