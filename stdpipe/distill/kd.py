"""The two rivals of the paper's Table 3: KD-MSE on F^SR and KD-M_mean^2 on F^LR.

The latter is from Gao, Zhao, Li, Tong, "Image Super-Resolution Using Knowledge Distillation",
ACCV 2018. It compares one channel, so teacher and student may differ in theirs.
"""

import torch.nn.functional as F
from torch import Tensor

from stdpipe.distill.term import F_SR, Term, Value, adapter


def kd_mse_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean of (F_S - F_T)^2 over f_sr of equal shapes, (B, T, C, H, W)."""
    return F.mse_loss(student.float(), teacher.float())


def mean2_map(f_lr: Tensor) -> Tensor:
    """Return M_mean^2, the square of the mean over channels, (..., C, h, w) -> (..., h, w)."""
    return f_lr.float().mean(-3).square()


def kd_mean2_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean square distance of the maps of (B, T, C_S, h, w) and (B, T, C_T, h, w)."""
    return F.mse_loss(mean2_map(student), mean2_map(teacher))


MSE = Term(
    lambda x: Value(kd_mse_loss(x.f_sr, x.batch["f_sr"])),
    needs="f_sr",
    weight=1.0,  # the paper gives none
    source="paper, Table 3",
    about="The mean square distance of F^SR itself.",
    helpers=adapter(F_SR),
)
MEAN2 = Term(
    lambda x: Value(kd_mean2_loss(x.student.f_lr, x.batch["f_lr"])),
    needs="f_lr",
    weight=1.0,  # the paper gives none
    source="Gao et al. 2018; paper, Table 3",
    about="The mean square distance between squared channel means of F^LR.",
)
TERMS = {"kd-mse": MSE, "kd-mean2": MEAN2}
