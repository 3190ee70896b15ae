"""What is rewritten in a graph: pixel shuffle with the channels last, and what is simplified."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from stdpipe.deploy.graph import Graph, example, simplify, trace
from stdpipe.deploy.layout import shuffle_channels_last
from stdpipe.models.checkpoints import load_network

SHUFFLE = torch.ops.aten.pixel_shuffle.default


class Shuffling(nn.Module):
    def __init__(self, factor: int, colours: int, bias: bool) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(2, colours * factor**2, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.conv(x), self.factor)


@given(
    factor=st.integers(2, 4),
    colours=st.integers(1, 4),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    bias=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_it_is_torchs_shuffle(
    factor: int, colours: int, height: int, width: int, bias: bool
) -> None:
    net = Shuffling(factor, colours, bias).eval()
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.rand(1, 2, height, width)
    program = torch.export.export(net, (x,), strict=False)
    shuffle_channels_last(program)
    assert SHUFFLE not in {node.target for node in program.graph.nodes}
    torch.testing.assert_close(program.module()(x), net(x), atol=1e-6, rtol=0)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in kept.items())


@pytest.mark.parametrize(
    ("name", "left"),
    [("rrn-8", 0), ("rrn-8:head=f_sr", 0), ("swrn", 0), ("fastdvdnet-eighth", 0), ("rlsp", 1)],
)
def test_networks(name: str, left: int) -> None:
    """RLSP's stays, since its state is the same convolution's output, in torch's order."""
    graph = Graph(load_network(name, "random:0")[0].eval())
    given = example(graph, 12, 16)
    program = trace(graph, 12, 16)
    shuffle_channels_last(program)
    assert sum(node.target == SHUFFLE for node in program.graph.nodes) == left
    for mine, theirs in zip(program.module()(*given), graph(*given), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("groups", "batch"), [(2, 1), (1, 2)])
def test_what_it_leaves(groups: int, batch: int) -> None:
    """Groups, whose outputs cannot change places, and several images at once."""
    net = Shuffling(2, 1, True).eval()
    net.conv = nn.Conv2d(4, 4, 3, padding=1, groups=groups)
    x = torch.rand(batch, 4, 5, 6)
    program = torch.export.export(net, (x,), strict=False)
    shuffle_channels_last(program)
    assert SHUFFLE in {node.target for node in program.graph.nodes}
    assert torch.equal(program.module()(x), net(x))


class Frames(nn.Module):
    """A stack whose frame is changed in place: the frame itself must not be."""

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        stack = torch.stack([one, two], 1)
        first = stack[:, 0]
        first -= 0.5
        return first + one


class Means(nn.Module):
    """Means over squares, which become two each, and over what is none."""

    def __init__(self, *pooling: nn.Module) -> None:
        super().__init__()
        self.pooling = nn.ModuleList(pooling)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(pool(x) for pool in self.pooling)


def test_what_is_simplified_stays_the_same() -> None:
    x, y = torch.rand(1, 3, 12, 10), torch.rand(1, 3, 12, 10)
    means = Means(
        nn.AvgPool2d(9, 1, 4, count_include_pad=False),
        nn.AvgPool2d((3, 3), (1, 1), (1, 1), count_include_pad=False),
        nn.AvgPool2d(3, 1, 1, count_include_pad=True),
        nn.AvgPool2d((3, 5), 1, (1, 2), count_include_pad=False),
        nn.AvgPool2d(4),
    )
    for net, frames in ((Frames(), (x, y)), (means, (x,))):
        kept = [value.clone() for value in frames]
        expected = net(*frames)
        program = torch.export.export(net.eval(), frames, strict=False)
        simplify(program)
        torch.testing.assert_close(program.module()(*frames), expected, atol=1e-6, rtol=0)
        assert all(torch.equal(*pair) for pair in zip(frames, kept, strict=True))
