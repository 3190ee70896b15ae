"""Writes a network as a file that runs without stdpipe: in ONNX, torch, ExecuTorch, LiteRT, ncnn or
Core ML.

The graph takes one frame a call, with inputs of four dimensions; work that windows share is kept in
a state (deploy/graph.py). It has one size, which is what phones run, or in ONNX and torch any.

setup -> trace -> write beside `out` -> play clips in the file's own runtime and compare with the
network -> measure what it costs in dB, if asked -> rename.
How to use a file is told by JSON beside it, and in its metadata where it has any.
"""

import importlib.metadata
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.export import ExportedProgram

from stdpipe.cache.errors import UserError
from stdpipe.cache.files import atomic_file
from stdpipe.cache.seal import seal
from stdpipe.data.frames import Clip
from stdpipe.deploy import cost
from stdpipe.deploy.drift import warn_of_drift
from stdpipe.deploy.formats import FORMATS, files_of, module_of, runs_here, tensors, use_beside
from stdpipe.deploy.graph import Graph, InHalf, Run, play, trace, trace_any
from stdpipe.deploy.quiet import quiet
from stdpipe.models.base import Network, check_sees_lr, count_parameters
from stdpipe.models.causal import CausalNetwork
from stdpipe.models.checkpoints import file_sha256, load_network
from stdpipe.models.fold import folded
from stdpipe.models.table import Size
from stdpipe.suggest import refuse_unknown

FREE = ("onnx", "torch")  # formats that hold a graph of any size
HOLDS = {
    "fp32": tuple(FORMATS),
    "fp16": tuple(FORMATS),
    "int8": ("onnx", "executorch", "litert"),  # with a quantiser from the package index
}
HALF = ("onnx", "torch", "executorch")  # those that take a graph in half precision
CHECKED = 4  # frames of the clips that a file is played over
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2}  # largest difference, for images in [0, 1]
MOST_LOST = 3.0  # dB that a file in eight bits may lose where it was calibrated
HOW = (
    "a call takes the frames at these offsets from the one that sr shows, RGB in [0, 1]; beyond a "
    "clip's ends its end frame is repeated; then the state, zero at first, and each next state in "
    "its order; the calls of `lead` come before the first frame, and their images are dropped"
)
HOW_FREE = "; the sides of the state are the frames', rounded up to multiples of `multiple`"
HOW_WHOLE = "a call takes the frames of a clip, RGB in [0, 1], and gives the image of each"
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Export:
    """One call of export: its network, its file and its format."""

    out: Path
    model: str | None = None
    """The network's name; None takes it from the weights file."""
    weights: str | None = None
    format: str = "onnx"
    size: Size | None = None
    """The only LR size of the file's frames; None: any."""
    precision: str = "fp32"
    """"fp16" computes in half precision; in ncnn and LiteRT it halves the weights alone. "int8"
    quantises the convolutions, weights by channel."""
    calibrate: Path | None = None
    """A data set whose training clips, no larger than the size, say how to quantise."""
    measure: Path | None = None
    """A data set on whose test clips the file and the network are compared; with `calibrate`, it is
    that one unless given."""

    def __post_init__(self) -> None:
        refuse_unknown([self.format], FORMATS, "unknown format")
        refuse_unknown([self.precision], HOLDS, "unknown precision")
        suffix = FORMATS[self.format].suffix
        if self.out.suffix != suffix:
            raise UserError(
                f"--format {self.format} writes a {suffix} file, but --out is {self.out}; change "
                "one of them"
            )
        if self.out.is_dir():
            raise UserError(f"{self.out} is a folder: name a file")
        if self.measure and not runs_here(self.format):
            raise UserError(f"no {self.format} runs on this system: leave --measure out")
        if not self.size and self.format not in FREE:
            raise UserError(f"a file of {self.format} has one frame size: give --size, say 320x180")
        if (self.precision != "fp32" or self.measure) and not self.size:
            raise UserError("--precision and --measure are for graphs of one size: give --size")
        if self.format not in HOLDS[self.precision]:
            formats = ", ".join(HOLDS[self.precision])
            raise UserError(
                f"--format {self.format} has no {self.precision}: take {formats}, or another "
                "--precision"
            )
        if (self.precision == "int8") != bool(self.calibrate):
            raise UserError(
                "int8 is calibrated on clips: give --precision int8 with --calibrate DATA"
            )


