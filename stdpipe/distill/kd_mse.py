"""KD-MSE, the plainest feature distillation: mean square distance of F^SR (paper, Table 3)."""

import torch.nn.functional as F
from torch import Tensor

from stdpipe.distill.term import F_SR, LossInputs, Term, Value, adapter

WEIGHT = 1.0  # the paper gives none


def kd_mse_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean of (F_S - F_T)^2 over f_sr of equal shapes, (B, T, C, H, W)."""
    return F.mse_loss(student.float(), teacher.float())


def _compute(x: LossInputs) -> Value:
    return Value(kd_mse_loss(x.f_sr, x.batch["f_sr"]))


TERM = Term(
    _compute,
    needs="f_sr",
    weight=WEIGHT,
    source="paper, Table 3",
    about="The mean square distance of F^SR itself.",
    helpers=adapter(F_SR),
)
