"""The reconstruction loss (paper, Eq. 8)."""

from torch import Tensor

EPSILON = 1e-6


def charbonnier(sr: Tensor, hr: Tensor, has_hr: Tensor | None = None) -> Tensor:
    """Return L_rec: the mean over pixels of sqrt((SR - HR)^2 + eps^2) for equal shapes, in [0, 1].

    has_hr (B, T): 1 where there is HR, 0 where LR is all; the latter count as a distance of zero,
    so that every clip with HR has the same weight in every batch. Computed in float32, since eps^2
    would vanish in half precision.
    """
    distance = ((sr.float() - hr.float()).square() + EPSILON**2).sqrt()
    if has_hr is not None:
        distance = distance * has_hr[..., None, None, None]
    return distance.mean()
