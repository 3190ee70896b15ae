"""L_rec, by hand, and in half precision."""

import math

import pytest
import torch

from stdpipe.distill.charbonnier import charbonnier


def test_by_hand() -> None:
    """Mean over all pixels of sqrt(d^2 + 1e-12)."""
    sr, hr = torch.tensor([0.5, 0.0, 1.0]), torch.tensor([0.25, 0.0, 1.0])
    expected = (math.sqrt(0.0625 + 1e-12) + 1e-6 + 1e-6) / 3
    assert float(charbonnier(sr, hr)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision(dtype: torch.dtype) -> None:
    """Computed in float32: where SR equals HR, the loss is 1e-6 and its gradient zero, not NaN."""
    sr = torch.full((4,), 0.5, dtype=dtype, requires_grad=True)
    loss = charbonnier(sr, torch.full((4,), 0.5, dtype=dtype))
    loss.backward()
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(1e-6)
    assert sr.grad is not None
    assert sr.grad.tolist() == [0.0] * 4


def test_gradient_is_a_sign() -> None:
    """Far from zero it is L1's: each of n pixels pulls with 1/n."""
    sr = torch.tensor([0.9, 0.1], requires_grad=True)
    charbonnier(sr, torch.tensor([0.5, 0.5])).backward()
    assert sr.grad is not None
    assert sr.grad.tolist() == pytest.approx([0.5, -0.5])


def test_clips_without_hr_count_as_no_distance() -> None:
    """Those with HR weigh the same whatever lies beside them, and get the same gradient."""
    sr = torch.rand(3, 2, 3, 4, 4, requires_grad=True)
    hr, has_hr = torch.rand(3, 2, 3, 4, 4), torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    loss = charbonnier(sr, hr, has_hr)
    kept = [0, 2]
    torch.testing.assert_close(loss, charbonnier(sr[kept], hr[kept]) * 2 / 3)
    (masked,) = torch.autograd.grad(loss, sr)
    (whole,) = torch.autograd.grad(charbonnier(sr, hr), sr)
    assert not masked[1].any()
    torch.testing.assert_close(masked[kept], whole[kept])
