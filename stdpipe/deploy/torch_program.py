"""Write and run files of torch.export (.pt2)."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from stdpipe.deploy.formats import USE
from stdpipe.deploy.graph import Run

NEEDS = ("torch",)


def write(
    program: ExportedProgram, files: Sequence[Path], use: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the program."""
    program = copy.copy(program)
    program._example_inputs = None  # as large as the frames: several MB
    torch.export.save(program, files[0], extra_files={USE: json.dumps(use)})
    return {}


def load(files: Sequence[Path]) -> Run:
    """Open a file in torch."""
    module = torch.export.load(files[0]).module()

    def run(*inputs: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(module(*inputs))

    return run
