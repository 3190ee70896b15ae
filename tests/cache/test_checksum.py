"""CRC-32C: the right polynomial, in pieces too, of whatever holds bytes."""

import numpy as np
from hypothesis import given, strategies as st

from stdpipe.cache.checksum import crc32c

CHECK_VALUE = 0xE3069283  # of "123456789", as every table of CRCs has it


def test_the_check_value():
    assert crc32c(b"123456789") == CHECK_VALUE
    assert crc32c(b"") == 0


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_in_pieces_as_in_one(parts):
    so_far = 0
    for part in parts:
        so_far = crc32c(part, so_far)
    assert so_far == crc32c(b"".join(parts))


def test_of_any_buffer():
    text = b"123456789"
    writable = np.frombuffer(bytearray(text), np.uint8)
    for buffer in (bytearray(text), memoryview(bytearray(text)), writable, memoryview(text)[:]):
        assert crc32c(buffer) == CHECK_VALUE
    assert writable.flags.writeable
