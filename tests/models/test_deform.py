"""Our deformable convolution against torchvision's, against a loop, and at its edges."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from stdpipe.models.deform import DeformConvPack, deform_conv2d


def inputs(
    height: int,
    width: int,
    *,
    groups: int = 2,
    spread: float = 3.0,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, offset, mask, weight, bias: batch 2, 4 channels in, 3 out, offsets of `spread` pixels.

    No offset is near a whole pixel, where bilinear sampling has a kink and a gradient two values.
    """
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)

    offset = normal(2, 2 * groups * 9, height, width) * spread
    offset = offset.floor() + 0.05 + 0.9 * offset.frac().abs()
    mask = torch.sigmoid(normal(2, groups * 9, height, width))
    return normal(2, 4, height, width), offset, mask, normal(3, 4, 3, 3), normal(3)


def by_hand(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The definition, pixel by pixel and tap by tap; nothing is shared with the real one."""
    batch, channels, height, width = x.shape
    groups = mask.shape[1] // 9
    out = bias[None, :, None, None].repeat(batch, 1, height, width)
    for b in range(batch):
        for c in range(channels):
            for tap in range(9):
                k = c // (channels // groups) * 9 + tap
                for i in range(height):
                    for j in range(width):
                        y = i + tap // 3 - 1 + float(offset[b, 2 * k, i, j])
                        x_ = j + tap % 3 - 1 + float(offset[b, 2 * k + 1, i, j])
                        value = sample(x[b, c], y, x_) * mask[b, k, i, j]
                        out[b, :, i, j] += weight[:, c, tap // 3, tap % 3] * value
    return out


def sample(image: Tensor, y: float, x: float) -> float:
    """Bilinear between four pixels; a pixel outside the image is zero."""
    top, left = int(y // 1), int(x // 1)
    total = 0.0
    for i in (top, top + 1):
        for j in (left, left + 1):
            if 0 <= i < image.shape[0] and 0 <= j < image.shape[1]:
                total += (1 - abs(y - i)) * (1 - abs(x - j)) * float(image[i, j])
    return total


@pytest.mark.parametrize(("height", "width"), [(4, 5), (1, 5), (4, 1), (1, 1)])
def test_equals_the_definition(height: int, width: int) -> None:
    """To rounding, in float64, where offsets leave the image, and for sides of one pixel."""
    case = inputs(height, width, dtype=torch.float64, spread=2.0)
    torch.testing.assert_close(deform_conv2d(*case), by_hand(*case), rtol=1e-10, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    groups=st.sampled_from([1, 2, 4]),
    spread=st.sampled_from([0.0, 0.5, 3.0, 50.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)
def test_equals_torchvisions(
    height: int, width: int, groups: int, spread: float, dtype: torch.dtype, seed: int
) -> None:
    """In value and in the gradient of every input: float32 to 1e-4, float64 to 1e-9."""
    ops = pytest.importorskip("torchvision.ops", reason="extra: test")
    case = inputs(height, width, groups=groups, spread=spread, dtype=dtype, seed=seed)
    ours = [t.clone().requires_grad_() for t in case]
    theirs = [t.clone().requires_grad_() for t in case]
    x, offset, mask, weight, bias = theirs
    out = deform_conv2d(*ours)
    expected = ops.deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    pull = torch.linspace(-1, 1, out.numel(), dtype=dtype).reshape(out.shape)
    (out * pull).sum().backward()
    (expected * pull).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [(6, 7), (1, 7)])
def test_no_offset_and_full_mask_is_a_convolution(size: tuple[int, int]) -> None:
    """With "same" zero padding; whole-pixel offsets shift the image first."""
    x, offset, mask, weight, bias = inputs(*size)
    offset, mask = torch.zeros_like(offset), torch.ones_like(mask)
    plain = F.conv2d(x, weight, bias, padding=1)
    out = deform_conv2d(x, offset, mask, weight, bias)
    torch.testing.assert_close(out, plain, rtol=1e-4, atol=1e-5)
    offset[:, 1::2] = 2.0  # every tap looks two columns to the right
    shifted = F.conv2d(F.pad(x, (0, 2)), weight, bias, padding=1)[..., 2:]
    out = deform_conv2d(x, offset, mask, weight, bias)
    inner = slice(1, -1)  # at the ends, the shifted image's own padding differs
    torch.testing.assert_close(out[..., inner], shifted[..., inner], rtol=1e-4, atol=1e-5)


def test_far_outside_there_is_nothing() -> None:
    """Offsets of a thousand pixels leave the bias alone, and nothing that is not a number."""
    x, offset, mask, weight, bias = inputs(4, 4)
    out = deform_conv2d(x, torch.full_like(offset, 1000.0), mask, weight, bias)
    torch.testing.assert_close(out, bias[None, :, None, None].expand_as(out))


def test_under_autocast() -> None:
    """bfloat16 on the CPU: runs forward and backward, and is off by bfloat16's rounding alone."""
    case = [t.requires_grad_() for t in inputs(5, 6)]
    with torch.autocast("cpu", torch.bfloat16):
        out = deform_conv2d(*case)
    torch.testing.assert_close(out.float(), deform_conv2d(*case), rtol=0.05, atol=0.1)
    out.float().sum().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in case)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision(dtype: torch.dtype) -> None:
    """A network cast to half precision as a whole samples in float32 and returns its own dtype."""
    case = inputs(5, 6)
    out = deform_conv2d(*(t.to(dtype) for t in case))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), deform_conv2d(*case), rtol=0.1, atol=0.3)


def test_exports() -> None:
    """torch.export takes the layer as it is, and the exported program gives the same numbers."""
    layer = DeformConvPack(4, 2)
    nn.init.normal_(layer.conv_offset.weight)
    arguments: Any = (torch.rand(1, 4, 6, 7), torch.rand(1, 4, 6, 7))
    exported = torch.export.export(layer, arguments).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(*arguments), layer(*arguments))


def test_the_layer_starts_as_half_a_convolution() -> None:
    """conv_offset is zero at first: no offset, and a mask of sigmoid(0)."""
    layer = DeformConvPack(4, 2)
    x = torch.rand(1, 4, 6, 6)
    half = F.conv2d(x, layer.weight, padding=1) / 2 + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x, torch.rand(1, 4, 6, 6)), half, rtol=1e-5, atol=1e-6)
