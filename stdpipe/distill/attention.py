"""Spatial attention maps and space distillation (paper, Section 3.1, Eqs. 1 to 5).

Axes: any leading axes (B, T), then C H W.
"""

import torch.nn.functional as F
from torch import Tensor

from stdpipe.cache.errors import UserError


def attention_map(f_sr: Tensor, kind: str = "sum2") -> Tensor:
    """M(F^SR): (..., C, H, W) -> (..., H, W). "sum" Eq. 1, "sum2" Eq. 2, "max2" Eq. 3."""
    match kind:
        case "sum":
            return f_sr.abs().sum(-3)
        case "sum2":
            return f_sr.square().sum(-3)
        case "max2":
            return f_sr.square().amax(-3)
    raise UserError(f"attention {kind!r} is unknown (known: sum, sum2, max2)")


def sd_loss(student_map: Tensor, teacher_map: Tensor, norm: str = "none") -> Tensor:
    """L_SD, Eq. 5: mean square distance of maps (..., H, W), over frames and pixels.

    norm="l2" first divides each map by its own L2 norm (Zagoruyko and Komodakis 2017).
    """
    if norm == "l2":
        student_map = F.normalize(student_map.flatten(-2), dim=-1)
        teacher_map = F.normalize(teacher_map.flatten(-2), dim=-1)
    return F.mse_loss(student_map, teacher_map)
