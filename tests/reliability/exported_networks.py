"""Every registered network, dense and pruned at 0.5, exported to ONNX, torch-export and safetensors, and judged.

    python -m tests.reliability.exported_networks [NAME ...]

Each file runs in a new process that imports nothing of this project, at two sizes, in two batch sizes; the norms have
the statistics of random images and the logits are of a size that trained ones have. Without names: all networks.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import bench
from bench.errors import BenchError
from bench.export.facts import facts_of
from bench.export.formats import FORMATS, Source
from bench.export.parity import BATCHES, TOLERANCE, check_parity, exact_logits
from bench.models import MODELS, ModelSpec, build_model
from bench.models.checkpoint import SavedModel
from bench.models.output_layers import output_axes

OUTPUTS, SIZES = 12, ((64, 96), (81, 115))

# The judge. Its path lacks the folder of this project; libraries are where they were.
JUDGE = """
import sys
sys.path[:] = PATH
import importlib.util, numpy as np, onnxruntime, torch
assert importlib.util.find_spec("bench") is None
for name in sys.argv[1:]:
    given = np.load(f"{name}.npz")
    session, module = onnxruntime.InferenceSession(f"{name}.onnx"), torch.export.load(f"{name}.pt2").module()
    for kind, run in (("onnx", lambda images: session.run(None, {"images": images})[0]),
                      ("torch-export", lambda images: module(torch.from_numpy(images)).numpy())):
        with torch.inference_mode():
            worst = max(np.abs(run(given[f"images{n}"]) - given[f"logits{n}"]).max() for n in range(len(given) // 2))
        print(name, kind, float(worst))
assert not any(name.split(".")[0] == "bench" for name in sys.modules)
"""


def lively(spec: ModelSpec) -> nn.Module:
    """A network whose norms and logits are not those of a beginning."""
    model = build_model(spec)
    model.train()
    with torch.no_grad():
        # A residual branch adds little in a trained network. With the whole of a hundred random layers float32 itself
        # loses more than what is allowed here.
        for name, parameter in model.named_parameters():
            if name.endswith("bn3.weight"):
                parameter.mul_(0.2)
        for _ in range(2):
            model(torch.randn(2, 3, *SIZES[0]))
        tensors = model.state_dict()
        for name in output_axes(spec):
            if tensors[name].dim() > 1:
                tensors[name].div_(tensors[name].std() * tensors[name][0].numel() ** 0.5).mul_(5)
    return model.eval()


def _rounding(model: nn.Module, found: dict[str, np.ndarray]) -> float:
    """How far the network's own logits are from those that it has in double precision."""
    exact = exact_logits(model, torch.from_numpy(found["images0"])).numpy()
    return float(np.abs(exact - found["logits0"]).max())


def judge(name: str, folder: Path) -> bool:
    """Exports a network, dense and pruned, and prints how near each file is; whether all are near enough."""
    torch.manual_seed(0)
    spec = ModelSpec(name, OUTPUTS)
    dense = lively(spec)
    batches = [(torch.randn(2, 3, *SIZES[0]), torch.zeros(2, *SIZES[0], dtype=torch.int64))]
    cut = bench.prune(dense, batches, method="l1", target={"channels": 0.5})
    kinds = {"dense": SavedModel(dense, spec), "pruned": SavedModel(cut.model.eval(), spec, cut.plan.kept)}
    largest, rounding, is_right, written = {}, {}, True, []
    for kind, saved in kinds.items():
        start, found = time.process_time(), {}
        source = Source(saved, facts_of(saved, name, SIZES[0]))
        for image in range(4):
            size, batch = SIZES[image % 2], BATCHES[image // 2]
            images = torch.randn(batch, 3, *size)
            with torch.inference_mode():
                found |= {f"images{image}": images.numpy(), f"logits{image}": saved.model(images).numpy()}
        np.savez(folder / f"{kind}.npz", **found)
        largest[kind] = max(float(np.abs(found[f"logits{image}"]).max()) for image in range(4))
        rounding[kind] = _rounding(saved.model, found)
        try:
            for suffix, form in (("onnx", "onnx"), ("pt2", "torch-export"), ("safetensors", "safetensors")):
                FORMATS[form].write(folder / f"{kind}.{suffix}", source)
            opened = FORMATS["safetensors"].open(folder / f"{kind}.safetensors", source)
            near = check_parity(opened, saved.model, source.facts, fixed=False, what="safetensors")
            written.append(kind)
            print(f"{name} {kind} safetensors: {near['largest_difference']:.1e}")
        except BenchError as error:
            print(f"{name} {kind}: {error}")
            is_right = False
        print(f"{name} {kind}: exported in {time.process_time() - start:.0f} s of the processor", flush=True)
    path = [entry for entry in sys.path if entry and not (Path(entry) / "bench").exists()]
    judge = [sys.executable, "-P", "-c", JUDGE.replace("PATH", repr(path)), *written]
    judged = subprocess.run(judge, cwd=folder, capture_output=True, text=True, check=False)
    for line in judged.stdout.splitlines():
        kind, form, worst = line.split()
        is_near = float(worst) <= TOLERANCE * max(1.0, largest[kind])
        beside = f"of logits up to {largest[kind]:.1f}; float32 itself is {rounding[kind]:.1e} from float64"
        print(f"{name} {kind} {form}: {float(worst):.1e} {beside}" + ("" if is_near else " WRONG"))
        is_right &= is_near
    if judged.returncode:
        print(judged.stderr.splitlines()[-1])
    sys.stdout.flush()
    return is_right and judged.returncode == 0


def main() -> None:
    """Judges the networks that are named, or all."""
    right = []
    for name in sys.argv[1:] or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            right.append(judge(name, Path(folder)))
    print(f"{sum(right)} of {len(right)} networks: every file gives the network's logits")
    sys.exit(not all(right))


if __name__ == "__main__":
    main()
