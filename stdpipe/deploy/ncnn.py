"""Write files of ncnn, by pnnx, and run them: NAME.param has the graph, NAME.bin the weights.

ncnn has no batch: its maps are (C, h, w).
"""

import importlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from stdpipe.cache.errors import UserError
from stdpipe.deploy.graph import Plain, Run

NEEDS = ("pnnx", "ncnn")


def write(
    program: ExportedProgram, files: Sequence[Path], use: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the graph to the first file, and the weights to the second."""
    pnnx: Any = importlib.import_module("pnnx")
    args, _ = program.example_inputs
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        traced = torch.jit.trace(Plain(program), args)
        traced.save(str(folder / "net.pt"))
        shapes = ",".join(f"[{','.join(map(str, x.shape))}]f32" for x in args)
        command = [
            pnnx.EXEC_PATH,
            "net.pt",
            f"inputshape={shapes}",
            f"fp16={int(use.get('precision') == 'fp16')}",
        ]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        made = [folder / "net.ncnn.param", folder / "net.ncnn.bin"]
        if not all(file.is_file() for file in made):
            raise UserError(f"pnnx makes no file of it: {done.stderr.strip()[-200:]}")
        layers = {line.split()[0] for line in made[0].read_text().splitlines()[2:] if line}
        if unknown := sorted(
            layer for layer in layers if re.search(r"[.:]", layer)
        ):  # torch's own names
            raise UserError(f"ncnn has no layer for {', '.join(unknown)}: take another format")
        for file, target in zip(made, files, strict=True):
            shutil.copyfile(file, target)
    return {}


def load(files: Sequence[Path]) -> Run:
    """Open both files in ncnn, in float32."""
    ncnn: Any = importlib.import_module("ncnn")
    net = ncnn.Net()
    net.opt.num_threads = 1
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{name}", False)
    graph, weights = map(str, files)
    if net.load_param(graph) or net.load_model(weights):
        raise UserError(f"ncnn cannot read {graph} and {weights}: export it again")
    outputs = sum(name.startswith("out") for name in net.output_names())

    def run(*inputs: Tensor) -> list[Tensor]:
        extractor = net.create_extractor()
        kept = [ncnn.Mat(np.ascontiguousarray(x[0].numpy())) for x in inputs]
        for number, x in enumerate(kept):
            extractor.input(f"in{number}", x)
        found = [extractor.extract(f"out{number}")[1] for number in range(outputs)]
        return [torch.from_numpy(np.array(x))[None] for x in found]

    return run
