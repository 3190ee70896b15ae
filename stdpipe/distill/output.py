"""Plain distillation of the output: the student's SR is drawn to the teacher's.

The weight is FAKD's (its option alpha, 0.5, gives L1 to HR and L1 to the teacher equal parts):
Vincent-Hoo/Knowledge-Distillation-for-Super-resolution.
"""

import torch.nn.functional as F
from torch import Tensor

from stdpipe.distill.term import LossInputs, Term, Value

WEIGHT = 1.0
BORDER = 4  # HR pixels at a crop's border that are left out


def output_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean absolute distance of SR images (..., 3, H, W), the border left out.

    The teacher's image is made of a crop of its f_sr and LR. Within the border, its last 3x3
    convolution and the bilinear base would see beyond the crop; further inside it is the crop of
    the whole image.
    """
    inside = (..., slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    return F.l1_loss(student[inside].float(), teacher[inside].float())


def _compute(x: LossInputs) -> Value:
    return Value(output_loss(x.student.sr, x.batch["sr"]))


TERM = Term(
    _compute,
    needs="sr",
    weight=WEIGHT,
    source="FAKD, He et al. 2020",
    about="The mean absolute distance to the SR image of a teacher (EDVR, FastDVDnet or RBPN).",
)
