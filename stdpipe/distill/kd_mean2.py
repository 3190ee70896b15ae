"""KD-M_mean^2: first-order statistics of F^LR (paper, Table 3).

Gao, Zhao, Li, Tong, "Image Super-Resolution Using Knowledge Distillation", ACCV 2018. A statistic
has one channel, so that teacher and student may differ in theirs.
"""

import torch.nn.functional as F
from torch import Tensor

from stdpipe.distill.term import LossInputs, Term, Value

WEIGHT = 1.0  # the paper gives none


def mean2_map(f_lr: Tensor) -> Tensor:
    """Return M_mean^2, the square of the mean over channels, (..., C, h, w) -> (..., h, w)."""
    return f_lr.float().mean(-3).square()


def kd_mean2_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean square distance of the maps of (B, T, C_S, h, w) and (B, T, C_T, h, w)."""
    return F.mse_loss(mean2_map(student), mean2_map(teacher))


def _compute(x: LossInputs) -> Value:
    return Value(kd_mean2_loss(x.student.f_lr, x.batch["f_lr"]))


TERM = Term(
    _compute,
    needs="f_lr",
    weight=WEIGHT,
    source="Gao et al. 2018; paper, Table 3",
    about="The mean square distance between squared channel means of F^LR.",
)
