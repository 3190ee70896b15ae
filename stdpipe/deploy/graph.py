"""The graph of a network that runtimes run: one frame a call, maps of four dimensions alone.

Its inputs are frames (B, 3, h, w), by their distance from the one that is shown, then the state;
its outputs are sr (B, 3, H, W) and the next state. `play` says how a clip goes through it.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from stdpipe.cache.errors import UserError
from stdpipe.models.base import Network, pad_to_multiple
from stdpipe.models.causal import CausalNetwork
from stdpipe.models.fastdvdnet import FastDVDnet

# A call of a program. Its image may lie in the runtime's memory, which the next call overwrites.
Run = Callable[..., Sequence[Tensor]]
STREAM = (0, 1, 2, 3)  # frames that a step of FastDVDnet's stream sees
STREAM_LEAD = 4  # calls until its state is that of a clip's first frame


class Graph(nn.Module):
    """One call's work of a network.

    offsets: of the frames that it sees. lead: the calls before a clip's first frame, with its first
    frame repeated, whose images are dropped. state: the channels of each of its maps, which are
    zero in the first call. whole: whether it sees a clip of so many frames, and makes an image of
    each. any_size: whether padding and cropping are look-ups. torch.export would check whether
    slices and pads do nothing at the traced size, and bind the graph to the answer.
    """

    def __init__(self, net: Network, any_size: bool = False) -> None:
        super().__init__()
        self.net, self.multiple, self.any_size = net, net.multiple, any_size
        self.whole = net.kind == "clip"
        self.lead, self.state = 0, tuple(shape[1] for shape in net.input_shapes(8, 8)[1:])
        half = net.num_frame // 2
        self.offsets = tuple(range(net.num_frame) if self.whole else range(-half, half + 1))
        if isinstance(net, CausalNetwork):
            self.offsets = tuple(range(-1, 1 + net.num_ahead))
        elif isinstance(net, FastDVDnet):
            self.offsets, self.lead, self.state = STREAM, STREAM_LEAD, (3, 3, 3, 3)

    def inputs(self, height: int, width: int, batch: int = 1) -> list[tuple[int, ...]]:
        """Return the shapes of the frames and of the state, for one LR size."""
        frames = [(batch, 3, height, width)] * len(self.offsets)
        if isinstance(self.net, CausalNetwork):
            return frames + self.net.input_shapes(height, width, batch)[1:]
        padded = (height + -height % self.multiple, width + -width % self.multiple)
        return [*frames, *((batch, channels, *padded) for channels in self.state)]

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, h, w) for each frame, then the state -> sr (B, 3, H, W), then the next state."""
        count = len(self.offsets)
        frames, state = given[:count], given[count:]
        if isinstance(self.net, CausalNetwork):  # it takes any size
            found: tuple[Tensor, ...] = self.net(torch.stack(frames, 1), *state)
            return found
        padded = [self._padded(x) for x in frames]
        if isinstance(self.net, FastDVDnet):
            sr, *after = self.net.stream(padded, state)
            return self._cropped(sr, frames[0]), *after
        sr = self.net(torch.stack(padded, 1))
        images = sr.unbind(1) if self.whole else (sr,)
        return tuple(self._cropped(image, frames[0]) for image in images)

    def _padded(self, frame: Tensor) -> Tensor:
        if not self.any_size:
            return pad_to_multiple(frame, self.multiple)
        for axis in (-2, -1):
            size = frame.shape[axis]
            full = (size + self.multiple - 1) // self.multiple * self.multiple
            nearest = torch.arange(full, device=frame.device).clamp(max=size - 1)
            frame = frame.index_select(axis, nearest)
        return frame

    def _cropped(self, sr: Tensor, frame: Tensor) -> Tensor:
        height, width = (side * self.net.scale for side in frame.shape[-2:])
        if not self.any_size:
            return sr[..., :height, :width]
        for axis, wanted in ((-2, height), (-1, width)):
            sr = sr.index_select(axis, torch.arange(wanted, device=sr.device))
        return sr


