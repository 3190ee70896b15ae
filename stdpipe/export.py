"""Writes a network as a file that runs without stdpipe: in ONNX, torch, ExecuTorch, LiteRT or ncnn.

With a size, the graph is what phones run: one frame a call, inputs of four dimensions, work that
windows share kept in a state (deploy/graph.py). It is written beside `out`, played over a clip in
its own runtime, compared with the network, and only then renamed.

Without one, ONNX and torch take a window (B, 2k+1, 3, h, w), float32 RGB in [0, 1] of any size, and
give sr (B, 3, 4h, 4w), unclipped; it is compared at three sizes and batches.
How to use a file is told by JSON in its metadata, or beside it.
"""

import importlib.metadata
import importlib.util
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from stdpipe.cache.errors import UserError
from stdpipe.cache.files import atomic_file
from stdpipe.deploy.drift import warn_of_drift
from stdpipe.deploy.formats import FORMATS, USE, files_of, load, module_of, use_beside
from stdpipe.deploy.graph import Graph, InHalf, Run, play, trace as trace_frames
from stdpipe.deploy.quiet import quiet
from stdpipe.evaluate import evaluate
from stdpipe.evaluation.job import Evaluation
from stdpipe.models.base import Network, check_sees_lr, count_parameters
from stdpipe.models.causal import CausalNetwork
from stdpipe.models.checkpoints import load_network
from stdpipe.models.fold import folded
from stdpipe.models.given import ClipFunction
from stdpipe.models.table import Size

FREE = ("onnx", "torch")  # formats that hold a graph of any size
CHECKED = 4  # frames of the clip that a graph of one size is played over
TOLERANCE = 1e-4  # largest difference from the network, for images in [0, 1]
TOLERANCES = {"fp32": TOLERANCE, "fp16": 2e-2}  # of graphs of one size
FREE_AXES = {0: "batch", 3: "height", 4: "width"}
ENDS = (
    "frames are offsets from the one that sr shows; beyond a clip's ends its end frame is repeated"
)
HOW = {
    "window": ENDS,
    "clip": "frames are those of a clip, in order, and sr shows each",
    "causal": f"{ENDS}; state_i, of so many channels in the frames' size, is zero before the first "
    "frame, and next_state_i is its value for the next",
}
PLAYED = (
    "a call takes the frames at these offsets from the one that sr shows, RGB in [0, 1]; beyond a "
    "clip's ends its end frame is repeated; then the state, zero at first, and each next state in "
    "its order; the calls of `lead` come before the first frame, and their images are dropped"
)
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
    """The only LR size of the file's frames; None: any, for a graph of whole windows."""
    precision: str = "fp32"
    """"fp16" computes in half precision; in ncnn it halves the weights alone."""
    measure: Path | None = None
    """A data set on whose test clips, of that size, the file and the network are compared."""

    def __post_init__(self) -> None:
        suffix = FORMATS[self.format].suffix
        if self.out.suffix != suffix:
            raise UserError(
                f"--format {self.format} writes a {suffix} file, but --out is {self.out}; change "
                "one of them"
            )
        if not self.size and self.format not in FREE:
            raise UserError(f"a file of {self.format} has one frame size: give --size, say 320x180")
        if (self.precision != "fp32" or self.measure) and not self.size:
            raise UserError("--precision and --measure are for graphs of one size: give --size")
        if self.precision == "fp16" and self.format == "litert":
            raise UserError(
                "LiteRT's converter takes no graph in half precision: leave --precision, or take "
                "--format executorch, onnx or ncnn"
            )


def export(job: Export) -> dict[str, Any]:
    """Write the file; return its facts, ready for JSON: sizes, opset, largest difference found.

    Raises UserError, and leaves nothing at `out`, where the network cannot be traced or written, or
    the file gives other images than the network.
    """
    writer = module_of(job.format) if job.size else None
    if job.format == "onnx":
        _require_onnx()
    net, facts = load_network(job.model, job.weights)
    check_sees_lr(net, "its file would be of no use")
    _check_begin(net)
    net = folded(net.eval())
    drift = warn_of_drift(net)
    name, opset, use = facts["network"], None, how_to_use(net)
    of_all = {
        "model": name,
        "weights": facts["weights"],
        "weights_sha256": facts["sha256"],
        "degradation": facts["degradation"],
        "out": str(job.out),
        "format": job.format,
        "parameters": count_parameters(net),
        "drift": drift,
    }
    if job.size:
        return {**of_all, **_export_frames(job, job.size, net, of_all, writer)}
    with _told(f"{name} cannot be traced for all frame sizes"):
        program = trace(net)
    with atomic_file(job.out) as aside:
        if job.format == "onnx":
            with _told(f"{name} has no ONNX form (try --format torch)"):
                opset = write_onnx(program, net, aside, use)
        else:
            torch.export.save(program, aside, extra_files={USE: json.dumps(use)})
        with _told(f"the file of {name} cannot be run"):
            run = None if _is_unchecked(job.format) else load(job.format, [aside])
            checked = _check(net, run, job.format)
        use_beside(job.out).unlink(missing_ok=True)  # it would be of an earlier file of one size
    if not checked:
        LOG.warning("stdpipe: not checked, since onnxruntime is not installed")
    told = {"opset": opset, "bytes": job.out.stat().st_size, "size": None}
    return {**of_all, **told, **use, "checked": checked}


