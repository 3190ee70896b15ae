"""Caches of older formats stay readable: golden/v1 was written once and is never rewritten.

It has two entries of float16 values k/8 (frame, channel, row and column counted through), one
frame, two channels, 6 x 10. A change of the format adds a golden/v2 beside it.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from stdpipe.cache import load_manifest, open_reader, verify

V1 = Path(__file__).parent / "golden" / "v1"


@pytest.fixture
def golden(tmp_path):
    """A copy, so that no test can touch the original."""
    return Path(shutil.copytree(V1, tmp_path / "v1"))


def test_version_1(golden):
    reader = open_reader(golden, {"teacher": "golden", "encoding": "float16"})
    assert reader.entries == {"00001/0001@0": 0, "00001/0002@5": 1}
    for key, index in reader.entries.items():
        f_sr = (np.arange(120).reshape(1, 2, 6, 10) + index).astype(np.float16) / 8
        attention = (np.arange(60).reshape(1, 6, 10) - index).astype(np.float16) / 8
        assert (reader.read(key, "f_sr") == f_sr).all()
        assert (reader.read(key, "attention") == attention).all()
        assert reader.extra(key) == {"source_crc32": index}


def test_version_1_is_whole(golden):
    report = verify(golden)
    assert (report.ok, report.broken, report.uncommitted) == (2, [], [])


def test_version_1_has_its_identity():
    """Else every cache of version 1 would be refused on resume."""
    identity = "1a6dc68b9d1e5beea6823a5c9f3b79dc79ef335fe3583b511ca31f0168504f3d"
    assert load_manifest(V1).cache_id == identity