def export(job: Export) -> dict[str, Any]:
    """Write the file; return its facts, ready for JSON: bytes, opset, largest difference found.

    Raises UserError, and leaves nothing at `out`, where the network cannot be traced or written, or
    the file gives other images than the network.
    """
    writer = module_of(job.format)
    net, facts = load_network(job.model, job.weights)
    check_sees_lr(net, "its file would be of no use")
    _check_begin(net)
    net = folded(net.eval())
    drift = warn_of_drift(net)
    graph = Graph(net, any_size=not job.size)
    use = how_to_use(graph, job) | tensors(job.format, graph, job.size)
    name = facts["network"]
    kept = {"model": name, "weights_sha256": facts["sha256"], "degradation": facts["degradation"]}
    footage = _footage(job, net)
    with _told(f"{name} cannot be traced for {_sizes(job.size)}"):
        program = _trace(graph, job)
    with ExitStack() as stack:
        files = files_of(job.format, job.out)
        asides = [stack.enter_context(atomic_file(file)) for file in files]
        beside = stack.enter_context(atomic_file(use_beside(job.out)))  # the graph is named last
        other = " (try --format torch)" if job.format == "onnx" else ""
        with _told(f"{name} has no form in {job.format}{other}"):
            if job.size and footage and footage.calibrating:
                # rounding would hide what is wrong with the graph
                compare(graph, program.module(), job.size, TOLERANCES["fp32"])
                calls = cost.calls(graph, footage.calibrating, footage.degradation, job.size)
                written = writer.write_int8(program, calls, asides, use)
            else:
                written = writer.write(program, asides, use)
        checked, costs = None, []
        if runs_here(job.format):
            with _told(f"the file of {name} cannot be run"):
                run = writer.load(asides)
                largest = compare(graph, run, job.size, TOLERANCES.get(job.precision))
            package = writer.NEEDS[-1]
            by = f"{package} {importlib.metadata.version(package)}"
            checked = {"by": by, **largest}
            costs = _costs(graph, run, job, job.size, footage) if job.size and footage else []
        else:
            LOG.warning("stdpipe: not checked, since no %s runs on this system", job.format)
        sums = {file.name: file_sha256(aside) for file, aside in zip(files, asides, strict=True)}
        told = {**kept, "format": job.format, **use, **written, "cost": costs, "sha256": sums}
        beside.write_bytes(seal(told, indent=1))
    return {
        "opset": None,
        **told,
        "weights": facts["weights"],
        "out": str(job.out),
        "parameters": count_parameters(net),
        "drift": drift,
        "bytes": sum(file.stat().st_size for file in files),
        "checked": checked,
    }


def how_to_use(graph: Graph, job: Export) -> dict[str, Any]:
    """Return what whoever runs the file must know."""
    height, width = (job.size.height, job.size.width) if job.size else (8, 8)
    states = graph.inputs(height, width)[len(graph.offsets) :]
    free = not job.size and graph.state
    return {
        "kind": "clip" if graph.whole else "stream" if graph.state else "frames",
        "size": list(job.size) if job.size else None,
        "scale": graph.net.scale,
        "precision": job.precision,
        "frames": list(graph.offsets),
        "state": [list(shape[1:]) if job.size else [shape[1], None, None] for shape in states],
        "multiple": graph.multiple,
        "lead": graph.lead,
        "use": HOW_WHOLE if graph.whole else HOW + HOW_FREE * bool(free),
    }


def _sizes(size: Size | None) -> str:
    return f"frames of {size.width}x{size.height}" if size else "all frame sizes"


class Footage(NamedTuple):
    """The clips that say how to quantise and what a file loses, and how their LR is made."""

    degradation: str
    calibrating: list[Clip]
    held_out: list[Clip]


