"""Checksummed JSON and atomic replacement."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdpipe.cache.durable import file_checksum, replace, seal, unseal

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
finite = scalars.filter(lambda value: value not in (float("inf"), float("-inf")))
objects = st.dictionaries(st.text().filter(lambda key: key != "crc32"), finite, min_size=1)


@given(objects, st.sampled_from([None, 1]))
def test_seal_round_trip(content, indent):
    text = seal(content, indent)
    assert unseal(text) == content
    assert indent is not None or "\n" not in text


def test_every_flipped_bit_is_seen():
    text = seal({"key": "a@0", "arrays": {"f_sr": {"bytes": 12}}}).encode()
    for position in range(len(text) * 8):
        flipped = bytearray(text)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(ValueError):  # noqa: PT011 (also UnicodeDecodeError)
            unseal(flipped.decode())


@pytest.mark.parametrize("text", ["", "{}", "x", '{"a":1}'])
def test_text_that_was_never_sealed(text):
    with pytest.raises(ValueError, match="checksum"):
        unseal(text)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        seal({"x": float("nan")})


def test_replace_leaves_only_the_new_file(tmp_path):
    path = tmp_path / "x.json"
    replace(path, "old")
    replace(path, "new")
    assert [(child.name, child.read_text()) for child in tmp_path.iterdir()] == [("x.json", "new")]


def test_file_checksum_counts_every_block(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"123456789" * 300_000)
    assert file_checksum(path)[0] == 2_700_000
    path.write_bytes(b"123456789")
    assert file_checksum(path) == (9, 0xCBF43926)  # the check value of CRC-32
