"""The formats of exported files: how each is called, what writes it and what runs it."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stdpipe.cache.errors import UserError
from stdpipe.deploy.graph import Run


class Format(NamedTuple):
    """One format. `module` has write(program, files, use), load(files), and in NEEDS the packages
    that these take, the runtime last."""

    suffix: str
    module: str
    extra: str


USE = "stdpipe"  # name of what says how to use a file, in those that hold it
FORMATS = {
    "onnx": Format(".onnx", "onnx_file", "export"),
    "torch": Format(".pt2", "torch_program", ""),
    "executorch": Format(".pte", "executorch", "executorch"),
    "litert": Format(".tflite", "litert", "litert"),
    "ncnn": Format(".param", "ncnn", "ncnn"),
    "coreml": Format(".zip", "coreml", "coreml"),
}


def files_of(name: str, out: Path) -> list[Path]:
    """Return what a format writes: ncnn's graph has its weights in a second file."""
    return [out, out.with_suffix(".bin")] if name == "ncnn" else [out]


def use_beside(out: Path) -> Path:
    """Return the file of JSON beside an exported one."""
    return out.with_name(out.name + ".json")


def module_of(name: str) -> Any:
    """Return what writes and runs a format. Raises UserError where its packages are missing."""
    format_ = FORMATS[name]
    module = importlib.import_module(f"stdpipe.deploy.{format_.module}")
    missing = [package for package in module.NEEDS if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(
            f"--format {name} needs {' and '.join(missing)}: "
            f"pip install 'stdpipe[{format_.extra}]', or take another format"
        )
    return module


def runs_here(name: str) -> bool:
    """Tell whether this system has the runtime of a format: Core ML is macOS's alone."""
    return name != "coreml" or sys.platform == "darwin"


def format_of(file: Path) -> str:
    """Return the format of a file by its name. Raises UserError for no format's."""
    for name, format_ in FORMATS.items():
        if file.suffix == format_.suffix:
            return name
    known = ", ".join(format_.suffix for format_ in FORMATS.values())
    raise UserError(f"{file} is no exported file (known: {known})")


def load(name: str, files: Sequence[Path]) -> Run:
    """Open a file in its own runtime, on one thread of the CPU."""
    run: Run = module_of(name).load(files)
    return run
