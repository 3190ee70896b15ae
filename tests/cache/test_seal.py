"""JSON under its own checksum."""

import pytest
from hypothesis import given, strategies as st

from stdpipe.cache.seal import seal, unseal

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
finite = scalars.filter(lambda value: value not in (float("inf"), float("-inf")))
objects = st.dictionaries(st.text().filter(lambda key: key != "crc32c"), finite, min_size=1)


@given(objects, st.sampled_from([None, 1]))
def test_round_trip(content, indent):
    text = seal(content, indent)
    assert unseal(text) == content
    assert text.endswith(b"\n")
    assert indent is not None or text.count(b"\n") == 1


def test_every_flipped_bit_is_seen():
    text = seal({"key": "a@0", "arrays": {"f_sr": {"bytes": 12}}})
    for position in range(len(text) * 8):
        flipped = bytearray(text)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(ValueError, match="checksum"):
            unseal(bytes(flipped))


def test_every_cut_is_seen():
    text = seal({"key": "a@0"}, indent=1)
    for size in range(len(text)):
        with pytest.raises(ValueError, match="checksum"):
            unseal(text[:size])


@pytest.mark.parametrize("text", [b"", b"{}", b"x", b'{"a":1}', b'{"a":1,"crc32":7}\n'])
def test_text_that_was_never_sealed(text):
    with pytest.raises(ValueError, match="checksum"):
        unseal(text)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        seal({"x": float("nan")})