def _export_frames(
    job: Export, size: Size, net: Network, facts: Mapping[str, Any], writer: Any
) -> dict[str, Any]:
    """Write a graph of one frame a call, and what says how to use it; return the facts of both."""
    graph = Graph(net)
    shapes = graph.inputs(size.height, size.width)
    use = {
        "kind": "stream" if graph.state else "frames",
        "size": list(size),
        "precision": job.precision,
        "frames": list(graph.offsets),
        "state": [list(shape[1:]) for shape in shapes[len(graph.offsets) :]],
        "lead": graph.lead,
        "use": PLAYED,
    }
    kept = {name: facts[name] for name in ("model", "weights_sha256", "degradation")}
    name = facts["model"]
    with _told(f"{name} cannot be traced for frames of {size.width}x{size.height}"):
        halved = job.precision == "fp16" and job.format != "ncnn"
        traced = InHalf(graph).eval() if halved else graph
        program = trace_frames(traced, size.height, size.width)
    with ExitStack() as stack:
        files = files_of(job.format, job.out)
        asides = [stack.enter_context(atomic_file(file)) for file in files]
        beside = stack.enter_context(atomic_file(use_beside(job.out)))  # the graph is named last
        with _told(f"{name} has no form in {job.format}"):
            written = writer.write(program, asides, use)
        with _told(f"the file of {name} cannot be run"):
            run = writer.load(asides)
            largest = _compare_frames(graph, run, size, TOLERANCES[job.precision])
        cost = _cost(job.measure, size, graph, run) if job.measure else {}
        told = {**kept, "format": job.format, **use, **written}
        beside.write_text(json.dumps(told, indent=1) + "\n")
    checked = {"by": _runtime(job.format), "frames": CHECKED, "largest_difference": largest}
    written = {"opset": None, **written, "bytes": sum(file.stat().st_size for file in files)}
    return {**use, **written, "checked": checked, **cost}


def _cost(data: Path, size: Size, graph: Graph, run: Run) -> dict[str, Any]:
    """Return what the file loses against the network in dB, on a data set's test clips.

    Raises UserError for clips of another size, and for weights that do not say their degradation.
    """
    facts = graph.net.facts
    if not (facts["degradation"] or str(facts["weights"]).startswith("random:")):
        raise UserError(
            f"{facts['weights']} does not say which degradation it was trained for, so that "
            "--measure cannot make its LR: leave it out"
        )

    def played(lr: Tensor) -> Tensor:
        found = Size(lr.shape[-1], lr.shape[-2])
        if found != size:
            raise UserError(
                f"the clips of {data} have LR of {found.width}x{found.height}, and the file "
                f"is for {size.width}x{size.height}: export it at their size to measure it"
            )
        return torch.stack([torch.cat(list(play(graph, run, clip))) for clip in lr])

    how, psnr = facts["degradation"] or "bd", {}
    for name, network in (("network", graph.net), ("file", ClipFunction(played))):
        job = Evaluation(data, network=network, degradation=how, device="cpu")  # as the file runs
        found = evaluate(job)
        psnr[name] = found["average"]["psnr_y"]
    return {"psnr": psnr, "lost_db": psnr["network"] - psnr["file"]}


@torch.no_grad()
def _compare_frames(graph: Graph, run: Run, size: Size, tolerance: float) -> float:
    """Play a clip and return the largest difference from the network's own images of it.

    Raises UserError where it is too large.
    """
    draw = torch.Generator().manual_seed(1)
    clip = torch.rand(CHECKED, 3, size.height, size.width, generator=draw)
    expected = graph.net.forward_clip(clip[None])[0]
    largest = 0.0
    for mine, theirs in zip(play(graph, run, clip), expected, strict=True):
        largest = max(largest, float((mine[0] - theirs).abs().nan_to_num(float("inf")).max()))
    if largest > tolerance:
        raise UserError(
            f"the exported network differs from torch's by {largest:g}, more than {tolerance:g}, "
            "so it is not written; please report the network"
        )
    return largest


