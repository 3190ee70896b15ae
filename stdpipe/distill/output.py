"""Plain distillation of the output: the student's SR is drawn to the teacher's."""

import torch.nn.functional as F
from torch import Tensor

from stdpipe.distill.term import Term, Value
from stdpipe.models.luma import own_image

BORDER = 4  # HR pixels at a crop's border that are left out


def output_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean absolute distance of SR images (..., 3, H, W), the border left out; of luma
    where the teacher's is (..., 1, H, W).

    The teacher's image is made of crops of its f_sr and of LR. At the border, its last 3x3
    convolution and the bilinear base lack the pixels beyond the crop.
    """
    student = own_image(student, teacher.shape[-3])
    inside = (..., slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    return F.l1_loss(student[inside].float(), teacher[inside].float())


TERM = Term(
    lambda x: Value(output_loss(x.student.sr, x.batch["sr"])),
    needs="sr",
    weight=1.0,  # FAKD's alpha of 0.5 gives L1 to HR and L1 to the teacher equal parts
    source="FAKD, He et al. 2020",
    about="The mean absolute distance to the SR image of a teacher (EDVR, FastDVDnet or RBPN).",
)
TERMS = {"output": TERM}
