"""Mobile RRN, a causal student of 35,664 parameters: 2.0 GMAC for a frame of 320 x 180.

MediaTek's baseline of the Mobile AI 2022 challenge (MediaTek-NeuroPilot/mai22-real-time-video-sr),
after RRN (Isobe et al., "Revisiting Temporal Modeling for Video Super-resolution", BMVC 2020). A
step sees the frame before and the present one, beside a hidden state.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stdpipe.models import fold
from stdpipe.models.base import Features
from stdpipe.models.causal import CausalNetwork, Head, State, build_head, seen
from stdpipe.models.layers import bilinear_base, conv3x3, phase_at, residual_blocks
from stdpipe.models.options import Count, Positive, Scale


class MobileRRN(CausalNetwork):
    """num_feat: the channels of all layers and of the state (published: 16, 32 and 64).

    published: whether frames enter raw, as the published weights expect. head: "shuffle" as
    published, or "f_sr" for an F^SR of `f_sr_channels` in front of one convolution at HR size,
    which SD and TD can teach. wide: 2, say, to train every convolution of the blocks as one of
    twice its channels. num_ahead: frames after the present one that a step sees, which is how many
    frames its images come late.
    """

    def __init__(
        self,
        num_feat: Positive = 16,
        num_block: Count = 5,
        published: bool = False,
        head: Head = "shuffle",
        f_sr_channels: Positive = 8,
        wide: Count = 0,
        num_ahead: Count = 0,
        phase: float | None = None,
        scale: Scale = 4,
    ) -> None:
        super().__init__()
        self.num_ahead = num_ahead
        self.published = published
        self.scale, self.phase = scale, phase_at(scale, phase)
        self.num_feat = num_feat
        self.f_sr_channels = f_sr_channels if head == "f_sr" else 0
        self.conv_first = conv3x3((2 + num_ahead) * 3 + num_feat, num_feat)
        self.recon_trunk = residual_blocks(num_feat, num_block)
        self.conv_hidden = conv3x3(num_feat, num_feat)
        fold.widen(self.recon_trunk, wide)
        self.last = build_head(head, num_feat, f_sr_channels, scale=scale)

    def begin(self, frame: Tensor) -> State:
        """The state is zero."""
        batch, _, height, width = frame.shape
        return (frame.new_zeros(batch, self.num_feat, height, width),)

    def step(self, frames: Tensor, state: State) -> tuple[Features, State]:
        f_lr = F.relu(self.conv_first(torch.cat([seen(frames, self.published), *state], 1)))
        trunk = self.recon_trunk(f_lr)
        f_sr, residual = self.last(trunk)
        sr = residual + bilinear_base(frames[:, 1], self.phase, self.scale)
        return Features(f_lr, trunk, f_sr, sr), (F.relu(self.conv_hidden(trunk)),)
