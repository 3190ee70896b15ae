"""PISR, privileged information: a teacher that encodes HR tells the student what LR lacks.

Lee, Lee, Kim, Ham, "Learning with Privileged Information for Efficient Image Super-Resolution",
ECCV 2020; cvlab-yonsei/PISR. The teacher is stdpipe.models.pisr, whose features are cached. Two
adapters predict them from the student's, as the location and the scale of a Laplace distribution
for every channel and pixel: where the student cannot follow the teacher, a large scale makes the
error count less. The adapters are trained with the student and left behind.

The original distils its network's last feature before the last layer. That is F^SR for networks
that work at HR, such as VDSR of the paper's Table 1: term `pisr-sr`. From `pisr`, on F^LR, the
layers behind F^LR learn nothing.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.distill.term import F_LR, F_SR, FeatureLevel, LossInputs, Term, Value

SCALE, EPSILON = 0.1, 1e-8  # the published code has b = 0.1 softplus(.) + 1e-8


class Adapters(nn.Module):
    """Predict location and scale of the teacher's features from the student's."""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.mean = _adapter(student, teacher)
        self.scale = _adapter(student, teacher)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C_S, h, w) -> mu and b, each (N, C_T, h, w) in float32; b is above zero."""
        mean: Tensor = self.mean(features).float()
        return mean, SCALE * F.softplus(self.scale(features).float()) + EPSILON


def _adapter(channels_in: int, channels_out: int) -> nn.Sequential:
    hidden = nn.Conv2d(channels_in, channels_in, 1)
    return nn.Sequential(hidden, nn.PReLU(), nn.Conv2d(channels_in, channels_out, 1))


def laplace_loss(mean: Tensor, scale: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean negative log-likelihood log 2b + |F_T - mu| / b of features of equal shapes.

    It may be negative: where mu equals the teacher's feature, log 2b is left.
    """
    return ((2 * scale).log() + (teacher.float() - mean).abs() / scale).mean()


def imitation_loss(encoded: Tensor, lr: Tensor) -> Tensor:
    """Return the mean absolute distance between a teacher's encoding of HR and LR, (..., 3, h, w).

    It keeps the encoding near LR, so that it carries no more than a student could use.
    """
    return F.l1_loss(encoded.float(), lr)


def term(level: FeatureLevel, role: str) -> Term:
    """Return the likelihood term on one level; its adapters are the helper `role`."""
    return Term(
        partial(_compute, level, role),
        needs=level.features,
        weight=1e-6,  # beside an L1 over 0..1 (the published configs/fsrcnn/step2.yml)
        source="Lee et al. 2020",
        about=f"The negative log-likelihood of a privileged teacher's {level.title} (see below).",
        helpers={role: lambda channels: Adapters(*channels[level.features])},
        privileged=True,
    )


def _compute(level: FeatureLevel, role: str, x: LossInputs) -> Value:
    student = getattr(x.student, level.features)
    mean, scale = x.helpers[role](student.flatten(0, 1))
    return Value(laplace_loss(mean, scale, x.batch[level.features].flatten(0, 1)))


TERMS = {"pisr": term(F_LR, "pisr"), "pisr-sr": term(F_SR, "pisr_sr")}
