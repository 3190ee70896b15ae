"""Pixel shuffle with the channels last: the same image, and nothing else is touched."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from stdpipe.deploy.graph import Graph, example, trace
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
