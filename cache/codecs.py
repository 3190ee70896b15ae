"""Encode a teacher's values as they are stored, and decode them, one entry at a time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdpipe.cache.errors import UserError
from stdpipe.cache.layout import INT8_LIMIT

_FLOAT16_ROUNDS_TO_INF = 65520.0  # halfway between the largest float16, 65504, and the next step


def encode(values: NDArray[np.floating[Any]], dtype: str) -> NDArray[np.generic]:
    """Convert values of any shape, float32 or already of `dtype`, to float32 or float16.

    Raises UserError where a value is not finite or, for float16, too large.
    """
    assert dtype in ("float32", "float16")
    assert values.dtype in (np.float32, dtype)
    # max and min carry NaN through and need no temporary of the array's size
    largest = float(np.maximum(values.max(), -values.min()))
    _refuse_not_finite(largest)
    if dtype == "float16" and largest >= _FLOAT16_ROUNDS_TO_INF:
        advice = "use --encoding float32 or trunk-float32"
        raise UserError(f"its largest value {largest:g} overflows float16 (65504): {advice}")
    return np.ascontiguousarray(values, dtype=dtype)


def quantise(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 codes of (T, C, H, W) and their scale (2, C): code * scale[0] + scale[1].

    The codes of a channel span its least to its greatest value over all frames: clipping outliers
    was measured to lose more than it gains. Raises UserError where a value is not finite.
    """
    low, high = values.min((0, 2, 3)), values.max((0, 2, 3))
    _refuse_not_finite(float(np.maximum(high, -low).max()))
    step = (high - low) / np.float32(2 * INT8_LIMIT)
    step = np.where(step > 0, step, np.float32(1)).astype(np.float32)  # a constant channel
    middle = ((high + low) / np.float32(2)).astype(np.float32)
    codes = values - middle[:, None, None]
    codes /= step[:, None, None]
    np.rint(codes, out=codes)
    np.clip(codes, -INT8_LIMIT, INT8_LIMIT, out=codes)
    return codes.astype(np.int8), np.stack((step, middle))


def dequantise(codes: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Undo `quantise` to within half a step, for any crop (t, C, h, w) and its scale (2, C)."""
    step, middle = scale[:, :, None, None]
    values: NDArray[np.float32] = codes.astype(np.float32) * step + middle
    return values


def check_codes(codes: NDArray[np.int8], scale: NDArray[np.float32] | None) -> None:
    """Raise UserError for codes that `quantise` would not make, or a missing scale (2, C)."""
    shape = (2, codes.shape[1])
    if scale is None or scale.shape != shape or scale.dtype != np.float32:
        raise UserError(f"int8 codes need a float32 scale {shape} beside them")
    if not np.isfinite(scale).all():
        raise UserError("its scale is not finite: check the teacher and its weights")
    if int(codes.min()) < -INT8_LIMIT:
        raise UserError(f"a code lies below -{INT8_LIMIT}")


def _refuse_not_finite(largest: float) -> None:
    if not np.isfinite(largest):
        raise UserError("holds values that are not finite: check the teacher and its weights")
