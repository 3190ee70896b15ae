"""Files of ncnn, written by pnnx: NAME.ncnn.param has the graph, NAME.ncnn.bin beside it the weights.

ncnn has no batch: its maps are (C, h, w).
"""

import contextlib
import importlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from stdpipe.deploy.graph import Plain, Run

NEEDS = ("pnnx", "ncnn")
PARAM, BIN = ".ncnn.param", ".ncnn.bin"


def write(program: ExportedProgram, path: Path) -> dict[str, Any]:
    """Write the graph to `path`, which ends in .param, and the weights beside it."""
    pnnx: Any = importlib.import_module("pnnx")
    args, _ = program.example_inputs
    with tempfile.TemporaryDirectory() as folder, _inside(folder):
        with contextlib.redirect_stdout(io.StringIO()):
            pnnx.export(Plain(program), "net.pt", args, fp16=False)
        param, weights = Path(folder, "net.ncnn.param"), Path(folder, "net.ncnn.bin")
        if not (param.is_file() and weights.is_file()):
            raise RuntimeError("pnnx wrote no ncnn files")
        shutil.copyfile(weights, beside(path))
        shutil.copyfile(param, path)
    return {}


def beside(path: Path) -> Path:
    """Return the file of weights that belongs to a file of a graph."""
    return path.with_name(path.name.removesuffix(".param") + ".bin")


def load(path: Path, threads: int = 1) -> Run:
    """Open both files in ncnn, in float32."""
    ncnn: Any = importlib.import_module("ncnn")
    net = ncnn.Net()
    net.opt.num_threads = threads
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{name}", False)
    assert net.load_param(str(path)) == 0
    assert net.load_model(str(beside(path))) == 0
    outputs = sum(name.startswith("out") for name in net.output_names())

    def run(*inputs: Tensor) -> list[Tensor]:
        extractor = net.create_extractor()
        kept = [ncnn.Mat(np.ascontiguousarray(x[0].numpy())) for x in inputs]
        for number, x in enumerate(kept):
            extractor.input(f"in{number}", x)
        found = [extractor.extract(f"out{number}")[1] for number in range(outputs)]
        return [torch.from_numpy(np.array(x))[None] for x in found]

    return run


@contextlib.contextmanager
def _inside(folder: str) -> Iterator[None]:
    """Work in a folder: pnnx writes a dozen files beside its own."""
    here = os.getcwd()  # noqa: PTH109
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(here)
