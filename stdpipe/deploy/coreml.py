"""Write packages of Core ML, folders and so zipped, and run them where it exists: on macOS."""

import importlib
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from stdpipe.cache.errors import UserError
from stdpipe.deploy.formats import runs_here
from stdpipe.deploy.graph import Run

NEEDS = ("coremltools",)


def write(
    program: ExportedProgram, files: Sequence[Path], use: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the program for iOS 16 and later; "fp16" computes in half precision."""
    coremltools: Any = importlib.import_module("coremltools")
    precision = coremltools.precision
    model = coremltools.convert(
        program.run_decompositions({}),
        convert_to="mlprogram",
        minimum_deployment_target=coremltools.target.iOS16,
        compute_precision=precision.FLOAT16 if use["precision"] == "fp16" else precision.FLOAT32,
    )
    with tempfile.TemporaryDirectory() as aside:
        package = Path(aside) / "student.mlpackage"
        model.save(str(package))
        with zipfile.ZipFile(files[0], "w") as packed:
            for file in sorted(package.rglob("*")):
                packed.write(file, file.relative_to(aside))
    return {}


def load(files: Sequence[Path]) -> Run:
    """Open a file in Core ML, on the CPU. Raises UserError where there is none."""
    if not runs_here("coreml"):
        raise UserError("Core ML runs on macOS alone: run its file there, or take another format")
    coremltools: Any = importlib.import_module("coremltools")
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(files[0]) as packed:
            packed.extractall(folder)
        (package,) = Path(folder).glob("*.mlpackage")
        units = coremltools.ComputeUnit.CPU_ONLY
        model = coremltools.models.MLModel(str(package), compute_units=units)
    told = model.get_spec().description
    given, made = ([x.name for x in each] for each in (told.input, told.output))

    def run(*inputs: Tensor) -> list[Tensor]:
        found = model.predict({n: x.numpy() for n, x in zip(given, inputs, strict=True)})
        return [torch.from_numpy(found[name]) for name in made]

    return run
