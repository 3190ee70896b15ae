"""verify: every damage is named with its entry, and read never serves it."""

import random

import pytest

from stdpipe.cache import CacheError, open_reader, open_writer, verify
from stdpipe.cache.layout import shard_file


@pytest.fixture
def targets(cache, manifest):
    """(key, array, file) of every stored shard."""
    return [
        (key, name, shard_file(cache, spec, index))
        for key, index in manifest.index.items()
        for name, spec in manifest.arrays.items()
    ]


def test_a_whole_cache(cache):
    seen = []
    report = verify(cache, progress=lambda done, total: seen.append((done, total)))
    assert (report.ok, report.broken, report.uncommitted, report.leftovers) == (4, [], [], [])
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def flip(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def check_damage(cache, key, name, path, damaged):
    """verify names exactly this entry and array; read refuses: no byte is without a checksum."""
    whole = path.read_bytes()
    path.write_bytes(damaged)
    broken = verify(cache).broken
    assert [(found.key, found.array) for found in broken] == [(key, name)]
    with pytest.raises(CacheError, match=f"'{key}'.* its {name} is damaged"):
        open_reader(cache).read(key, name)
    path.write_bytes(whole)


def test_random_flipped_bits_of_data(cache, targets):
    rng = random.Random(0)
    for _ in range(60):
        key, name, path = rng.choice(targets)
        data = path.read_bytes()
        damaged = flip(data, rng.randrange(len(data) * 8))
        check_damage(cache, key, name, path, damaged)


def test_random_cuts_of_data(cache, targets):
    rng = random.Random(1)
    for _ in range(20):
        key, name, path = rng.choice(targets)
        data = path.read_bytes()
        damaged = data[: rng.randrange(len(data))]
        check_damage(cache, key, name, path, damaged)


def test_another_entrys_shard(cache, manifest, targets):
    """Its own checksums fit, so only the journal tells. Not asserted: that read() notices."""
    (key, name, path), (*_, other) = targets[0], targets[2]
    path.write_bytes(other.read_bytes())
    broken = verify(cache).broken
    assert [(found.key, found.array) for found in broken] == [(key, name)]
    assert "checksum differs" in broken[0].reason or "bytes instead of" in broken[0].reason


def test_random_flipped_bits_of_the_journal(cache, manifest):
    path = cache / "journal" / "0.jsonl"
    whole, rng = path.read_bytes(), random.Random(2)
    for _ in range(60):
        bit = rng.randrange(len(whole) * 8)
        line = whole[: bit // 8].count(b"\n")
        path.write_bytes(flip(whole, bit))
        report = verify(cache)
        assert manifest.entries[line] in report.uncommitted
        assert {manifest.entries[line]} <= {found.key for found in report.broken}
        assert report.ok == 4 - len(report.uncommitted)
        with pytest.raises(CacheError, match="run the same extract-teacher command again"):
            open_reader(cache)


def test_random_cuts_of_the_journal(cache, manifest):
    path = cache / "journal" / "0.jsonl"
    whole, rng = path.read_bytes(), random.Random(3)
    for _ in range(20):
        size = rng.randrange(len(whole))
        path.write_bytes(whole[:size])
        left = whole[:size].count(b"\n")
        report = verify(cache)
        assert report.ok == left
        assert report.uncommitted == list(manifest.entries[left:])
        assert [found.key for found in report.broken] == report.uncommitted


def test_missing_files(cache, targets):
    key, name, path = targets[3]
    path.unlink()
    assert [(b.key, b.array, b.reason) for b in verify(cache).broken] == [
        (key, name, "its file is missing")
    ]


def test_damaged_array_metadata_breaks_every_entry(cache, manifest):
    (cache / "f_sr" / "zarr.json").write_text("{")
    broken = verify(cache).broken
    assert [(found.key, found.array) for found in broken] == [(k, "f_sr") for k in manifest.entries]
    assert "zarr.json is damaged" in broken[0].reason


def test_an_unfinished_cache_is_not_broken(tmp_path, manifest, arrays):
    key = manifest.entries[0]
    with open_writer(tmp_path / "c", manifest) as writer:
        writer.write(key, arrays(manifest, key))
    report = verify(tmp_path / "c")
    assert (report.ok, report.broken, report.uncommitted) == (1, [], list(manifest.entries[1:]))


def test_leftovers_are_named(cache):
    (cache / "attention" / "c.1.0.0.0123.partial").touch()
    report = verify(cache)
    assert (report.ok, report.leftovers) == (4, ["attention/c.1.0.0.0123.partial"])


def test_no_cache_or_no_manifest(tmp_path, cache):
    with pytest.raises(CacheError, match="is not a cache"):
        verify(tmp_path / "nowhere")
    (cache / "manifest.json").write_text("{")
    with pytest.raises(CacheError, match=r"manifest.json is damaged"):
        verify(cache)
