"""A student of your own, as small as can be. Its F^SR need not have the teacher's 64 channels.

Beside this file:
  stdpipe train-student --data DATA --cache cache.zarr --student own_student:Tiny --out runs/tiny
  stdpipe evaluate --data DATA --model own_student:Tiny@runs/tiny/weights.pt
"""

import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.models.base import Network
from stdpipe.models.layers import bilinear_base, residual_blocks


class Tiny(Network):
    num_frame = 3  # LR frames a window

    def __init__(self, width: int = 16, phase: float = 1.5) -> None:
        super().__init__()
        self.phase = phase  # where LR pixels sit: set by the degradation
        self.f_sr_channels = width
        self.fusion = nn.Conv2d(3 * self.num_frame, width, 3, padding=1)
        self.backbone = residual_blocks(width, 2)
        self.up = nn.Conv2d(width, width * 16, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def fuse(self, window: Tensor) -> Tensor:  # (B, 3, 3, h, w) -> f_lr (B, width, h, w)
        return F.relu(self.fusion(window.flatten(1, 2)))

    def reconstruct(self, f_lr: Tensor) -> Tensor:  # -> trunk, still LR
        return self.backbone(f_lr)

    def upsample(self, trunk: Tensor) -> Tensor:  # -> F^SR (B, width, 4h, 4w)
        return F.leaky_relu(F.pixel_shuffle(self.up(trunk), 4), 0.1)

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:  # -> sr (B, 3, 4h, 4w)
        return self.last(f_sr) + bilinear_base(centre, self.phase)