class InHalf(nn.Module):
    """A graph that computes in half precision, with inputs and outputs in float32."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.half_graph = copy.deepcopy(graph).half()
        self.inputs = graph.inputs
        self.offsets, self.lead, self.whole = graph.offsets, graph.lead, graph.whole

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """As Graph.forward."""
        return tuple(x.float() for x in self.half_graph(*(x.half() for x in given)))


AnyGraph = Graph | InHalf


def play(graph: AnyGraph, run: Run, clip: Tensor) -> Iterator[Tensor]:
    """Yield sr (B, 3, H, W) of each frame of a clip (B, T, 3, h, w) as a program with the graph
    does. A graph of whole clips takes a clip of its number of frames.

    run: the graph itself or what was exported of it.
    """
    batch, count, _, height, width = clip.shape
    if graph.whole:
        if count != len(graph.offsets):
            raise UserError(
                f"the network's file sees clips of {len(graph.offsets)} frames, and this one has "
                f"{count}: set the network's num_frame, or give other clips"
            )
        yield from (image.clone() for image in run(*clip.unbind(1)))
        return
    state = [
        torch.zeros(shape) for shape in graph.inputs(height, width, batch)[len(graph.offsets) :]
    ]
    for t in range(-graph.lead, count):
        frames = [clip[:, min(max(t + d, 0), count - 1)] for d in graph.offsets]
        sr, *state = run(*frames, *state)
        if t >= 0:
            yield sr.clone()


def trace(graph: AnyGraph, height: int, width: int) -> ExportedProgram:
    """Return a program for frames of one LR size and a batch of one, without maps of five
    dimensions where none is needed. Raises whatever torch.export does for a network that cannot be
    traced."""
    return _trace(graph, example(graph, height, width), None)


def trace_any(graph: Graph) -> ExportedProgram:
    """Return a program for frames of any size larger than `multiple`, in any batch. Errors are
    those of `trace`."""
    unit = graph.multiple
    return _trace(graph, example(graph, 5 * unit + 1, 6 * unit + 3, batch=2), free_axes(graph))


def _trace(graph: AnyGraph, given: tuple[Tensor, ...], free: object) -> ExportedProgram:
    with torch.no_grad():
        graph(*given)  # caches its constants, where a trace would cache symbols
        program = torch.export.export(
            graph.eval(),
            given,
            dynamic_shapes=free and {"given": free},
            # conditions that it cannot prove for all sizes are checked when the program runs
            prefer_deferred_runtime_asserts_over_guards=bool(free),
            strict=False,
        )
    simplify(program)
    return program


def free_axes(graph: Graph) -> tuple[dict[int, Dim], ...]:
    """Return the axes of free size of each input, by name; those of a padded state are its own."""
    batch, least = Dim("batch", min=1), graph.multiple + 1
    frame = {0: batch, 2: Dim("height", min=least), 3: Dim("width", min=least)}
    state = frame
    if graph.multiple > 1:
        padded = 2 * graph.multiple  # least, rounded up
        state = {0: batch, 2: Dim("state_height", min=padded), 3: Dim("state_width", min=padded)}
    return (frame,) * len(graph.offsets) + (state,) * len(graph.state)


class Plain(nn.Module):
    """A traced program as a module for converters, which set modes that it does not have."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.program = program.module()
        self.training = False

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = self.program(*given)
        return found

    def train(self, _mode: bool = True) -> "Plain":
        return self


def example(graph: AnyGraph, height: int, width: int, batch: int = 1) -> tuple[Tensor, ...]:
    """Return random inputs of a graph for one LR size: (B, 3, h, w) and (B, C, h, w)."""
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.rand(x, generator=draw) for x in graph.inputs(height, width, batch))


def simplify(program: ExportedProgram) -> None:
    """Take out what changes nothing: stacks of frames whose frames are taken out again, an image
    that is unshuffled as it was shuffled, and aliases. A mean over a square is taken as one over
    its rows and one over its columns, 18 values of 9x9 in place of 81."""
    module, aten = program.graph_module, torch.ops.aten
    changes_frames = any(_is_in_place(node.target) for node in module.graph.nodes)
    for node in list(module.graph.nodes):
        given: Any = node.args[0] if node.args else None
        if node.target == aten.alias.default:
            replace(program, node, given)
        elif node.target == aten.pixel_unshuffle.default:
            if given.target == aten.pixel_shuffle.default and given.args[1] == node.args[1]:
                replace(program, node, given.args[0])
        elif node.target == aten.avg_pool2d.default and _is_square(node.args):
            _, (side, *_), stride, (around, *_), *rest = node.args
            with module.graph.inserting_before(node):
                for size, pad in (((side, 1), (around, 0)), ((1, side), (0, around))):
                    shape = (list(size), stride, list(pad), *rest)
                    made = module.graph.call_function(node.target, (given, *shape))
                    made.meta["val"] = node.target(given.meta["val"], *shape)
                    given = made
            replace(program, node, given)
        elif node.target in (aten.select.int, aten.unbind.int) and len(node.args) > 1:
            if changes_frames:  # the stack is their copy
                continue
            if given.target != aten.stack.default or list(given.args[1:]) != [node.args[1]]:
                continue
            frames = given.args[0]
            if node.target == aten.select.int:
                replace(program, node, frames[node.args[2]])
            else:
                for item in list(node.users):  # getitem
                    replace(program, item, frames[item.args[1]])
    module.graph.eliminate_dead_code()
    module.recompile()


def replace(program: ExportedProgram, node: torch.fx.Node, other: torch.fx.Node) -> None:
    """Use another value in a node's place, as an output of the program too."""
    node.replace_all_uses_with(other)
    program.graph_signature.replace_all_uses(node.name, other.name)


def _is_in_place(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def _is_square(pooling: Any) -> bool:
    """Tell whether the mean that a pooling takes, inside the frame, is that of its rows' means."""
    if len(pooling) != 6:  # its last argument has no default here
        return False
    _, size, stride, padding, _, counts_padding = pooling
    return (
        size[0] == size[-1] > 1
        and list(stride) == [1, 1]
        and list(padding) == [size[0] // 2] * 2
        and not counts_padding
    )
