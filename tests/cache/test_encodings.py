"""Every encoding through the store: what comes back, and that damage is never served."""

import zlib

import numpy as np
import pytest

from stdpipe.cache import ENCODINGS, CacheError, dequantise, open_reader, open_writer, verify

TAIL = {"upconv1.weight": np.arange(12, dtype=np.float32).reshape(3, 4)}


@pytest.fixture(params=[e for e in ENCODINGS if "int8" in e or "trunk" in e])
def made(request, make_manifest, arrays, tmp_path):
    """A finished cache of each newer encoding: its folder and its manifest."""
    manifest = make_manifest(encoding=request.param)
    tail = TAIL if manifest.stored == "trunk" else None
    with open_writer(tmp_path / "c", manifest, tail=tail) as writer:
        for key in manifest.entries:
            writer.write(key, arrays(manifest, key))
        writer.finalise()
    return tmp_path / "c", manifest


def values_of(reader, key, name, **crop):
    stored = reader.read(key, name, **crop)
    return dequantise(stored, reader.scale(key, name)) if stored.dtype == np.int8 else stored


def test_round_trip_within_the_encodings_own_error(made, arrays):
    root, manifest = made
    reader = open_reader(root)
    tolerance = {"float32": 0, "float16": 3e-3, "int8": 0.03}[manifest.encoding.split("-")[-1]]
    for key in manifest.entries:
        wanted = arrays(manifest, key)[manifest.stored]
        got = values_of(reader, key, manifest.stored)
        assert np.abs(got - wanted).max() <= tolerance


def test_a_crop_of_what_is_read_is_what_is_read_of_the_crop(made):
    root, manifest = made
    reader = open_reader(root)
    key = manifest.entries[1]
    whole = values_of(reader, key, manifest.stored)
    part = values_of(reader, key, manifest.stored, frames=slice(1, 2), y=1, x=3, h=4, w=9)
    assert (part == whole[1:2, :, 1:5, 3:12]).all()


def test_verify_finds_it_whole(made):
    root, manifest = made
    report = verify(root)
    assert (report.ok, report.broken) == (len(manifest.entries), [])


def test_every_flipped_byte_is_reported_and_none_is_served(made, arrays):
    root, manifest = made
    rng = np.random.default_rng(zlib.crc32(manifest.encoding.encode()))
    key = manifest.entries[2]
    for name in manifest.arrays:
        file = next((root / name).glob("c.2.*"))
        sound = file.read_bytes()
        for at in rng.integers(len(sound), size=8):
            broken = bytearray(sound)
            broken[at] ^= 1 << int(rng.integers(8))
            file.write_bytes(bytes(broken))
            assert (key, name) in {(b.key, b.array) for b in verify(root).broken}
            assert_not_served(root, manifest, key, arrays)
        file.write_bytes(sound)


def assert_not_served(root, manifest, key, arrays):
    """Reading raises, or what it returns is right (a byte of padding may not matter)."""
    try:
        got = values_of(open_reader(root), key, manifest.stored)
    except CacheError:
        return
    assert np.abs(got - arrays(manifest, key)[manifest.stored]).max() < 0.03


def test_a_missing_file_is_an_error(made):
    root, manifest = made
    for name in manifest.arrays:
        next((root / name).glob("c.1.*")).unlink()
    reader = open_reader(root)
    with pytest.raises(CacheError, match=f"{manifest.entries[1]}.*missing"):
        values_of(reader, manifest.entries[1], manifest.stored)
    assert len(verify(root).broken) == len(manifest.arrays)


def test_the_tail_comes_back_and_its_damage_is_found(make_manifest, arrays, tmp_path):
    manifest = make_manifest(encoding="trunk-int8")
    with open_writer(tmp_path / "c", manifest, tail=TAIL) as writer:
        for key in manifest.entries:
            writer.write(key, arrays(manifest, key))
        writer.finalise()
    assert (open_reader(tmp_path / "c").tail()["upconv1.weight"] == TAIL["upconv1.weight"]).all()
    file = next((tmp_path / "c/tail/upconv1.weight").glob("c.*"))
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(CacheError, match=r"upconv1.weight is damaged"):
        open_reader(tmp_path / "c").tail()
    assert [b.array for b in verify(tmp_path / "c").broken] == ["tail"]


def test_a_trunk_needs_sides_on_the_grid(make_manifest):
    with pytest.raises(CacheError, match="multiples of 4, got 30 x 132"):
        make_manifest(encoding="trunk-int8", height=30)
