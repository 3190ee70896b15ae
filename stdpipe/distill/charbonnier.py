"""The reconstruction loss (paper, Eq. 8)."""

from torch import Tensor

EPSILON = 1e-6


def charbonnier(sr: Tensor, hr: Tensor) -> Tensor:
    """Return L_rec: the mean over pixels of sqrt((SR - HR)^2 + eps^2) for equal shapes, in [0, 1].

    Computed in float32, since eps^2 would vanish in half precision.
    """
    return ((sr.float() - hr.float()).square() + EPSILON**2).sqrt().mean()
