"""Distillation of the output, by hand."""

import pytest
import torch

from stdpipe.distill.output import BORDER, TERM, TERMS, output_loss
from stdpipe.distill.term import LossInputs
from stdpipe.models.base import Features
from stdpipe.models.luma import luma

EMPTY = torch.empty(0)
STUDENT, TEACHER, HR = torch.rand(3, 1, 2, 3, 12, 16, generator=torch.Generator().manual_seed(0))


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


def value(teacher: torch.Tensor, **options: float) -> torch.Tensor:
    features = Features(EMPTY, EMPTY, EMPTY, STUDENT)
    return TERM.compute(LossInputs(features, {"hr": HR, "sr": teacher}, {}, **options)).value


@pytest.mark.parametrize(("progress", "share"), [(0, 0), (0.2, 0.25), (0.4, 0.5), (0.9, 1)])
@pytest.mark.parametrize("see", [lambda rgb: rgb, luma], ids=["rgb", "luma"])
def test_the_target_goes_from_the_teachers_image_to_hr(see, progress, share) -> None:  # type: ignore[no-untyped-def]
    """Linearly over 0.8 of the run, then it stays; in luma where the teacher gives no more."""
    target = (1 - share) * see(TEACHER) + share * see(HR)
    found = value(see(TEACHER), output_to_hr=0.8, progress=progress)
    torch.testing.assert_close(found, output_loss(see(STUDENT), target))


def test_the_target_stays_the_teachers_unless_asked_otherwise() -> None:
    assert torch.equal(value(TEACHER, progress=0.9), output_loss(STUDENT, TEACHER))


def test_a_teacher_of_luma_says_nothing_of_colour() -> None:
    """Two images of one luma are equally far from it."""
    grey = luma(STUDENT) + 0.25
    torch.testing.assert_close(value(grey), torch.tensor(0.25))


def test_the_control_is_the_same_but_for_its_target() -> None:
    for see in (lambda rgb: rgb, luma):
        features = Features(EMPTY, EMPTY, EMPTY, STUDENT)
        inputs = LossInputs(features, {"hr": HR, "sr": see(TEACHER)}, {})
        found = TERMS["output-hr"].compute(inputs).value
        torch.testing.assert_close(found, output_loss(see(STUDENT), see(HR)))
