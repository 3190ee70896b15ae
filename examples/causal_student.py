"""A student for a phone: it sees one frame at a time, and remembers.

Beside this file:
  stdpipe train-student --data DATA --cache cache.zarr --student causal_student:Small \
      --scheme output --out runs/small
  stdpipe upscale --model causal_student:Small --weights runs/small/weights.pt in.mp4 out.mp4
  stdpipe export --model causal_student:Small --weights runs/small/weights.pt --out small.onnx
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.models.base import Features
from stdpipe.models.causal import CausalNetwork, State
from stdpipe.models.layers import bilinear_base


class Small(CausalNetwork):
    f_sr_channels = 0  # the image is shuffled out of LR features: `output` alone can teach it

    def __init__(self, width: int = 8, phase: float = 1.5) -> None:
        super().__init__()
        self.width, self.phase = width, phase
        self.first = nn.Conv2d(3 + width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 48, 3, padding=1)

    def begin(self, frame: Tensor) -> State:  # what is remembered before the first frame
        batch, _, height, width = frame.shape
        return (frame.new_zeros(batch, self.width, height, width),)

    def step(self, frames: Tensor, state: State) -> tuple[Features, State]:
        centre = frames[:, 1]  # behind it lies the frame before
        f_lr = F.relu(self.first(torch.cat([centre, *state], 1)))
        trunk = F.relu(self.second(f_lr))
        residual = F.pixel_shuffle(self.last(trunk), 4)
        sr = residual + bilinear_base(centre, self.phase)
        return Features(f_lr, trunk, residual[:, :0], sr), (trunk,)
