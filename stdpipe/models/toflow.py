"""TOFlow, a baseline: Xue, Chen, Wu, Wei, Freeman, "Video Enhancement with Task-Oriented Flow",
IJCV 2019. Parameter names are BasicSR's (basicsr/archs/tof_arch.py), so that its checkpoints load.

It works at HR: frames are enlarged first (bicubic, at `phase`; beforehand in the published code),
then aligned to the centre by a SPyNet that learns with the rest. In the LR maps of `fuse` the 4 x 4
HR pixels of an LR pixel lie in channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.models.base import Network, window_indices
from stdpipe.models.layers import bicubic_base
from stdpipe.models.options import Positive, Window
from stdpipe.models.spynet import SPyNet
from stdpipe.models.warp import warp
from stdpipe.resample import SCALE

MEAN = (0.485, 0.456, 0.406)  # ImageNet's
STD = (0.229, 0.224, 0.225)


class TOFlow(Network):
    """TOFlow for super-resolution. F^SR is the 64-channel input of the last 1 x 1 convolution.

    adapt_official_weights: BasicSR's name for checkpoints translated from the authors' own, in
    which the centre comes first in the window. phase: where LR samples sit (stdpipe.data.degrade);
    published checkpoints are for MATLAB's 1.5.
    """

    multiple = 4  # SPyNet halves HR four times

    def __init__(
        self,
        num_frame: Window = 7,
        num_feat: Positive = 64,
        num_flow_feat: Positive = 32,
        adapt_official_weights: bool = False,
        phase: float = 1.5,
    ) -> None:
        super().__init__()
        self.num_frame = num_frame
        self.phase = phase
        self.centre_first = adapt_official_weights
        self.mean = nn.Buffer(torch.tensor(MEAN).view(1, 3, 1, 1))
        self.std = nn.Buffer(torch.tensor(STD).view(1, 3, 1, 1))
        self.spynet = SPyNet(num_flow_feat)
        self.conv_1 = nn.Conv2d(3 * num_frame, num_feat, 9, padding=4)
        self.conv_2 = nn.Conv2d(num_feat, num_feat, 9, padding=4)
        self.conv_3 = nn.Conv2d(num_feat, 64, 1)
        self.conv_4 = nn.Conv2d(64, 3, 1)

    def fuse_clip(self, clip: Tensor, centres: Sequence[int]) -> Tensor:
        """Return the aligned HR frames, HR pixels in channels: (B, N, 3 * num_frame * 16, h, w)."""
        hr = (bicubic_base(clip, self.phase) - self.mean) / self.std
        windows = window_indices(clip.shape[1], self.num_frame, centres)
        each = zip(centres, windows, strict=True)
        return torch.stack([self._align(hr, t, window) for t, window in each], 1)

    def _align(self, hr: Tensor, t: int, window: list[int]) -> Tensor:
        """Return the window around t of a clip (B, T, 3, H, W), aligned, as f_lr."""
        k = self.num_frame // 2
        neighbours = window[:k] + window[k + 1 :]
        centre = hr[:, t]
        aligned = {
            n: warp(hr[:, n], self.spynet(centre, hr[:, n]), "zeros") for n in sorted({*neighbours})
        }
        frames = [aligned[n] for n in neighbours]
        frames.insert(0 if self.centre_first else k, centre)
        return F.pixel_unshuffle(torch.cat(frames, 1), SCALE)

    def upsample(self, trunk: Tensor) -> Tensor:
        x = F.relu(self.conv_1(F.pixel_shuffle(trunk, SCALE)))
        x = F.relu(self.conv_2(x))
        return F.relu(self.conv_3(x))

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:
        return self.conv_4(f_sr) * self.std + bicubic_base(centre, self.phase)
