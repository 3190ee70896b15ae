"""The ConvLSTM that reads F^SR frame by frame; its last cell state is the paper's C^SR.

Paper Eq. 6 with the gates of Shi et al. 2015 (input, forget, output, candidate), 3x3, no peepholes,
zero initial state. Teacher and student share its weights.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class ConvLSTM(nn.Module):
    """One convolution of the frame and one of the hidden state, for all four gates (i, f, o, g).

    `recompute`: the backward pass computes each frame's gates again instead of keeping them.
    """

    def __init__(self, channels: int = 64, hidden: int = 64) -> None:
        super().__init__()
        self.input_gates = nn.Conv2d(channels, 4 * hidden, 3, padding=1)
        self.hidden_gates = nn.Conv2d(hidden, 4 * hidden, 3, padding=1, bias=False)
        self.recompute = False

    def forward(self, *f_sr: Tensor) -> Tensor:
        """Read one or more f_sr (B, T, C, H, W) -> C^SR (sum of B, hidden, H, W).

        Gates and cells are in the weights' precision, even under autocast. Sequences go one by
        one, so that none pays for another's gradient.
        """
        return torch.cat([self._last_cell(one) for one in f_sr])

    def _last_cell(self, f_sr: Tensor) -> Tensor:
        cell: Tensor | None = None
        hidden: Tensor | None = None
        for frame in f_sr.unbind(1):
            if self.recompute and torch.is_grad_enabled():
                cell, hidden = checkpoint(self._step, frame, cell, hidden, use_reentrant=False)
            else:
                cell, hidden = self._step(frame, cell, hidden)
        assert cell is not None
        return cell

    def _step(
        self, frame: Tensor, cell: Tensor | None, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the next cell and hidden state; None stands for zeros before the first frame."""
        precision = self.input_gates.weight.dtype
        gates = self.input_gates(frame.to(precision)).to(precision)
        if hidden is not None:
            gates = gates + self.hidden_gates(hidden)
        i, f, o, g = gates.chunk(4, 1)
        new = i.sigmoid() * g.tanh()
        if cell is not None:
            new = new + f.sigmoid() * cell
        return new, o.sigmoid() * new.tanh()
