"""Write and run files of LiteRT, once TensorFlow Lite (.tflite): frames and state channels last."""

import importlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from stdpipe.deploy.graph import Plain, Run
from stdpipe.deploy.layout import shuffle_channels_last

NEEDS = ("litert_torch", "ai_edge_litert")


def write(
    program: ExportedProgram, files: Sequence[Path], use: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the program, its inputs and outputs (1, h, w, C); "fp16" halves its weights."""
    litert: Any = importlib.import_module("litert_torch")
    shuffle_channels_last(program)
    args, _ = program.example_inputs
    count = len(program.graph_signature.user_outputs)
    last = litert.to_channel_last_io(
        Plain(program), args=list(range(len(args))), outputs=list(range(count))
    )
    given = tuple(x.permute(0, 2, 3, 1).contiguous() for x in args)
    litert.convert(last, given).export(str(files[0]))
    if use.get("precision") == "fp16":
        quantizer = importlib.import_module("ai_edge_quantizer.quantizer").Quantizer(str(files[0]))
        quantizer.add_weight_only_config(".*", "*", 16, algorithm_key="float_casting")
        quantizer.quantize().export_model(str(files[0]), overwrite=True)
    return {}


def write_int8(
    program: ExportedProgram,
    calls: Sequence[Sequence[Tensor]],
    files: Sequence[Path],
    use: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the program with its convolutions in eight bits, by LiteRT's own quantiser."""
    module: Any = importlib.import_module("ai_edge_quantizer.quantizer")
    with tempfile.TemporaryDirectory() as aside:
        exact = Path(aside) / "exact.tflite"
        write(program, [exact], use)
        quantizer = module.Quantizer(str(exact))
        quantizer.add_static_config(".*", "CONV_2D", activation_num_bits=8, weight_num_bits=8)
        given = [
            {f"args_{i}": x.permute(0, 2, 3, 1).contiguous().numpy() for i, x in enumerate(call)}
            for call in calls
        ]
        found = quantizer.calibrate({"serving_default": given})
        quantizer.quantize(found).export_model(str(files[0]), overwrite=True)
        _name_outputs(exact, files[0])
    return {}


def _name_outputs(exact: Path, file: Path) -> None:
    """Give each output its name again: of one that is a convolution's own, as RLSP's last image is,
    the quantiser leaves the name with the eight bits before it."""
    models: Any = importlib.import_module("ai_edge_quantizer.utils.tfl_flatbuffer_utils")
    before, after = models.read_model(str(exact)), models.read_model(str(file))
    places = list(before.subgraphs[0].outputs)
    at = {
        output.name: places.index(output.tensorIndex) for output in before.signatureDefs[0].outputs
    }
    for output in after.signatureDefs[0].outputs:
        output.tensorIndex = after.subgraphs[0].outputs[at[output.name]]
    models.write_model(after, str(file))


def load(files: Sequence[Path]) -> Run:
    """Open a file in LiteRT's interpreter, with XNNPACK as it is by default."""
    module: Any = importlib.import_module("ai_edge_litert.interpreter")
    interpreter = module.Interpreter(str(files[0]), num_threads=1)
    interpreter.allocate_tensors()

    runner = interpreter.get_signature_runner()

    def in_order(details: dict[str, Any]) -> list[int]:
        """The places of args_0, args_1, ... or of output_0, output_1, ..."""
        return [details[name]["index"] for name in sorted(details, key=_number)]

    places = in_order(runner.get_input_details())
    results = in_order(runner.get_output_details())
    shown = np.empty_like(interpreter.tensor(results[0])())

    def run(*inputs: Tensor) -> list[Tensor]:
        for place, x in zip(places, inputs, strict=True):
            interpreter.set_tensor(place, x.permute(0, 2, 3, 1).contiguous().numpy())
        interpreter.invoke()
        image, *state = results
        np.copyto(shown, interpreter.tensor(image)())
        found = [shown, *map(interpreter.get_tensor, state)]
        return [torch.from_numpy(x).permute(0, 3, 1, 2) for x in found]

    return run


def _number(name: str) -> int:
    return int(re.sub(r"\D", "", name))
