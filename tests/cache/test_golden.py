"""Caches of older formats stay readable, or are refused by their version: golden/ holds bytes that
were written once, and are rewritten only on purpose.

v1/ is a manifest alone: version 1 is refused. v2/ holds two caches of two entries, one frame, two
channels, 6 x 10 values k/8 (frame, channel, row and column counted through): float16 as it is, and
a trunk as compressed int8 under attention maps four times as large.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from stdpipe.cache import CacheError, dequantise, load_manifest, open_reader, repair, verify

GOLDEN = Path(__file__).parent / "golden"
ENTRIES = {"00001/0001@0": 0, "00001/0002@5": 1}


@pytest.fixture
def copy(tmp_path):
    """copy("v2/float16"): of its own, so that no test can touch the original."""
    return lambda name: Path(shutil.copytree(GOLDEN / name, tmp_path / name))


def values(index):
    maps = (np.arange(120).reshape(1, 2, 6, 10) + index).astype(np.float16) / 8
    return maps, (np.arange(60).reshape(1, 6, 10) - index).astype(np.float16) / 8


def test_version_2_in_float16(copy):
    reader = open_reader(copy("v2/float16"), {"teacher": "golden", "encoding": "float16"})
    assert reader.entries == ENTRIES
    for key, index in ENTRIES.items():
        f_sr, attention = values(index)
        assert (reader.read(key, "f_sr") == f_sr).all()
        assert (reader.read(key, "attention") == attention).all()
        assert reader.extra(key) == {"source_crc32": index}


def test_version_2_as_a_compressed_trunk(copy):
    reader = open_reader(copy("v2/trunk-int8"), {"compression": "zstd"})
    assert reader.entries == ENTRIES
    assert (reader.tail()["upconv1.bias"] == [0, 1, 2]).all()
    for key, index in ENTRIES.items():
        trunk, attention = values(index)
        found = dequantise(reader.read(key, "trunk"), reader.scale(key, "trunk"))
        assert np.abs(found - trunk).max() <= 60 / 8 / 254 / 2 * 1.001
        assert (reader.read(key, "attention") == np.kron(attention, np.ones((1, 4, 4)))).all()


@pytest.mark.parametrize("name", ["float16", "trunk-int8"])
def test_version_2_is_whole_and_plain_zarr(copy, name):
    root = copy(f"v2/{name}")
    report = verify(root)
    assert (report.ok, report.broken, report.uncommitted) == (2, [], [])
    for array in load_manifest(root).given:
        stored = zarr.open_group(str(root), mode="r")[array]
        assert (np.asarray(stored[1]) == open_reader(root).read("00001/0002@5", array)).all()


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("float16", "22bf84afae00640e1964f47769446349e24a6847abf7b2cd7bc1bf2a08edb2a6"),
        ("trunk-int8", "f742023a61f218852731abd901f1e41095882f441c0952bde652ff068440454a"),
    ],
)
def test_version_2_has_its_identity(name, identity):
    """Else every cache of version 2 would be refused on resume."""
    assert load_manifest(GOLDEN / "v2" / name).cache_id == identity


@pytest.mark.parametrize("command", [load_manifest, open_reader, verify, repair])
def test_version_1_is_refused_by_its_version(copy, command):
    root = copy("v1")
    with pytest.raises(CacheError, match=f"{root} has format version 1, this stdpipe reads 2 and"):
        command(root)
    assert [path.name for path in root.iterdir()] == ["manifest.json"]
