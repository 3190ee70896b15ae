"""The graph of a network that phones run: one frame a call, maps of four dimensions alone.

Its inputs are frames (B, 3, h, w), by their distance from the one that is shown, then the state;
its outputs are sr (B, 3, H, W) and the next state. `play` says how a clip goes through it.
"""

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from stdpipe.cache.errors import UserError
from stdpipe.models.base import Network, pad_to_multiple
from stdpipe.models.causal import CausalNetwork
from stdpipe.models.fastdvdnet import FastDVDnet

Run = Callable[..., Sequence[Tensor]]
STREAM = (0, 1, 2, 3)  # frames that a step of FastDVDnet's stream sees
STREAM_LEAD = 4  # calls until its state is that of a clip's first frame


class Graph(nn.Module):
    """One call's work of a network.

    offsets: of the frames that it sees. lead: the calls before a clip's first frame, with its first
    frame repeated, whose images are dropped. state: the channels of each of its maps, which are as
    large as the frames (padded to `multiple`) and zero in the first call.
    """

    def __init__(self, net: Network) -> None:
        super().__init__()
        if net.kind == "clip":
            raise UserError(
                f"{type(net).__name__} sees whole clips, which no file of one frame a call can "
                "hold: take --format onnx or torch with free sizes, or another network"
            )
        self.net, self.multiple = net, net.multiple
        self.lead, self.state = 0, tuple(shape[1] for shape in net.input_shapes(8, 8)[1:])
        if isinstance(net, CausalNetwork):
            self.offsets = tuple(range(-1, 1 + net.num_ahead))
        elif isinstance(net, FastDVDnet):
            self.offsets, self.lead, self.state = STREAM, STREAM_LEAD, (3, 3, 3, 3)
        else:
            half = net.num_frame // 2
            self.offsets = tuple(range(-half, half + 1))

    def inputs(self, height: int, width: int, batch: int = 1) -> list[tuple[int, ...]]:
        """Return the shapes of the frames and of the state, for one LR size."""
        padded = (height + -height % self.multiple, width + -width % self.multiple)
        frames = [(batch, 3, height, width)] * len(self.offsets)
        return [*frames, *((batch, channels, *padded) for channels in self.state)]

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, h, w) for each frame, then the state -> sr (B, 3, H, W), then the next state."""
        count = len(self.offsets)
        frames, state = given[:count], given[count:]
        if isinstance(self.net, FastDVDnet):
            height, width = (side * self.net.scale for side in frames[0].shape[-2:])
            padded = [pad_to_multiple(x, self.multiple) for x in frames]
            sr, *after = self.net.stream(padded, state)
            return sr[..., :height, :width], *after
        window = torch.stack(frames, 1)
        if isinstance(self.net, CausalNetwork):  # it takes any size
            found: tuple[Tensor, ...] = self.net(window, *state)
            return found
        return (self.net(window),)


class InHalf(nn.Module):
    """A graph that computes in half precision, with inputs and outputs in float32."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.half_graph = copy.deepcopy(graph).half()
        self.inputs = graph.inputs
        self.offsets, self.lead, self.state = graph.offsets, graph.lead, graph.state

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """As Graph.forward."""
        return tuple(x.float() for x in self.half_graph(*(x.half() for x in given)))


AnyGraph = Graph | InHalf


def play(graph: AnyGraph, run: Run, clip: Tensor) -> Iterator[Tensor]:
    """Yield sr (1, 3, H, W) of each frame of a clip (T, 3, h, w) as a program with the graph does.

    run: the graph itself or what was exported of it.
    """
    last = len(clip) - 1
    state = [torch.zeros(shape) for shape in graph.inputs(*clip.shape[-2:])[len(graph.offsets) :]]
    for t in range(-graph.lead, len(clip)):
        frames = [clip[min(max(t + d, 0), last)][None] for d in graph.offsets]
        sr, *state = run(*frames, *state)
        if t >= 0:
            yield sr


def trace(graph: AnyGraph, height: int, width: int) -> torch.export.ExportedProgram:
    """Return a program for frames of one LR size, without maps of five dimensions where none is
    needed. Raises whatever torch.export does for a network that cannot be traced."""
    given = example(graph, height, width)
    with torch.no_grad():
        graph(*given)  # caches its constants, where a trace would cache symbols
        program = torch.export.export(graph.eval(), given, strict=False)
    unstack(program.graph_module)
    return program


class Plain(nn.Module):
    """A traced program as a module for converters, which set modes that it does not have."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.program = program.module()
        self.training = False

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = self.program(*given)
        return found

    def train(self, _mode: bool = True) -> "Plain":
        return self


def example(graph: AnyGraph, height: int, width: int) -> tuple[Tensor, ...]:
    """Return random inputs of a graph for one LR size: (1, 3, h, w) and (1, C, h, w)."""
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.rand(x, generator=draw) for x in graph.inputs(height, width))


def unstack(module: torch.fx.GraphModule) -> None:
    """Let what takes a frame out of a stack of frames take the frame itself."""
    aten = torch.ops.aten
    for node in list(module.graph.nodes):
        if node.target in (aten.select.int, aten.unbind.int) and len(node.args) > 1:
            stack, axis = node.args[0], node.args[1]
            if stack.target != aten.stack.default or list(stack.args[1:]) != [axis]:
                continue
            frames = stack.args[0]
            if node.target == aten.select.int:
                node.replace_all_uses_with(frames[node.args[2]])
            else:
                for item in list(node.users):  # getitem
                    item.replace_all_uses_with(frames[item.args[1]])
    module.graph.eliminate_dead_code()
    module.recompile()