def _footage(job: Export, net: Network) -> Footage | None:
    """Find the clips before any work; None where none are asked for.

    Raises UserError for weights that do not say their degradation, and where no clip is left to
    measure on; FileNotFoundError for no such data.
    """
    measured = job.measure or job.calibrate
    if not measured:
        return None
    how = cost.degradation_of(net, "--calibrate" if job.calibrate else "--measure")
    calibrating = cost.calibration_clips(job.calibrate, how) if job.calibrate else []
    held_out = cost.held_out_clips(measured, how, calibrating)
    if job.measure and not held_out:
        raise UserError(f"--measure {measured} has no clip that is not calibrated on: give others")
    if job.size:
        cost.check_fit([*calibrating, *held_out], job.size, net.factor)
    if not held_out:
        LOG.warning("stdpipe: no clip of %s is held out: --measure DATA names some", measured)
    return Footage(how, calibrating, held_out)


def _costs(
    graph: Graph, run: Run, job: Export, size: Size, footage: Footage
) -> list[dict[str, Any]]:
    """Return what the file loses on the clips it was calibrated on, and on others.

    Raises UserError where it loses so much on the former that quantisation has failed.
    """
    found = []
    for clips, data, calibrated in (
        (footage.calibrating, job.calibrate, True),
        (footage.held_out, job.measure or job.calibrate, False),
    ):
        if not clips:
            continue
        each = cost.measure(graph, run, clips, footage.degradation, size, str(data))
        if calibrated and not each.lost <= MOST_LOST:  # nan is not
            raise UserError(
                f"in eight bits it loses {each.lost:.1f} dB on the clips that it was calibrated "
                "on, so it is not written: take fp16 or fp32"
            )
        found.append({**each._asdict(), "lost": each.lost, "calibrated": calibrated})
    return found


def _trace(graph: Graph, job: Export) -> ExportedProgram:
    if not job.size:
        return trace_any(graph)
    halved = job.precision == "fp16" and job.format in HALF
    return trace(InHalf(graph).eval() if halved else graph, job.size.height, job.size.width)


@torch.no_grad()
def compare(graph: Graph, run: Run, size: Size | None, tolerance: float | None) -> dict[str, Any]:
    """Play clips and return the largest difference from the network's own images of them.

    Without a size there are three, one a multiple of the network's and two not, each in another
    batch. Raises UserError where the difference is larger than the tolerance, if there is one.
    """
    unit = max(graph.multiple, 4)
    free = [
        (2, 4 * unit, 6 * unit),
        (3, 3 * unit + 1, 5 * unit - 1),
        (1, 7 * unit + 2, 4 * unit + 3),
    ]
    shapes = [(1, size.height, size.width)] if size else free
    draw = torch.Generator().manual_seed(1)
    count = len(graph.offsets) if graph.whole else CHECKED
    largest = 0.0
    for batch, height, width in shapes:
        clip = torch.rand(batch, count, 3, height, width, generator=draw)
        expected = graph.net.forward_clip(clip)
        for mine, theirs in zip(play(graph, run, clip), expected.unbind(1), strict=True):
            difference = (mine - theirs).abs().nan_to_num(float("inf")).max()
            largest = max(largest, float(difference))
    if tolerance is not None and largest > tolerance:
        raise UserError(
            f"the exported network differs from torch's by {largest:g}, more than {tolerance:g}, "
            "so it is not written; please report the network"
        )
    sizes = [[width, height] for _, height, width in shapes]
    return {"frames": count, "sizes": sizes, "largest_difference": largest}


def _check_begin(net: Network) -> None:
    """Raise UserError for a state that a file's user, who begins with zeros, would not know."""
    if isinstance(net, CausalNetwork) and any(x.any() for x in net.begin(torch.rand(1, 3, 8, 8))):
        raise UserError(
            f"{type(net).__name__}'s begin is not zero, and an exported step has no begin: let "
            "step make what it needs of a state of zeros"
        )


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Drop what converters print; raise UserError with the first line of whatever they raise."""
    try:
        with quiet():
            yield
    except (OSError, UserError):  # a full disk, or told already
        raise
    except Exception as error:
        root: BaseException = error
        while root.__cause__:
            root = root.__cause__
        first = str(root).strip().partition("\n")[0]
        raise UserError(f"{what}: {type(root).__name__}: {first}") from error
