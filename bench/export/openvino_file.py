"""OpenVINO files: converted from torch's graph, and run on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from bench.errors import BenchError, DamagedFile, first_line
from bench.export.facts import KEY, Facts
from bench.system.extras import extra, without_remarks
from bench.system.failures import not_written


def write_openvino(path: Path, program: ExportedProgram, facts: Facts) -> None:
    """Writes a network as OpenVINO's XML, and its weights in float32 beside it as `.bin`.

    Args:
        path: the XML file, in a folder where half a file does no harm.
        program: what `bench.export.program.exported` made of the network.
        facts: go into it as its run-time information.

    Raises:
        BenchError: openvino is missing, has no such operator, or a file cannot be written.
    """
    library = extra("openvino", "an OpenVINO file")
    try:
        with without_remarks():
            model = library.convert_model(program)
    except Exception as error:
        raise BenchError(f"{facts.model} cannot be exported to openvino: {first_line(error)}") from error
    model.inputs[0].get_tensor().set_names({"images"})
    model.outputs[0].get_tensor().set_names({"logits"})
    model.set_rt_info(facts.text(), [KEY])
    try:
        library.save_model(model, str(path), compress_to_fp16=False)
    except RuntimeError as error:
        raise not_written(path, error) from error


class OpenvinoNetwork:
    """An OpenVINO file on the CPU: images in, logits out."""

    def __init__(self, path: Path | str, *, threads: int | None = None):
        """Opens a file.

        Args:
            path: the XML file; its weights lie beside it.
            threads: that it computes with; by default as many as torch.

        Raises:
            DamagedFile: it is none.
            BenchError: openvino is not installed.
        """
        library = extra("openvino", "an OpenVINO file")
        # By itself it would compute in bfloat16 where the processor can.
        exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads or torch.get_num_threads()}
        self.path = Path(path)
        try:
            self._run = library.Core().compile_model(str(path), "CPU", exact)
        except Exception as error:
            raise DamagedFile(f"{path} cannot be opened by openvino: {first_line(error)}", path) from error

    def __call__(self, images: Tensor) -> Tensor:
        """Images float32 [N, C, H, W] -> logits float32 [N, outputs, H, W]."""
        return torch.from_numpy(np.array(self._run(images.contiguous().numpy())[0]))
