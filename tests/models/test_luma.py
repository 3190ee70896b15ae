"""Y alone: the constants of the metrics, and the way to YCbCr and back, done the long way."""

import torch
from torch import Tensor

from stdpipe.evaluation import metrics
from stdpipe.models.luma import luma, with_luma

RGB = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
# BT.601: rows Y, Cb, Cr of RGB in [0, 1], in units of 1/255
FORWARD = torch.tensor(
    [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]],
    dtype=torch.float64,
)


def to_ycbcr(rgb: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", FORWARD, rgb)


def test_luma_is_the_metrics() -> None:
    torch.testing.assert_close(luma(RGB)[:, 0] * 255, metrics.luma(RGB))


def test_replaced_luma_keeps_chroma() -> None:
    """Against the published matrix and its inverse; the offsets of 16 and 128 cancel."""
    y = torch.rand(2, 1, 5, 7, dtype=torch.float64)
    long_way = to_ycbcr(RGB)
    long_way[:, :1] = 255 * y - metrics.LUMA_BLACK
    expected = torch.einsum("ij,bjhw->bihw", FORWARD.inverse(), long_way)
    # the published matrix has three decimals, and so is its own inverse to three
    torch.testing.assert_close(with_luma(y, RGB), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(luma(with_luma(y, RGB)), y)


def test_own_luma_changes_nothing() -> None:
    torch.testing.assert_close(with_luma(luma(RGB), RGB), RGB)
