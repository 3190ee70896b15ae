"""Write and run files of ONNX (.onnx)."""

import importlib
import json
import tempfile
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
    images = [f"sr_{i}" for i in use["frames"]] if use["kind"] == "clip" else ["sr"]
    written = torch.onnx.export(
        program,
        dynamo=True,
        input_names=[*(f"frame_{d}" for d in use["frames"]), *(f"state_{i}" for i in state)],
        output_names=[*images, *(f"next_state_{i}" for i in state)],
        dynamic_shapes=_names_of_axes(use),
        verbose=False,
    )
    assert written is not None
    written.model.metadata_props[USE] = json.dumps(use)
    written.save(files[0])
    return {"opset": int(written.model.opset_imports[""])}


def _names_of_axes(use: Mapping[str, Any]) -> Any:
    """Return the names of the free axes of each input; None for a graph of one size."""
    if use["size"]:
        return None
    frame = {0: "batch", 2: "height", 3: "width"}
    padded = {0: "batch", 2: "state_height", 3: "state_width"}
    state = padded if use["multiple"] > 1 else frame
    return {"given": (frame,) * len(use["frames"]) + (state,) * len(use["state"])}


def write_int8(
    program: ExportedProgram,
    calls: Sequence[Sequence[Tensor]],
    files: Sequence[Path],
    use: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the program with its convolutions in eight bits, by onnxruntime's own quantisation."""
    quantization: Any = importlib.import_module("onnxruntime.quantization")
    onnx: Any = importlib.import_module("onnx")
    with tempfile.TemporaryDirectory() as aside:
        exact = Path(aside) / "exact.onnx"
        told = write(program, [exact], use)
        names = [x.name for x in onnx.load(exact).graph.input]

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
            left = iter(calls)

            def get_next(self) -> dict[str, Any] | None:
                call = next(self.left, None)
                return (
                    None
                    if call is None
                    else {n: x.numpy() for n, x in zip(names, call, strict=True)}
                )

        quantization.quantize_static(
            exact,
            files[0],
            Reader(),
            op_types_to_quantize=["Conv"],
            per_channel=True,
            # 7 bits: products of 8 overflow on CPUs without VNNI, and cost 0.6 dB (RESULTS.md)
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    model = onnx.load(files[0])
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {USE: json.dumps(use)})
    onnx.save(model, files[0])
    return told


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
