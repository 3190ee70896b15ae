"""SPyNet, a learnt optical flow: Ranjan and Black, CVPR 2017, in TOFlow's form.

Names and shapes are BasicSR's SPyNetTOF: four levels, batch norm, no normalisation of its own.
Axes: B batch, H W size of the frames. A flow is (B, 2, H, W): x, then y, in pixels.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.models.warp import warp

LEVELS = 4


class Level(nn.Module):
    """Corrects the coarser level's flow by five 7 x 7 convolutions."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        widths = (8, num_feat, 2 * num_feat, num_feat, num_feat // 2)
        layers: list[nn.Module] = []
        for channels_in, channels_out in pairwise(widths):
            conv = nn.Conv2d(channels_in, channels_out, 7, padding=3, bias=False)
            layers += [conv, nn.BatchNorm2d(channels_out), nn.ReLU()]
        self.basic_module = nn.Sequential(*layers, nn.Conv2d(widths[-1], 2, 7, padding=3))

    def forward(self, reference: Tensor, sampled: Tensor, flow: Tensor) -> Tensor:
        """Return a better flow, given the neighbour sampled along the flow so far."""
        change = self.basic_module(torch.cat((reference, sampled, flow), 1))
        return flow + change.to(flow)  # autocast's bfloat16 would round 20 pixels to 1/8


class SPyNet(nn.Module):
    """num_feat: channels of a level's first convolution; 32 in published networks."""

    def __init__(self, num_feat: int = 32) -> None:
        super().__init__()
        self.basic_module = nn.ModuleList(Level(num_feat) for _ in range(LEVELS))

    def forward(self, reference: Tensor, neighbour: Tensor) -> Tensor:
        """Return the flow (B, 2, H, W) along which the neighbour (B, 3, H, W) shows the reference.

        Sides must be multiples of 16, and frames normalised.
        """
        pyramid = [(reference, neighbour)]
        for _ in range(LEVELS - 1):
            reference, neighbour = (F.avg_pool2d(x, 2) for x in pyramid[0])
            pyramid.insert(0, (reference, neighbour))
        height, width = pyramid[0][0].shape[-2:]
        flow: Tensor = reference.new_zeros(reference.shape[0], 2, height // 2, width // 2)
        for level, (reference, neighbour) in zip(self.basic_module, pyramid, strict=True):
            flow = 2 * F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=True)
            flow = level(reference, warp(neighbour, flow, "zeros"), flow)
        return flow
