"""Write and run files of ONNX (.onnx)."""

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from stdpipe.deploy.formats import USE
from stdpipe.deploy.graph import Run

NEEDS = ("onnx", "onnxscript", "onnxruntime")


def write(
    program: ExportedProgram, files: Sequence[Path], use: Mapping[str, Any]
) -> dict[str, Any]:
    """Write one file, weights and how to use it inside. Inputs are frame_-1, frame_0, ... and
    state_0, ...; outputs are sr and next_state_0, ..."""
    state = range(len(use["state"]))
    written = torch.onnx.export(
        program,
        dynamo=True,
        input_names=[*(f"frame_{d}" for d in use["frames"]), *(f"state_{i}" for i in state)],
        output_names=["sr", *(f"next_state_{i}" for i in state)],
        verbose=False,
    )
    assert written is not None
    written.model.metadata_props[USE] = json.dumps(use)
    written.save(files[0])
    return {"opset": int(written.model.opset_imports[""])}


def load(files: Sequence[Path]) -> Run:
    """Open a file in onnxruntime."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(files[0]), options, providers=providers)
    names = [x.name for x in session.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        given = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(x) for x in session.run(None, given)]

    return run
