"""Attention maps and L_SD, by hand."""

import pytest
import torch

from stdpipe.distill.attention import attention_map, sd_loss

# Two channels of one row, two pixels: (3, -1) and (-4, 2).
F_SR = torch.tensor([[[3.0, -1.0]], [[-4.0, 2.0]]])


@pytest.mark.parametrize(
    ("kind", "expected"), [("sum", [7.0, 3.0]), ("sum2", [25.0, 5.0]), ("max2", [16.0, 4.0])]
)
def test_maps_by_hand(kind: str, expected: list[float]) -> None:
    """Eqs. 1 to 3 of the paper on two pixels; any axes may lead."""
    assert attention_map(F_SR, kind).tolist() == [expected]
    clips = attention_map(F_SR.expand(2, 7, -1, -1, -1), kind)
    assert clips.shape == (2, 7, 1, 2)
    assert clips[1, 6].tolist() == [expected]


def test_sum2_is_the_default() -> None:
    """The paper's choice, and what a cache holds."""
    assert torch.equal(attention_map(F_SR), attention_map(F_SR, "sum2"))


def test_unknown_kind() -> None:
    """Named, with those that are known."""
    with pytest.raises(ValueError, match=r"attention 'mean' is unknown \(known: sum, sum2, max2\)"):
        attention_map(F_SR, "mean")


def test_sd_by_hand() -> None:
    """Mean over frames and pixels of the squared distance, Eq. 5."""
    student = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]])  # two frames of 1 x 2
    teacher = torch.tensor([[[2.0, 4.0]], [[0.0, 3.0]]])
    assert sd_loss(student, teacher) == (1 + 4 + 0 + 9) / 4


def test_sd_is_the_mean_of_its_frames() -> None:
    """Eq. 5's average over t, whatever T is; a longer clip does not weigh more."""
    student, teacher = torch.rand(2, 2, 7, 4, 5)
    frames = [sd_loss(student[:, t], teacher[:, t]) for t in range(7)]
    torch.testing.assert_close(sd_loss(student, teacher), torch.stack(frames).mean())


def test_l2_compares_shapes_not_sizes() -> None:
    """Each frame's map is divided by its own norm: scaling either side changes nothing."""
    student, teacher = torch.rand(2, 2, 3, 4, 5)
    plain = sd_loss(student, teacher, "l2")
    torch.testing.assert_close(sd_loss(3 * student, teacher, "l2"), plain)
    each = torch.tensor([[1.0], [10.0], [0.1]])[..., None]
    torch.testing.assert_close(sd_loss(student, teacher * each, "l2"), plain)
    assert sd_loss(student, 5 * student, "l2") < 1e-12


def test_l2_by_hand() -> None:
    """(3, 4) / 5 against (1, 0): (0.4^2 + 0.8^2) / 2. A map of zeros stays zeros, not NaN."""
    one, other = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[1.0, 0.0]]])
    assert float(sd_loss(one, other, "l2")) == pytest.approx((0.16 + 0.64) / 2)
    assert float(sd_loss(torch.zeros(1, 1, 2), other, "l2")) == pytest.approx(0.5)
