"""Wide and contracting convolutions: each becomes one plain convolution."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.utils.checkpoint import checkpoint

from stdpipe.models import zoo
from stdpipe.models.base import count_parameters
from stdpipe.models.causal import CausalNetwork
from stdpipe.models.fold import ContractingConv, WideConv, advance, folded
from stdpipe.models.layers import conv3x3
from stdpipe.models.macs import count_macs

SPECIAL = ("rrn-8:wide=2", "rlsp:num_feat=6,contract=true", "swrn:num_feat=6,contract=true")


def test_a_wide_convolution_is_its_two_ways_beside_each_other() -> None:
    """At borders, too."""
    torch.manual_seed(0)
    conv, x = WideConv(conv3x3(3, 5), 4), torch.randn(2, 3, 6, 7)
    torch.testing.assert_close(conv(x), conv.conv(x) + conv.squeeze(conv.expand(x)))


@pytest.mark.parametrize("name", SPECIAL)
def test_folded_it_is_the_plain_network(name: str) -> None:
    """The same images of all frames, and the parameters, names and cost of the network without."""
    torch.manual_seed(0)
    net = zoo.parse(name).build()
    clip = torch.rand(1, 5, 3, 6, 9)
    advance(net)
    plain = folded(net.eval())
    with torch.no_grad():
        torch.testing.assert_close(plain.features_clip(clip).sr, net.features_clip(clip).sr)
    known = zoo.parse(
        name.partition(":")[0] + (":num_feat=6" if "num_feat" in name else "")
    ).build()
    assert plain.state_dict().keys() == known.state_dict().keys()
    assert count_parameters(plain) == count_parameters(known) < count_parameters(net) + 1
    assert count_macs(plain).total == count_macs(known).total <= count_macs(net).total


def test_a_network_without_any_is_left_as_it_is() -> None:
    net = zoo.parse("rrn-8").build()
    assert folded(net) is net


@pytest.mark.parametrize(
    "name", ["rlsp:num_feat=6", "rlsp:num_feat=6,head=f_sr", "swrn:num_feat=6"]
)
def test_states_of_a_contracting_recurrence_come_together(name: str) -> None:
    """However large its weights, head included, and whatever the states were; without, they do
    not."""
    apart = {}
    for contract in ("false", "true"):
        torch.manual_seed(0)
        net = zoo.parse(f"{name},contract={contract}").build().eval()
        assert isinstance(net, CausalNetwork)
        with torch.no_grad():
            for x in net.parameters():
                x.mul_(4)
            for _ in range(50):
                advance(net)
            frames = torch.rand(1, 2 + net.num_ahead, 3, 20, 17)
            one = net.begin(frames[:, 1])
            other = tuple(torch.rand_like(x) for x in one)
            for _ in range(40):
                (_, one), (_, other) = net.step(frames, one), net.step(frames, other)
        apart[contract] = max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))
    assert apart["true"] < 1e-4
    assert not apart["false"] < 1  # nan is not


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 99), st.integers(5, 40))
def test_it_amplifies_no_map_of_any_size(into: int, out: int, seed: int, side: int) -> None:
    """The gain is the largest singular value of the operator, by a dense matrix."""
    torch.manual_seed(seed)
    conv = ContractingConv(conv3x3(into, out), 0.95)
    with torch.no_grad():
        conv.conv.weight.mul_(8).add_(0.3)  # all of one sign: the worst is the flat map
        conv.conv.bias.zero_()
    for _ in range(200):
        conv.advance()
    x = torch.ones(1, into, side, side)
    for _ in range(100):  # power iteration on that size, zeros beyond the border as in use
        x = torch.nn.functional.conv_transpose2d(conv(x), conv.kernel()[0], padding=1).detach()
        x = x / x.norm()
    assert conv(x).norm() < 1


def test_a_step_in_mixed_precision_leaves_it_in_its_own() -> None:
    """And a forward pass changes nothing: computed again, it has the same gradients."""
    torch.manual_seed(0)
    net = zoo.parse("swrn:num_feat=6,contract=true").build()
    clip = torch.rand(1, 3, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        net.features_clip(clip).sr.float().square().mean().backward()
        advance(net)
    net.eval().features_clip(clip)
    assert all(x.dtype == torch.float32 for x in net.state_dict().values())
    gradients = []
    for run in (net.features_clip, partial(checkpoint, net.features_clip, use_reentrant=False)):
        net.zero_grad()
        run(clip).sr.square().mean().backward()
        gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_dead_one_stays_finite() -> None:
    conv = ContractingConv(conv3x3(3, 3), 0.95)
    with torch.no_grad():
        conv.conv.weight.zero_()
    conv.advance()
    assert torch.isfinite(conv(torch.rand(1, 3, 4, 4))).all()
