"""ConvLSTM: reads F^SR of a window frame by frame; its last cell state is the paper's C^SR.

Paper Eq. 6 with the gates of Shi et al. 2015 (input, forget, output, candidate), 3x3, no peepholes,
zero initial state. Teacher and student share its weights. The arithmetic is in lastcell.py.
"""

import torch
from torch import Tensor, nn

from stdpipe.models.lastcell import last_cell


class ConvLSTM(nn.Module):
    """Input half and hidden half of all four gates (i, f, o, g), each one convolution.

    `recompute`: the backward pass computes the gates again instead of keeping them.
    """

    def __init__(self, channels: int = 64, hidden: int = 64) -> None:
        super().__init__()
        self.input_gates = nn.Conv2d(channels, 4 * hidden, 3, padding=1)
        self.hidden_gates = nn.Conv2d(hidden, 4 * hidden, 3, padding=1, bias=False)
        self.recompute = False

    def forward(self, *f_sr: Tensor) -> Tensor:
        """f_sr in temporal order, one or more (B, T, C, H, W) -> C^SR (sum of B, hidden, H, W), in
        the weights' precision; all go through in one batch.

        Under autocast the convolutions alone run in its precision; gates and cells do not.
        """
        bias = self.input_gates.bias
        assert bias is not None
        weights = (self.input_gates.weight, bias, self.hidden_gates.weight)
        if any(w.requires_grad for w in weights):
            return last_cell(f_sr, *weights, self.recompute)
        # nothing is learnt here: a sequence that takes no gradient leaves nothing for backward
        return torch.cat([last_cell((one,), *weights, self.recompute) for one in f_sr])
