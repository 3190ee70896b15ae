"""KD-MSE, the plainest feature distillation: mean square distance of F^SR (paper, Table 3)."""

import torch.nn.functional as F
from torch import Tensor

WEIGHT = 1.0  # the paper gives none


def kd_mse_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of (F_S - F_T)^2 over f_sr of equal shapes, (B, T, C, H, W)."""
    return F.mse_loss(student.float(), teacher.float())
