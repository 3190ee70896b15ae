"""What an encoding keeps and what it refuses."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from stdpipe.cache.codecs import dequantise, encode, quantise

shapes = hnp.array_shapes(max_dims=3, max_side=5)
inside = st.floats(-65504, 65504, width=32)


@given(hnp.arrays(np.float32, shapes, elements=st.floats(width=32, allow_nan=False)))
def test_float32_is_exact_or_refused(values):
    if np.isfinite(values).all():
        assert encode(values, "float32").tobytes() == values.tobytes()
    else:
        with pytest.raises(ValueError, match="not finite"):
            encode(values, "float32")


@given(hnp.arrays(np.float32, shapes, elements=inside))
def test_float16_rounds_to_the_nearest(values):
    stored = encode(values, "float16")
    assert stored.dtype == np.float16
    assert stored.tobytes() == values.astype(np.float16).tobytes()


@pytest.mark.parametrize("large", [65520.0, -65520.0, 1e30])
def test_float16_overflow_names_the_value_and_the_way_out(large):
    values = np.array([0, large], np.float32)
    with pytest.raises(ValueError, match=rf"{abs(large):g}".replace("+", r"\+")) as caught:
        encode(values, "float16")
    assert "--encoding float32" in str(caught.value)


def test_float16_takes_what_rounds_to_its_largest():
    assert encode(np.array([65519.99], np.float32), "float16") == [65504]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("encoding", ["float32", "float16"])
def test_values_that_are_not_finite(bad, encoding):
    with pytest.raises(ValueError, match="not finite"):
        encode(np.array([1, bad, 2], np.float32), encoding)


def test_strided_values_are_stored_in_order():
    values = np.arange(12, dtype=np.float32).reshape(3, 4).T
    stored = encode(values, "float32")
    assert stored.flags.c_contiguous
    assert (stored == values).all()


maps = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    elements=st.floats(-1000, 1000, width=32),
)


@given(maps)
def test_int8_is_within_half_a_step_of_each_channel(values):
    codes, scale = quantise(values)
    assert codes.dtype == np.int8
    assert codes.min() >= -127  # -128 is the fill value
    error = np.abs(dequantise(codes, scale) - values)
    span = np.ptp(values, axis=(0, 2, 3))
    assert (error.max((0, 2, 3)) <= span / 254 / 2 * 1.001 + 2e-4).all()


def test_int8_keeps_a_constant_channel_exactly():
    values = np.full((2, 1, 3, 3), 0.7, np.float32)
    assert (dequantise(*quantise(values)) == values).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_int8_refuses_values_that_are_not_finite(bad):
    values = np.ones((1, 2, 2, 2), np.float32)
    values[0, 1, 0, 0] = bad
    with pytest.raises(ValueError, match="not finite"):
        quantise(values)
