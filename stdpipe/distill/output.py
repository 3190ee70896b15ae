"""Plain distillation of the output: the student's SR is drawn to the teacher's."""

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from stdpipe.distill.term import LossInputs, Term, Value
from stdpipe.models.luma import luma

BORDER = 4  # HR pixels at a crop's border that are left out


def output_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean absolute distance of images (..., 3 or 1, H, W), the border left out.

    The teacher's image is made of crops of its f_sr and of LR. At the border, its last 3x3
    convolution and the bilinear base lack the pixels beyond the crop.
    """
    inside = (..., slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    return F.l1_loss(student[inside].float(), teacher[inside].float())


def target(teacher: Tensor, hr: Tensor, share: float | Tensor) -> Tensor:
    """Return the image that lies a share of the way from the teacher's to HR, (..., 3 or 1, H, W):
    ECO's interpolated target (AAAI 2024) where the share grows over the run."""
    if isinstance(share, float) and not share:
        return teacher
    return torch.lerp(teacher, hr.to(teacher.dtype), share)


def _compute(control: bool, x: LossInputs) -> Value:
    """Return the distance of images, or of their luma where the teacher gives that alone."""
    student, hr, teacher = x.student.sr.float(), x.batch["hr"], x.batch["sr"]
    if teacher.shape[-3] == 1:
        student, hr = luma(student), luma(hr)
    eased = min(x.progress / x.output_to_hr, 1.0) if x.output_to_hr else 0.0
    share: float | Tensor = 1.0 if control else eased
    if "has_hr" in x.batch and share:
        share = share * x.batch["has_hr"].to(teacher.dtype)[..., None, None, None]
    return Value(output_loss(student, target(teacher, hr, share)))


TERM = Term(
    partial(_compute, False),
    needs="sr",
    weight=1.0,  # FAKD's alpha of 0.5 gives L1 to HR and L1 to the teacher equal parts
    source="FAKD, He et al. 2020",
    about="The mean absolute distance to the teacher's SR image, or to its luma if that is all.",
)
CONTROL = replace(
    TERM,
    compute=partial(_compute, True),
    source="none",
    about="The control of `output`: the same distance to HR, in place of the teacher's image.",
)
TERMS = {"output": TERM, "output-hr": CONTROL}
