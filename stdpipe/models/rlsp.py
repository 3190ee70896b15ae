"""RLSP, the strongest small causal network that is published: 163,216 parameters at 48 channels.

Fuoli, Gu, Timofte, "Efficient Video Super-Resolution through Recurrent Latent Space Propagation",
ICCV Workshops 2019; dariofuoli/RLSP. A step sees three frames, a hidden state, and its own last
image, shuffled back to LR size. Trained here it gives RGB, and feeds back the residual alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.models import fold
from stdpipe.models.base import Features
from stdpipe.models.causal import CausalNetwork, Head, State, build_head, seen
from stdpipe.models.layers import (
    bicubic_base,
    bilinear_base,
    conv3x3,
    init_relu,
    leaky,
    phase_at,
)
from stdpipe.models.luma import with_luma
from stdpipe.models.options import Positive, Scale

# luma as RLSP's authors have it, of RGB in [0, 1]: BT.601 with coefficients in 256ths
RED, GREEN, BLUE = 65.738 / 256, 129.057 / 256, 25.064 / 256
BLACK = 16 / 255


def published_luma(rgb: Tensor) -> Tensor:
    """Return RLSP's luma of RGB in [0, 1]: (..., 3, H, W) -> (..., 1, H, W)."""
    red, green, blue = rgb.split(1, dim=-3)
    return RED * red + GREEN * green + BLUE * blue + BLACK


class RLSP(CausalNetwork):
    """num_feat: the channels of all layers and of the state (published: 48, 64 and 128).

    published: whether to be what the published weights are for: luma, added to the repeated LR
    pixel, of raw frames, with ReLU. head: as Mobile RRN's. contract: whether no convolution
    amplifies anything, against drift.
    """

    num_ahead = 1
    warm_start = 0.25  # as published it loses 8 dB within 300 equal frames

    def __init__(
        self,
        num_feat: Positive = 48,
        published: bool = False,
        head: Head = "shuffle",
        f_sr_channels: Positive = 8,
        contract: bool = False,
        phase: float | None = None,
        scale: Scale = 4,
    ) -> None:
        super().__init__()
        self.num_feat, self.published = num_feat, published
        self.scale, self.phase = scale, phase_at(scale, phase)
        self.channels = channels = 1 if published else 3
        self.activate = F.relu if published else leaky
        self.f_sr_channels = f_sr_channels if head == "f_sr" else 0
        self.conv_first = conv3x3(9 + num_feat + channels * scale**2, num_feat)
        self.body = nn.ModuleList(conv3x3(num_feat, num_feat) for _ in range(5))
        self.conv_hidden = conv3x3(num_feat, num_feat)
        init_relu(self)  # before there is a head
        self.last = build_head(head, num_feat, f_sr_channels, channels, scale)
        if contract:
            fold.contract(self, forked=("conv_hidden", "last"))

    def begin(self, frame: Tensor) -> State:
        """The hidden state, and what is fed back of the last image, are zero."""
        batch, _, height, width = frame.shape
        image = self.channels * self.scale**2
        return tuple(frame.new_zeros(batch, c, height, width) for c in (self.num_feat, image))

    def step(self, frames: Tensor, state: State) -> tuple[Features, State]:
        centre = frames[:, 1]
        f_lr = self.activate(self.conv_first(torch.cat([seen(frames, self.published), *state], 1)))
        trunk = f_lr
        for conv in self.body:
            trunk = self.activate(conv(trunk))
        f_sr, residual, low = self.last.both_sizes(trunk)
        if self.published:
            luma = published_luma(centre)
            low = low + luma  # the same for all pixels that it is shuffled to
            luma_sr = residual + F.interpolate(luma, scale_factor=self.scale)
            sr = with_luma(luma_sr, bicubic_base(centre, self.phase, self.scale))
        else:
            sr = residual + bilinear_base(centre, self.phase, self.scale)
        hidden = self.activate(self.conv_hidden(trunk))
        return Features(f_lr, trunk, f_sr, sr), (hidden, low)
