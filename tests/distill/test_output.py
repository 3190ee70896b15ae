"""Distillation of the output, by hand."""

import torch

from stdpipe.distill.output import BORDER, output_loss


def test_by_hand() -> None:
    """A 9 x 10 image has 1 x 2 pixels inside its border."""
    student, teacher = torch.zeros(2, 3, 9, 10), torch.zeros(2, 3, 9, 10)
    teacher[0, 0, 4, 4] = -3.0
    assert output_loss(student, teacher) == 3 / (2 * 3 * 2)
    assert output_loss(teacher, teacher) == 0


def test_what_a_crop_does_not_know_is_left_out() -> None:
    """The border alone differs: nothing to learn from it."""
    student, teacher = torch.rand(3, 32, 48), torch.rand(3, 32, 48)
    teacher[..., BORDER:-BORDER, BORDER:-BORDER] = student[..., BORDER:-BORDER, BORDER:-BORDER]
    assert output_loss(student, teacher) == 0
