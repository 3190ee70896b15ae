"""The reconstruction loss (paper, Eq. 8)."""

from torch import Tensor

EPSILON = 1e-6


def charbonnier(sr: Tensor, hr: Tensor) -> Tensor:
    """L_rec: mean over pixels of sqrt((SR - HR)^2 + eps^2), eps 1e-6. Any equal shapes, in [0, 1].

    In float32 whatever the network ran in: eps^2 vanishes in half precision.
    """
    return ((sr.float() - hr.float()).square() + EPSILON**2).sqrt().mean()
