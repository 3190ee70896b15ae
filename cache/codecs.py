"""From teacher values to stored values. Encodings to come (int8, trunk-*) get their case here."""

import numpy as np
from numpy.typing import NDArray

from stdpipe.cache.layout import DTYPES

_FLOAT16_ROUNDS_TO_INF = 65520.0  # halfway between the largest float16, 65504, and the next step


def encode(values: NDArray[np.float32], encoding: str) -> NDArray[np.generic]:
    """float32 values of any shape as the array to store, in the dtype of `encoding`.

    Raises ValueError where a value is not finite or, for float16, too large.
    """
    assert encoding in DTYPES
    assert values.dtype == np.float32
    # max and min carry NaN through and need no temporary of the array's size
    largest = float(np.maximum(values.max(), -values.min()))
    if not np.isfinite(largest):
        raise ValueError("holds values that are not finite: check the teacher and its weights")
    if encoding == "float16" and largest >= _FLOAT16_ROUNDS_TO_INF:
        raise ValueError(
            f"its largest value {largest:g} overflows float16 (65504): use --encoding float32"
        )
    return np.ascontiguousarray(values, dtype=DTYPES[encoding])
