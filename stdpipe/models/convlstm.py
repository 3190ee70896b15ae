"""ConvLSTM: reads F^SR of a window frame by frame; its last cell state is the paper's C^SR.

Paper Eq. 6 with the gates of Shi et al. 2015 (input, forget, output, candidate), 3x3, no peepholes,
zero initial state. Teacher and student share its weights.
"""

import torch
from torch import Tensor, nn


class ConvLSTM(nn.Module):
    """Input half and hidden half of all four gates, each one convolution."""

    def __init__(self, channels: int = 64, hidden: int = 64) -> None:
        super().__init__()
        self.input_gates = nn.Conv2d(channels, 4 * hidden, 3, padding=1)
        self.hidden_gates = nn.Conv2d(hidden, 4 * hidden, 3, padding=1, bias=False)

    def forward(self, f_sr: Tensor) -> Tensor:
        """f_sr in temporal order (B, T, C, H, W) -> C^SR (B, hidden, H, W).

        The input half of all frames is one convolution; the first step has no hidden half, since
        its state is zero.
        """
        gates = self.input_gates(f_sr.flatten(0, 1)).unflatten(0, f_sr.shape[:2])
        cell, hidden = self._step(gates[:, 0], None)
        for t in range(1, f_sr.shape[1]):
            cell, hidden = self._step(gates[:, t] + self.hidden_gates(hidden), cell)
        return cell

    @staticmethod
    def _step(gates: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor]:
        i, f, o, g = gates.chunk(4, dim=1)
        new = torch.sigmoid(i) * torch.tanh(g)
        if cell is not None:
            new = new + torch.sigmoid(f) * cell
        return new, torch.sigmoid(o) * torch.tanh(new)
