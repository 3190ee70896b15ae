"""Clips of several sizes in one cache: every size has its arrays, and all is as with one size."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings, strategies as st

from stdpipe.cache import (
    CacheError,
    Manifest,
    load_manifest,
    open_reader,
    open_writer,
    repair,
    verify,
)
from stdpipe.cache.creation import leftovers
from stdpipe.cache.groups import places_of
from stdpipe.cache.location import open_place
from stdpipe.cache.seal import seal

SMALL, LARGE, TINY = (16, 24), (20, 132), (8, 8)
SIZES = {"a": LARGE, "b": SMALL, "c": LARGE, "d": TINY, "e": SMALL}


@pytest.fixture
def several(make_manifest):
    """several(SIZES): a manifest of entries of these sizes, in their order."""

    def make(sizes=SIZES, **changes):
        height, width = next(iter(sizes.values()))
        places = places_of(2, list(sizes.values()))
        own = {"entries": tuple(sizes), "height": height, "width": width, "groups": places}
        return make_manifest(**own | changes)

    return make


def values(manifest, key, names=None):
    """What an entry holds: of its key alone, wherever it lies."""
    rng, specs = np.random.default_rng(ord(key[0])), manifest.group(key).arrays
    names = manifest.given if names is None else names
    return {n: rng.standard_normal(specs[n].shape[1:], dtype=np.float32) for n in names}


def fill(root, manifest, stop_after=99):
    """Commit what is missing, as many entries as asked; mark the end where nothing is left."""
    with open_writer(root, manifest) as writer:
        for key in writer.missing()[:stop_after]:
            writer.write(key, values(writer.manifest, key, writer.lacks(key)), {"crc": ord(key[0])})
        if not writer.missing():
            writer.finalise()
    return root


def served(reader, key):
    wanted = values(reader.manifest, key)
    return all((reader.read(key, name) == wanted[name]).all() for name in wanted)


def file(root: Path, manifest: Manifest, key: str, name: str = "f_sr") -> Path:
    return root / manifest.group(key).arrays[name].file(manifest.index[key])


def test_every_entry_is_read_back_from_its_own_arrays(tmp_path, several):
    root = fill(tmp_path / "c", several())
    reader = open_reader(root)
    assert list(reader.entries) == list(SIZES)  # in the data's order
    assert reader.entries == {"a": 0, "b": 0, "c": 1, "d": 0, "e": 1}
    for key, size in SIZES.items():
        assert reader.manifest.size(key) == size
        assert reader.read(key, "f_sr").shape == (2, 3, *size)
        assert served(reader, key)
        crop = reader.read(key, "attention", y=4, x=4, h=4, w=4)
        assert (crop == reader.read(key, "attention")[:, 4:8, 4:8]).all()
    assert reader.total_bytes() == sum(f.stat().st_size for f in root.rglob("c.*"))
    report = verify(root)
    assert (report.ok, report.broken, report.uncommitted) == (5, [], [])


@pytest.mark.filterwarnings("ignore:Object at")
def test_plain_zarr_opens_each_size(tmp_path, several):
    root = fill(tmp_path / "c", several(encoding="int8"))
    reader, group = open_reader(root), zarr.open_group(str(root), mode="r")
    assert sorted(name for name, _ in group.groups()) == ["2x16x24", "2x8x8"]
    assert group["f_sr"].shape == (2, 2, 3, *LARGE)
    assert (group["2x16x24/f_sr"][1] == reader.read("e", "f_sr")).all()
    assert (group["2x16x24/f_sr_scale"][1] == reader.scale("e", "f_sr")).all()


def test_a_window_beyond_ones_own_size_is_refused(tmp_path, several):
    """Though it lies within the first entry."""
    reader = open_reader(fill(tmp_path / "c", several()))
    with pytest.raises(ValueError, match=r"lies outside 0\.\.24"):
        reader.read("b", "f_sr", x=100, w=8)


@pytest.mark.parametrize("encoding", ["float32", "trunk-int8"])
def test_a_stopped_writer_ends_as_an_unbroken_one(tmp_path, several, files_of, encoding):
    """At every entry. A whole folder for a size may be missing when it goes on."""
    tail = {"upconv1.bias": np.arange(3, dtype=np.float32)}

    def run(root, stop_after=99):
        with open_writer(root, several(encoding=encoding), tail=tail) as writer:
            for key in writer.missing()[:stop_after]:
                writer.write(key, values(writer.manifest, key))
            if not writer.missing():
                writer.finalise()
        return root

    whole = files_of(run(tmp_path / "whole"))
    for stop in range(1, 5):
        root = run(tmp_path / f"{stop}", stop)
        if stop == 2:  # killed before it made them
            shutil.rmtree(root / "2x8x8")
            (root / "2x16x24/zarr.json").unlink()
        assert files_of(run(root)) == whole


def test_what_a_killed_writer_leaves_in_a_group(tmp_path, several):
    root = fill(tmp_path / "c", several(), 3)
    stale = ["2x16x24/f_sr/c.1.0.0.0.partial", "2x8x8/zarr.json.1.partial"]
    for name in stale:
        (root / name).write_bytes(b"torn")
    assert sorted(leftovers(open_place(root), several())) == stale
    fill(root, several())
    assert leftovers(open_place(root), several()) == []


@pytest.mark.parametrize("key", ["a", "d", "e"])
def test_a_flipped_bit_is_found_and_mended(tmp_path, several, files_of, key):
    made = several()
    root = fill(tmp_path / "c", made)
    whole, path = files_of(root), file(tmp_path / "c", made, key)
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)
    assert [(one.key, one.array) for one in verify(root).broken] == [(key, "f_sr")]
    with pytest.raises(CacheError, match=f"entry '{key}'"):
        open_reader(root).read(key, "f_sr")
    repair(root)
    assert not path.exists()
    assert list(open_reader(root, allow_incomplete=True).entries) == [k for k in SIZES if k != key]
    fill(root, made)
    data_of = [{n: d for n, d in f.items() if "/c." in n} for f in (files_of(root), whole)]
    assert data_of[0] == data_of[1]


def test_entries_of_two_groups_swapped(tmp_path, several):
    """Of one shape of shard, so that nothing but the journal tells: 16 x 24 against 24 x 16."""
    made = several({"a": LARGE, "b": (16, 24), "c": (16, 24), "d": (24, 16)}, encoding="int8")
    root = fill(tmp_path / "c", made)
    one, other = file(root, made, "b"), file(root, made, "d")
    assert one.stat().st_size == other.stat().st_size
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    for key in "bd":
        with pytest.raises(CacheError, match=f"entry '{key}'"):
            open_reader(root).read(key, "f_sr")
    assert {one.key for one in verify(root).broken} == {"b", "d"}


@pytest.mark.parametrize("lost", ["2x16x24/zarr.json", "2x8x8/attention/zarr.json"])
def test_lost_metadata_of_a_group_is_told(tmp_path, several, files_of, lost):
    root = fill(tmp_path / "c", several())
    whole = files_of(root)
    (root / lost).unlink()
    assert [one.path for one in verify(root).broken] == [lost]
    repair(root)
    fill(root, several())
    assert files_of(root) == whole


def test_a_cache_of_one_size_grows_by_others(tmp_path, several, make_manifest, files_of):
    root = fill(tmp_path / "c", make_manifest(entries=("a", "c")))
    before, part = files_of(root), open_reader(root).manifest.part
    wanted = {"z": TINY, **SIZES}  # first in the data's list, and of another size
    fill(root, several(wanted), 2)  # killed
    assert open_reader(root).manifest.part == part
    fill(root, several(wanted))
    reader = open_reader(root)
    assert list(reader.entries) == ["a", "c", "z", "b", "d", "e"]
    assert (reader.manifest.height, reader.manifest.width) == LARGE
    assert {key: reader.manifest.size(key) for key in wanted} == wanted
    assert all(served(reader, key) for key in wanted)
    assert verify(root).ok == 6
    after = files_of(root)
    stays = [n for n in before if not n.endswith("zarr.json") and not n.startswith("journal/0")]
    assert {name: after[name] for name in stays} == {name: before[name] for name in stays}
    old = open_reader(root, part=part)
    assert (list(old.entries), old.manifest.groups, old.is_complete()) == (["a", "c"], {}, True)


def test_a_group_grows_by_an_entry_and_by_a_target(tmp_path, several):
    root = fill(tmp_path / "c", several(targets=("f_sr",)))
    fill(root, several({"n": SMALL, **SIZES}, targets=("f_sr",)))
    fill(root, several({"n": SMALL, **SIZES}, targets=("f_sr", "attention")))
    reader = open_reader(root)
    assert reader.manifest.group("n").entries == ("b", "e", "n")
    assert reader.entries["n"] == 2
    assert [reader.read(key, "attention").shape[1:] for key in "nad"] == [SMALL, LARGE, TINY]
    assert verify(root).ok == 6


def test_another_size_of_an_entry_is_refused(tmp_path, several):
    """Whichever size lies at the top of what is asked for."""
    root = fill(tmp_path / "c", several())
    with pytest.raises(CacheError, match="height 16, but 20 was asked for"):
        open_writer(root, several(SIZES | {"e": LARGE}))
    with open_writer(root, several({"n": TINY, **SIZES})) as writer:
        assert writer.missing() == ["n"]


def test_one_size_is_written_as_before_there_were_several(make_manifest):
    """The figures are those of the version that knew one size alone."""
    made = make_manifest()
    assert made.cache_id == "a15d5eedc0d1797840e1baf88854da56ec413bd3daca6de515250f8134c94da9"
    assert made.digest == "d4fb9b626b31751a3ba8f8ea41c85dcc794be40a55057e0e15132e031a4db57c"
    text = seal(made.to_json(), indent=1)
    assert (
        hashlib.sha256(text).hexdigest()
        == "db6d9738e8385322b5950ab39c13a47ac6179451cb217c1bad53aa829532a2cc"
    )


def test_the_manifest_lists_the_entries_of_each_array(several):
    told = several().to_json()
    assert told["entries"] == ["a", "c"]
    assert told["groups"] == {
        "2x16x24": {"entries": ["b", "e"], "places": [1, 4]},
        "2x8x8": {"entries": ["d"], "places": [3]},
    }


sizes = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(sizes)
def test_any_sizes_come_back_from_json(sizes):
    """In order; every index of every array is some entry's."""
    keys = tuple(f"k{number}" for number in range(len(sizes)))
    scaled = [(4 * h, 4 * w) for h, w in sizes]
    rest = {"height": scaled[0][0], "width": scaled[0][1], "channels": 3, "frames": 2}
    made = Manifest(made_by={}, entries=keys, groups=places_of(2, scaled), **rest)
    again = Manifest.from_json(json.loads(json.dumps(made.to_json())))
    assert again == made
    assert [again.size(key) for key in keys] == scaled
    assert len(again.sizes) == len(set(scaled))
    for group in again.sizes:
        assert [again.index[key] for key in group.entries] == [*range(len(group.entries))]
        assert {again.group(key).folder for key in group.entries} == {group.folder}
        assert all(spec.shape[0] == len(group.entries) for spec in group.arrays.values())
    for count in range(1, len(keys) + 1):
        part = again.part_of(again.part._replace(entries=count))
        assert [part.size(key) for key in part.entries] == scaled[:count]
        assert all(part.index[key] == again.index[key] for key in part.entries)


