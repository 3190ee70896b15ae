"""The formats of exported files: how each is called, what writes it and what runs it."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stdpipe.cache.errors import UserError
from stdpipe.deploy.graph import Graph, Run
from stdpipe.models.table import Size


class Format(NamedTuple):
    """One format. `module` has write(program, files, use), load(files), and in NEEDS the packages
    that these take, the runtime last. `names` are those of its inputs and outputs, by number; None
    where they go by their order alone."""

    suffix: str
    module: str
    extra: str
    axes: str = "NCHW"
    names: tuple[str, str] | None = None


USE = "stdpipe"  # name of what says how to use a file, in those that hold it
FORMATS = {
    "onnx": Format(".onnx", "onnx_file", "export"),
    "torch": Format(".pt2", "torch_program", ""),
    "executorch": Format(".pte", "executorch", "executorch"),
    "litert": Format(".tflite", "litert", "litert", "NHWC", ("args_{}", "output_{}")),
    "ncnn": Format(".param", "ncnn", "ncnn", "CHW", ("in{}", "out{}")),
    "coreml": Format(".zip", "coreml", "coreml"),
}


def files_of(name: str, out: Path) -> list[Path]:
    """Return what a format writes: ncnn's graph has its weights in a second file."""
    return [out, out.with_suffix(".bin")] if name == "ncnn" else [out]


def tensors(name: str, graph: Graph, size: Size | None) -> dict[str, Any]:
    """Return a file's inputs and outputs in their order, by name and shape; free sides are None."""
    format_ = FORMATS[name]
    height, width = (size.height, size.width) if size else (4, 4)
    given = graph.inputs(height, width)
    count = len(graph.offsets)
    images = graph.offsets if graph.whole else (0,)
    scale = graph.net.scale
    made = [(1, 3, scale * height, scale * width)] * len(images) + given[count:]
    words = [
        [f"frame_{d}" for d in graph.offsets] + [f"state_{i}" for i in range(len(graph.state))],
        ([f"sr_{d}" for d in images] if graph.whole else ["sr"])
        + [f"next_state_{i}" for i in range(len(graph.state))],
    ]

    def listed(side: int, shapes: Sequence[tuple[int, ...]]) -> list[dict[str, Any]]:
        found = []
        for number, (word, shape) in enumerate(zip(words[side], shapes, strict=True)):
            sizes: dict[str, int | None] = dict(zip("NCHW", shape, strict=True))
            if not size:
                sizes |= dict.fromkeys("NHW")
            shown = [sizes[axis] for axis in format_.axes]
            own = format_.names[side].format(number) if format_.names else word
            found.append({"name": own, "is": word, "shape": shown})
        return found

    return {"axes": format_.axes, "inputs": listed(0, given), "outputs": listed(1, made)}


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
