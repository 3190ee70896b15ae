"""A student whose author never heard of stdpipe: a module from LR clips to images and features.

The loops beside this file train it; stdpipe needs nothing of it but these two tensors.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PixelNet(nn.Module):
    """Sees each frame with its neighbours, after ESPCN and VESPCN's early fusion."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.width = width  # channels of the features before the last convolution
        self.body = nn.Sequential(
            nn.Conv2d(9, width, 5, padding=2),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(0.1),
        )
        self.up = nn.Conv2d(width, width * 16, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.last.weight)

    def forward(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, 3, h, w) in [0, 1] -> images (B, T, 3, 4h, 4w), features (B, T, width, 4h, 4w)."""
        before = torch.cat([lr[:, :1], lr[:, :-1]], 1)
        after = torch.cat([lr[:, 1:], lr[:, -1:]], 1)
        seen = torch.cat([before, lr, after], 2).flatten(0, 1)
        f_sr = F.leaky_relu(F.pixel_shuffle(self.up(self.body(seen)), 4), 0.1)
        sr = enlarged(lr.flatten(0, 1)) + self.last(f_sr)
        return sr.unflatten(0, lr.shape[:2]), f_sr.unflatten(0, lr.shape[:2])


def enlarged(lr: Tensor) -> Tensor:
    """Bicubic, with LR pixel j at HR pixel 4j, where `bd` puts it; most networks have 4j + 1.5."""
    *_, height, width = lr.shape
    size = 4 * height - 3, 4 * width - 3
    inside = F.interpolate(lr, size=size, mode="bicubic", align_corners=True)
    return F.pad(inside, (0, 3, 0, 3), mode="replicate")
