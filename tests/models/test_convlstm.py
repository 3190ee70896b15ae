"""The ConvLSTM against the textbook's form: each gate apart, on cat(input, hidden)."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import Tensor

from stdpipe.device import to_channels_last
from stdpipe.models.base import count_parameters
from stdpipe.models.convlstm import ConvLSTM


def plain(net: ConvLSTM, f_sr: Tensor) -> Tensor:
    """Zero state, then one step a frame, each gate a convolution of the input and the state."""
    bias = net.input_gates.bias
    assert bias is not None
    weight = torch.cat((net.input_gates.weight, net.hidden_gates.weight), 1)
    size = net.hidden_gates.in_channels
    cell = hidden = f_sr.new_zeros(f_sr.shape[0], size, *f_sr.shape[3:])
    for frame in f_sr.unbind(1):
        both = torch.cat((frame, hidden), 1)
        i, f, o, g = (
            F.conv2d(both, weight[n : n + size], bias[n : n + size], padding=1)
            for n in range(0, 4 * size, size)
        )
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
    return cell


@given(
    frames=st.integers(1, 4),
    batches=st.lists(st.integers(1, 2), min_size=1, max_size=3),
    recompute=st.booleans(),
    channels_last=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_equals_the_plain_form(
    frames: int, batches: list[int], recompute: bool, channels_last: bool
) -> None:
    """Values, gradients of the input and of all weights, for any number of sequences; gates in the
    order input, forget, output, candidate.
    """
    torch.manual_seed(frames)
    net = ConvLSTM(3, 5)
    net.recompute = recompute
    if channels_last:
        to_channels_last(net)
    clips = [(torch.randn(b, frames, 3, 6, 7) * 2).requires_grad_() for b in batches]
    mine = differentiate(net(*clips), [*clips, *net.parameters()])
    others = differentiate(plain(net, torch.cat(clips)), [*clips, *net.parameters()])
    for a, b in zip(mine, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(1.0, float(b.abs().max())))


def differentiate(cell: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """The cell, then what its sum of squares gives each leaf."""
    found = torch.autograd.grad(cell.square().sum(), leaves, materialize_grads=True)
    return [cell.detach(), *found]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("learns", [False, True])
def test_only_what_asks_gets_a_gradient(recompute: bool, learns: bool) -> None:
    """The teacher's sequence does not; nor do the weights once they are frozen, and the student's
    gradient is the same then."""
    net = ConvLSTM(2, 3).requires_grad_(learns)
    net.recompute = recompute
    teacher, student = torch.randn(2, 1, 3, 2, 4, 4).unbind()
    net(teacher, student.requires_grad_()).diff(dim=0).square().sum().backward()
    assert teacher.grad is None
    assert all((p.grad is None) != learns for p in net.parameters())
    expected = plain(net, torch.cat((teacher, student))).diff(dim=0).square().sum()
    (gradient,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(student.grad, gradient)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_mixed_precision(dtype: torch.dtype, recompute: bool) -> None:
    """Cells and gradients are float32 and near the exact ones: the convolutions alone round."""
    net = ConvLSTM(8, 8)
    net.recompute = recompute
    f_sr = torch.randn(2, 4, 8, 6, 6).requires_grad_()
    leaves = [f_sr, *net.parameters()]
    exact = differentiate(net(f_sr), leaves)
    with torch.autocast("cpu", dtype):
        cell = net(f_sr)
    for a, b in zip(differentiate(cell, leaves), exact, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.01 * b.norm()


def test_one_frame_uses_no_state() -> None:
    """The first step is input gate times candidate, and one frame is enough."""
    net = ConvLSTM(2, 2)
    f_sr = torch.randn(1, 1, 2, 4, 4)
    i, _, _, g = net.input_gates(f_sr[:, 0]).chunk(4, 1)
    torch.testing.assert_close(net(f_sr), i.sigmoid() * g.tanh())


def test_order_matters() -> None:
    """Frames backwards give another cell: it remembers time, not a mean."""
    net = ConvLSTM(2, 2)
    f_sr = torch.randn(1, 3, 2, 4, 4)
    assert not torch.allclose(net(f_sr), net(f_sr.flip(1)), atol=1e-3)


def test_number_of_parameters() -> None:
    """3 x 3, 64 -> 64: weights of 128 channels into 256 gates, one bias a gate."""
    assert count_parameters(ConvLSTM()) == 295_168
