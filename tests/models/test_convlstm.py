"""The ConvLSTM against the textbook's form: one cell at a time, on cat(input, hidden)."""

import torch
import torch.nn.functional as F
from torch import Tensor

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


def test_equals_the_plain_form() -> None:
    """Values, gradients of the input and of all weights; gates in the order input, forget, output,
    candidate.
    """
    net = ConvLSTM(3, 5)
    ours = torch.randn(2, 4, 3, 6, 7, generator=torch.Generator().manual_seed(0)) * 2
    theirs = ours.clone().requires_grad_()
    ours.requires_grad_()
    cell, expected = net(ours), plain(net, theirs)
    torch.testing.assert_close(cell, expected, rtol=1e-5, atol=1e-5)
    parameters = list(net.parameters())
    mine = torch.autograd.grad(cell.square().sum(), [ours, *parameters])
    others = torch.autograd.grad(expected.square().sum(), [theirs, *parameters])
    for a, b in zip(mine, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


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
