"""SWRN, a causal student of 43,472 parameters: 2.5 GMAC for a frame of 320 x 180.

Lian, Lian, "Sliding Window Recurrent Network for Efficient Video Super-Resolution", ECCV Workshops
2022; shermanlian/swrn. Two branches see the frame before and the frame after, each beside its own
state; both states run forward in time.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from stdpipe.models import fold
from stdpipe.models.base import Features
from stdpipe.models.causal import CausalNetwork, Head, State, build_head, seen
from stdpipe.models.layers import bilinear_base, conv3x3, init_relu, leaky, phase_at, relu_chain
from stdpipe.models.options import Positive, Scale


class SWRN(CausalNetwork):
    """num_feat: the channels of all layers and of each state (published: 16).

    published, head: as Mobile RRN's. contract: as RLSP's.
    """

    num_ahead = 1

    def __init__(
        self,
        num_feat: Positive = 16,
        published: bool = False,
        head: Head = "shuffle",
        f_sr_channels: Positive = 8,
        contract: bool = False,
        phase: float | None = None,
        scale: Scale = 4,
    ) -> None:
        super().__init__()
        self.published = published
        self.scale, self.phase = scale, phase_at(scale, phase)
        self.activate: Callable[[Tensor], Tensor] = F.relu if published else leaky
        slope = 0.0 if published else 0.1
        self.num_feat = num_feat
        self.f_sr_channels = f_sr_channels if head == "f_sr" else 0
        self.conv_first_forward = conv3x3(6 + num_feat, num_feat)
        self.conv_first_backward = conv3x3(6 + num_feat, num_feat)
        self.recon_trunk_forward = relu_chain(num_feat, num_feat, 3, slope)
        self.recon_trunk_backward = relu_chain(num_feat, num_feat, 3, slope)
        self.conv_hidden_forward = conv3x3(num_feat, num_feat)
        self.conv_hidden_backward = conv3x3(num_feat, num_feat)
        self.conv_fusion = conv3x3(2 * num_feat, num_feat)
        self.recon_trunk = relu_chain(num_feat, num_feat, 3, slope)
        init_relu(self)
        if contract:
            fold.contract(self)
        self.last = build_head(head, num_feat, f_sr_channels, scale=scale)

    def begin(self, frame: Tensor) -> State:
        """Both states are zero."""
        batch, _, height, width = frame.shape
        zero = frame.new_zeros(batch, self.num_feat, height, width)
        return zero, zero

    def step(self, frames: Tensor, state: State) -> tuple[Features, State]:
        before, centre, after = seen(frames, self.published).chunk(3, 1)
        forward = self.activate(self.conv_first_forward(torch.cat([before, centre, state[0]], 1)))
        backward = self.activate(self.conv_first_backward(torch.cat([after, centre, state[1]], 1)))
        forward, backward = self.recon_trunk_forward(forward), self.recon_trunk_backward(backward)
        f_lr = self.activate(self.conv_fusion(torch.cat([forward, backward], 1)))
        trunk = self.recon_trunk(f_lr)
        f_sr, residual = self.last(trunk)
        sr = residual + bilinear_base(frames[:, 1], self.phase, self.scale)
        hidden = self.conv_hidden_forward(forward), self.conv_hidden_backward(backward)
        return Features(f_lr, trunk, f_sr, sr), hidden
