"""A teacher that sees a whole clip at once, in both directions, with an F^SR of 48 channels.

Beside this file:
  stdpipe train-teacher --data DATA --teacher clip_teacher:Bidirectional --out runs/clip
  stdpipe extract-teacher --data DATA --teacher clip_teacher:Bidirectional \
      --weights runs/clip/weights.pt --cache clip.zarr --encoding int8
  stdpipe train-student --data DATA --cache clip.zarr --student fastdvdnet-half --out runs/student
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.models.base import Network
from stdpipe.models.layers import bilinear_base, residual_blocks


class Bidirectional(Network):
    kind = "clip"
    num_frame = 7  # frames of an exported file

    def __init__(self, width: int = 48, phase: float = 1.5) -> None:
        super().__init__()
        self.phase = phase  # where LR pixels sit: set by the degradation
        self.f_sr_channels = width
        self.forwards = nn.Conv2d(3 + width, width, 3, padding=1)
        self.backwards = nn.Conv2d(3 + width, width, 3, padding=1)
        self.fusion = nn.Conv2d(2 * width, width, 3, padding=1)
        self.backbone = residual_blocks(width, 2)
        self.up = nn.Conv2d(width, width * 16, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def fuse_clip(self, clip: Tensor, centres: Sequence[int]) -> Tensor:
        batch, count, _, height, width = clip.shape
        sides = []
        for conv, order in (
            (self.forwards, range(count)),
            (self.backwards, reversed(range(count))),
        ):
            state = clip.new_zeros(batch, self.f_sr_channels, height, width)
            found = {}
            for t in order:
                state = F.relu(conv(torch.cat([clip[:, t], state], 1)))
                found[t] = state
            sides.append(found)
        both = torch.stack([torch.cat([side[t] for side in sides], 1) for t in centres], 1)
        return F.relu(self.fusion(both.flatten(0, 1))).unflatten(0, (batch, -1))

    def reconstruct(self, f_lr: Tensor) -> Tensor:
        return self.backbone(f_lr)

    def upsample(self, trunk: Tensor) -> Tensor:
        return F.leaky_relu(F.pixel_shuffle(self.up(trunk), 4), 0.1)

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:
        return self.last(f_sr) + bilinear_base(centre, self.phase)