@pytest.mark.parametrize(
    "groups",
    [
        {"2x20x132": (1,)}, {"3x16x24": (1,)}, {"2x016x24": (1,)}, {"2x16": (1,)}, {"": (1,)},
        {"2x16x24": ()}, {"2x16x24": (0,)}, {"2x16x24": (5,)}, {"2x16x24": (2, 1)},
        {"2x16x24": (1, 1)}, {"2x16x24": (1,), "2x8x8": (1,)}, {"2x0x24": (1,)},
        {"2x" + "9" * 5000 + "x4": (1,)}, {"../2x16x24": (1,)},
    ],
)  # fmt: skip
def test_groups_that_contradict_the_rest(several, groups):
    with pytest.raises(CacheError, match="groups"):
        several(groups=groups)


@pytest.mark.parametrize(
    "change",
    [
        {"2x16x24": ["b", "e"]}, {"2x16x24": {"entries": ["b"]}}, [], None, "",
        {"2x16x24": {"entries": ["b"], "places": [1, 4]}},
        {"2x16x24": {"entries": ["b"], "places": [9]}},
        {"2x16x24": {"entries": ["b"], "places": [-1]}},
        {"2x16x24": {"entries": ["b", "e"], "places": [1, True]}},
        {"2x16x24": {"entries": ["b"], "places": [1]}, "2x8x8": {"entries": ["d"], "places": [1]}},
    ],
)  # fmt: skip
def test_json_that_is_no_groups(several, change):
    with pytest.raises(CacheError):
        Manifest.from_json(several().to_json() | {"groups": change})


def test_sizes_that_do_not_fit_the_rest(several):
    with pytest.raises(CacheError, match="multiples of 4, got 6 x 8"):
        several({"a": LARGE, "b": (6, 8)}, encoding="trunk-int8")
    with pytest.raises(CacheError, match="version 2"):
        several(format_version=2)
    with pytest.raises(CacheError, match="cannot have"):
        several({"a": LARGE, "b": (2**30, 2**30)})


def test_the_same_bytes_in_an_object_store(s3, tmp_path, several, files_of):
    fill(s3, several())
    place, whole = open_place(s3), files_of(fill(tmp_path / "c", several()))
    assert {name: place.read(name) for name in whole} == whole
    assert verify(s3).ok == 5
    assert all(served(open_reader(s3), key) for key in SIZES)


def test_reopened_after_a_lost_manifest(tmp_path, several):
    root = fill(tmp_path / "c", several())
    (root / "manifest.json").write_bytes(b"{}")
    assert load_manifest(root) == several()
    repair(root)
    assert verify(root).broken == []
