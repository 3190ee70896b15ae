"""KD-MSE and KD-M_mean^2 (paper, Table 3), by hand."""

import torch

from stdpipe.distill.kd import kd_mean2_loss, kd_mse_loss, mean2_map

# Two channels of one row, two pixels.
STUDENT = torch.tensor([[[3.0, -1.0]], [[-4.0, 2.0]]])


def test_mse_by_hand() -> None:
    """Over all channels and pixels: (9 + 1 + 16 + 4) / 4 against zeros."""
    assert kd_mse_loss(STUDENT, torch.zeros(2, 1, 2)) == 30 / 4
    assert kd_mse_loss(STUDENT, STUDENT) == 0


def test_mean2_by_hand() -> None:
    """Means over channels are -0.5 and 0.5, squares 0.25; against a teacher of one channel."""
    assert mean2_map(STUDENT).tolist() == [[0.25, 0.25]]
    teacher = torch.tensor([[[1.0, 0.5]]])  # squares 1 and 0.25
    assert kd_mean2_loss(STUDENT, teacher) == (0.75**2 + 0) / 2


def test_mean2_is_the_square_of_the_mean() -> None:
    """Not the mean of squares: channels that cancel count nothing, and their sign is lost."""
    cancelling = torch.tensor([[[2.0]], [[-2.0]]])
    assert mean2_map(cancelling).item() == 0
    assert kd_mean2_loss(STUDENT, -STUDENT) == 0


def test_leading_axes() -> None:
    """B and T in front: the mean over all maps."""
    clips, other = torch.rand(2, 3, 4, 5, 6), torch.rand(2, 3, 2, 5, 6)
    each = [kd_mean2_loss(a, b) for a, b in zip(clips.flatten(0, 1), other.flatten(0, 1),
                                                strict=True)]  # fmt: skip
    torch.testing.assert_close(kd_mean2_loss(clips, other), torch.stack(each).mean())
