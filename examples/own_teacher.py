"""A teacher of your own: the four stages, and nothing else. Any class like this can teach.

Beside this file:
  stdpipe train-teacher --data DATA --teacher own_teacher:Mine --out runs/mine --set steps=2
  stdpipe extract-teacher --data DATA --teacher own_teacher:Mine --weights runs/mine/weights.pt
      --cache mine.zarr
  stdpipe train-student --data DATA --cache mine.zarr --student fastdvdnet --out runs/student
"""

import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.models.base import Network
from stdpipe.models.layers import bilinear_base, residual_blocks


class Mine(Network):
    num_frame = 3  # LR frames a window; F^SR has 64 channels unless f_sr_channels says otherwise

    def __init__(self, width: int = 32, phase: float = 1.5) -> None:  # own_teacher:Mine:width=64
        super().__init__()
        self.phase = phase  # where LR pixels sit: set by the degradation
        self.fusion = nn.Conv2d(3 * self.num_frame, width, 3, padding=1)
        self.backbone = residual_blocks(width, 4)
        self.up = nn.Conv2d(width, 64 * 16, 3, padding=1)
        self.last = nn.Conv2d(64, 3, 3, padding=1)

    def fuse(self, window: Tensor) -> Tensor:  # (B, 3, 3, h, w) -> f_lr (B, C, h, w)
        return F.relu(self.fusion(window.flatten(1, 2)))

    def reconstruct(self, f_lr: Tensor) -> Tensor:  # -> trunk, still LR
        return self.backbone(f_lr)

    def upsample(self, trunk: Tensor) -> Tensor:  # -> F^SR (B, 64, 4h, 4w)
        return F.leaky_relu(F.pixel_shuffle(self.up(trunk), 4), 0.1)

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:  # -> sr (B, 3, 4h, 4w)
        return self.last(f_sr) + bilinear_base(centre, self.phase)
