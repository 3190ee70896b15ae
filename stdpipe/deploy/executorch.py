"""Write and run files of ExecuTorch (.pte); what XNNPACK takes of a graph is delegated to it."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from stdpipe.deploy.graph import Run

NEEDS = ("executorch",)


def write(program: ExportedProgram, files: Sequence[Path], _use: object) -> dict[str, Any]:
    """Write the program; return how many of its operators the delegate took."""
    exir: Any = importlib.import_module("executorch.exir")
    xnnpack: Any = importlib.import_module(
        "executorch.backends.xnnpack.partition.xnnpack_partitioner"
    )
    debug: Any = importlib.import_module("executorch.devtools.backend_debug")
    edge = exir.to_edge_transform_and_lower(program, partitioner=[xnnpack.XnnpackPartitioner()])
    info = debug.get_delegation_info(edge.exported_program().graph_module)
    files[0].write_bytes(edge.to_executorch().buffer)
    taken, left = info.num_delegated_nodes, info.num_non_delegated_nodes
    return {"delegate": "XNNPACK", "delegated": taken, "operators": taken + left}


def write_int8(
    program: ExportedProgram,
    calls: Sequence[Sequence[Tensor]],
    files: Sequence[Path],
    use: object,
) -> dict[str, Any]:
    """Write the program with its convolutions in eight bits, by XNNPACK's own quantiser."""
    quantizer: Any = importlib.import_module(
        "executorch.backends.xnnpack.quantizer.xnnpack_quantizer"
    )
    pt2e: Any = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
    symmetric = quantizer.get_symmetric_quantization_config(is_per_channel=True)
    convolutions = quantizer.XNNPACKQuantizer().set_operator_type(
        torch.ops.aten.conv2d.default, symmetric
    )
    watched = pt2e.prepare_pt2e(program.module(), convolutions)
    for call in calls:
        watched(*call)
    quantised = pt2e.convert_pt2e(watched)
    _set_apart(quantised)
    return write(torch.export.export(quantised, tuple(calls[0])), files, use)


def _set_apart(quantised: torch.fx.GraphModule) -> None:
    """Multiply by one an output that is a convolution's own, as RLSP's last image is: XNNPACK's
    passes lose what they know of it where the graph goes on from it."""
    for node in quantised.graph.find_nodes(op="output"):
        made = list(node.args[0])
        for place, one in enumerate(made):
            if "dequantize" in str(one.target) and len(one.users) > 1:
                with quantised.graph.inserting_before(node):
                    args = (one, 1.0)
                    made[place] = quantised.graph.call_function(torch.ops.aten.mul.Tensor, args)
        node.args = (type(node.args[0])(made),)
    quantised.recompile()


def load(files: Sequence[Path]) -> Run:
    """Open a file in ExecuTorch's own runtime, on one thread of this process."""
    bindings: Any = importlib.import_module("executorch.extension.pybindings.portable_lib")
    bindings._unsafe_reset_threadpool(1)  # nothing else sets it
    runtime: Any = importlib.import_module("executorch.runtime")
    program = runtime.Runtime.get().load_program(str(files[0]))
    method = program.load_method("forward")

    def run(*inputs: Tensor, _kept: Any = program) -> list[Tensor]:
        # its outputs lie in memory of the program, which setting the next inputs may overwrite
        image, *state = method.execute([x.contiguous() for x in inputs])
        return [image, *(x.clone() for x in state)]

    return run