def how_to_use(net: Network) -> dict[str, Any]:
    """Return what whoever runs the file must know; the file holds it, too."""
    window, *state = (shape[1] for shape in net.input_shapes(8, 8))
    before = {"window": window // 2, "clip": 0, "causal": 1}[net.kind]
    frames = [place - before for place in range(window)]
    how = HOW[net.kind]
    return {"kind": net.kind, "window": window, "frames": frames, "state": state, "use": how}


def _check_begin(net: Network) -> None:
    """Raise UserError for a state that a file's user, who begins with zeros, would not know."""
    if isinstance(net, CausalNetwork) and any(x.any() for x in net.begin(torch.rand(1, 3, 8, 8))):
        raise UserError(
            f"{type(net).__name__}'s begin is not zero, and an exported step has no begin: let "
            "step make what it needs of a state of zeros"
        )


class AnySize(nn.Module):
    """A network whose padding and cropping are look-ups. torch.export would check whether slices
    and pads do nothing at the traced size, and bind the graph to the answer."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net

    def forward(self, window: Tensor, *state: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, 2k+1, 3, h, w) -> (B, 3, H, W); a causal network's state follows both."""
        if isinstance(self.net, CausalNetwork):  # it takes any size, and so does its state
            found: tuple[Tensor, ...] = self.net(window, *state)
            return found
        padded = window
        for axis in (-2, -1):
            size = window.shape[axis]
            full = (size + self.net.multiple - 1) // self.net.multiple * self.net.multiple
            nearest = torch.arange(full, device=window.device).clamp(max=size - 1)
            padded = padded.index_select(axis, nearest)
        sr: Tensor = self.net(padded)
        for axis in (-2, -1):
            wanted = torch.arange(window.shape[axis] * self.net.scale, device=window.device)
            sr = sr.index_select(axis, wanted)
        return sr


def trace(net: Network) -> ExportedProgram:
    """Return a program for frames of any size larger than `multiple`, in any batch."""
    inputs = _inputs(net, 5 * net.multiple + 1, 6 * net.multiple + 3, batch=2)
    least = {"batch": 1, "height": net.multiple + 1, "width": net.multiple + 1}
    dims = {name: Dim(name, min=smallest) for name, smallest in least.items()}
    free = [{axis: dims[name] for axis, name in axes.items()} for axes in _free_axes(net)]
    with torch.no_grad():
        net(*inputs)  # caches its constants, where a trace would cache symbols
        return torch.export.export(
            AnySize(net).eval(),
            inputs,
            dynamic_shapes=_named(free),
            # conditions that it cannot prove for all sizes are checked when the program runs
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def write_onnx(program: ExportedProgram, net: Network, path: Path, use: dict[str, Any]) -> int:
    """Write one file, weights and how to use it inside; return the opset.

    Its input is "window" and its output "sr"; a causal network's "state_0", ... and "next_state_0",
    ... follow, to be given back with the next frame.
    """
    free, state = _free_axes(net), range(len(_inputs(net, 8, 8, 1)) - 1)
    written = torch.onnx.export(
        program,
        dynamo=True,
        input_names=["window", *(f"state_{i}" for i in state)],
        output_names=["sr", *(f"next_state_{i}" for i in state)],
        dynamic_shapes=_named(free),  # their names
        verbose=False,
    )
    assert written is not None
    written.model.metadata_props[USE] = json.dumps(use)
    written.save(path)
    return int(written.model.opset_imports[""])


def _check(
    net: Network, run: Callable[..., Sequence[Tensor]] | None, kind: str
) -> dict[str, Any] | None:
    """Compare at three sizes, one a multiple and two not; return None without onnxruntime.

    Raises UserError where the images differ.
    """
    if run is None:
        return None
    unit = max(net.multiple, 4)
    sizes = [(4 * unit, 6 * unit), (3 * unit + 1, 5 * unit - 1), (7 * unit + 2, 4 * unit + 3)]
    batches = [2, 3, 1]
    with torch.no_grad():
        differences = []
        for size, n in zip(sizes, batches, strict=True):
            inputs = _inputs(net, *size, n)
            pairs = zip(_outputs(run(*inputs)), _outputs(net(*inputs)), strict=True)
            differences.append(max(float((one - other).abs().max()) for one, other in pairs))
    if not all(difference <= TOLERANCE for difference in differences):  # nan is not
        raise UserError(
            f"the exported network differs from torch's by {differences} at {sizes}, more than "
            f"{TOLERANCE:g}, so it is not written; please report the network"
        )
    return {
        "by": _runtime(kind),
        "sizes": [list(size) for size in sizes],
        "batches": batches,
        "largest_difference": max(differences),
    }


def _inputs(net: Network, height: int, width: int, batch: int) -> tuple[Tensor, ...]:
    """Return random inputs of the network's `forward`."""
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.rand(x, generator=draw) for x in net.input_shapes(height, width, batch))


def _free_axes(net: Network) -> list[dict[int, str]]:
    """Return the names of the axes of free size, for each input."""
    state = {0: "batch", 2: "height", 3: "width"}
    return [FREE_AXES, *([state] * (len(_inputs(net, 8, 8, 1)) - 1))]


def _named(free: Sequence[Any]) -> dict[str, Any]:
    """Return what is said of each input, by the arguments of AnySize.forward."""
    return {"window": free[0], **({"state": tuple(free[1:])} if free[1:] else {})}


def _outputs(found: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [found] if isinstance(found, Tensor) else found


def _is_unchecked(kind: str) -> bool:
    """Tell whether onnxruntime, which runs files of onnx, is missing: a free size does without."""
    return kind == "onnx" and importlib.util.find_spec("onnxruntime") is None


def _runtime(kind: str) -> str:
    """Return the package that runs a format's files, with its version."""
    package = module_of(kind).NEEDS[-1]
    return f"{package} {importlib.metadata.version(package)}"


def _require_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        instead = "pip install 'stdpipe[export]', or take --format torch"
        raise UserError(f"ONNX export needs {' and '.join(missing)}: {instead}")


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
