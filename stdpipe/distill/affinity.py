"""Feature affinity: cosines between all pixels of a map, drawn to the teacher's.

He, Dai, Lu, Jiang, Xia, "FAKD: Feature-Affinity Based Knowledge Distillation for Efficient Image
Super-Resolution", ICIP 2020; Vincent-Hoo/Knowledge-Distillation-for-Super-resolution. Here on one
map, F^LR: at HR size a 256-pixel crop would have 4 billion pairs. Channels may differ.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stdpipe.distill.term import Term, Value


def affinity(feature: Tensor) -> Tensor:
    """Return the cosines between the channel vectors of all pixels: (C, h, w) -> (h w, h w)."""
    pixels = F.normalize(feature.flatten(1), dim=0, eps=1e-7)
    return pixels.T @ pixels


def affinity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean absolute distance of affinities of N frames: (N, C_S, h, w), (N, C_T, h, w).

    Only one frame's matrices are in memory at a time, and the backward pass computes them again: a
    frame of 64 x 64 has 16.8 million pairs.
    """
    with torch.autocast(student.device.type, enabled=False):
        distances = [
            checkpoint(_distance, *pair, use_reentrant=False, preserve_rng_state=False)
            for pair in zip(student.float(), teacher.float(), strict=True)
        ]
        return torch.stack(distances).mean()


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    return (affinity(student) - affinity(teacher)).abs().mean()


TERM = Term(
    lambda x: Value(affinity_loss(x.student.f_lr.flatten(0, 1), x.batch["f_lr"].flatten(0, 1))),
    needs="f_lr",
    # FAKD's EDSR script weights affinity by 10 and an L1 over 0..255 by 0.5: 20 / 255 beside an L1
    # over 0..1. FAKD sums the losses of three layers.
    weight=0.078,
    source="FAKD, He et al. 2020",
    about="The mean absolute distance between the cosines of all pairs of pixels of F^LR.",
)
TERMS = {"affinity": TERM}
