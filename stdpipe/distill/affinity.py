"""Feature affinity: how alike every two pixels of a map are, as the teacher sees it.

He, Dai, Lu, Jiang, Xia, "FAKD: Feature-Affinity Based Knowledge Distillation for Efficient Image
Super-Resolution", ICIP 2020; Vincent-Hoo/Knowledge-Distillation-for-Super-resolution. Here on one
map, F^LR: at HR size a 256-pixel crop would have 4 billion pairs. Channels may differ.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Its EDSR script: 10 times this beside 0.5 times L1 over 0..255, hence 20 / 255 beside an L1 over
# 0..1 of weight 1. There it sums three layers, here there is one.
WEIGHT = 0.078


def affinity(feature: Tensor) -> Tensor:
    """Cosines between the channel vectors of all pixels: (C, h, w) -> (h w, h w)."""
    pixels = F.normalize(feature.flatten(1), dim=0, eps=1e-7)
    return pixels.T @ pixels


def affinity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute distance of affinities: (N, C_S, h, w) and (N, C_T, h, w), N frames.

    One frame's matrices are alive at a time, and are made anew in the backward pass: a frame of
    64 x 64 has 16.8 million pairs.
    """
    with torch.autocast(student.device.type, enabled=False):
        distances = [
            checkpoint(_distance, *pair, use_reentrant=False, preserve_rng_state=False)
            for pair in zip(student.float(), teacher.float(), strict=True)
        ]
        return torch.stack(distances).mean()


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    return (affinity(student) - affinity(teacher)).abs().mean()
