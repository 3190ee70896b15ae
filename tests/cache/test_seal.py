"""JSON under its own checksum."""

import pytest
from hypothesis import given, strategies as st

from stdpipe.cache.errors import DamagedError
from stdpipe.cache.seal import parse_sealed, read_text_sealed, seal, seal_text, unseal

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


def test_no_flip_makes_sealed_text_of_text_that_never_was():
    text = seal({"key": "a@0", "steps": 12})
    assert parse_sealed(text, "it") == {"key": "a@0", "steps": 12}
    for position in range(len(text) * 8):
        flipped = bytearray(text)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(DamagedError, match="it is damaged"):
            parse_sealed(bytes(flipped), "it")
    for size in range(len(text)):
        with pytest.raises(ValueError, match="it is"):  # damaged, or no JSON
            parse_sealed(text[:size], "it")
    assert parse_sealed(b'{"key": "a@0", "steps": 12}', "it") == {"key": "a@0", "steps": 12}


def test_sealed_lines_below_a_comment(tmp_path):
    """A cut may leave an empty file, or a part of the comment, which is no config of anything."""
    file, text = tmp_path / "config.yaml", "steps: 12\nlr: 0.1\n"
    whole = seal_text(text)
    file.write_bytes(whole)
    assert read_text_sealed(file) == text
    for position in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        file.write_bytes(flipped)
        with pytest.raises(DamagedError, match="damaged"):
            read_text_sealed(file)
    for size in range(5, len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(DamagedError, match="damaged"):
            read_text_sealed(file)
    file.write_text(text)
    assert read_text_sealed(file) == text
