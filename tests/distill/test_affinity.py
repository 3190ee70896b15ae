"""Feature affinity, by hand, and one frame at a time."""

import pytest
import torch

from stdpipe.distill.affinity import affinity, affinity_loss

# Two pixels, (3, 4) and (0, 2), of length 5 and 2; their cosine is 0.8.
ONE = torch.tensor([[[3.0, 0.0]], [[4.0, 2.0]]])
# Two pixels at a right angle, in three channels.
OTHER = torch.tensor([[[1.0, 0.0]], [[0.0, 7.0]], [[0.0, 0.0]]])


def test_by_hand() -> None:
    """The channel vectors' lengths do not count, and channels may differ in number."""
    torch.testing.assert_close(affinity(ONE), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
    torch.testing.assert_close(affinity(OTHER), torch.eye(2))
    assert float(affinity_loss(ONE[None], OTHER[None])) == pytest.approx(1.6 / 4)
    assert affinity_loss(ONE[None], 3 * ONE[None]) < 1e-7


def test_the_mean_of_its_frames() -> None:
    """Frames are not compared with each other."""
    student, teacher = torch.rand(3, 4, 2, 3), torch.rand(3, 5, 2, 3)
    each = [affinity_loss(s[None], t[None]) for s, t in zip(student, teacher, strict=True)]
    torch.testing.assert_close(affinity_loss(student, teacher), torch.stack(each).mean())


def test_gradient_made_anew_is_the_gradient() -> None:
    """Against the same formula without checkpoints."""
    student = torch.rand(2, 4, 2, 3, dtype=torch.float64).float().requires_grad_()
    teacher = torch.rand(2, 5, 2, 3)
    (ours,) = torch.autograd.grad(affinity_loss(student, teacher), student)
    plain = torch.stack([
        (affinity(s) - affinity(t)).abs().mean() for s, t in zip(student, teacher, strict=True)
    ])  # fmt: skip
    (expected,) = torch.autograd.grad(plain.mean(), student)
    torch.testing.assert_close(ours, expected)


def test_a_black_pixel_is_no_nan() -> None:
    """All channels zero, as after a ReLU."""
    student = torch.zeros(1, 4, 1, 2).requires_grad_()
    affinity_loss(student, ONE[None]).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
