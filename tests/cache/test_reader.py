"""Reading: bit for bit what was stored, any crop, in any process, and never a damaged value."""

import multiprocessing
import pickle
import tempfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings, strategies as st

from stdpipe.cache import CacheError, Manifest, open_reader, open_writer, verify
from stdpipe.cache.local import LocalPlace
from stdpipe.cache.seal import seal, unseal


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_shape_comes_back_bit_for_bit_and_in_any_crop(data):
    draw = data.draw
    encoding = draw(st.sampled_from(["float32", "float16"]))
    height, width = draw(st.integers(1, 300)), draw(st.integers(1, 150))
    manifest = Manifest(
        made_by={},
        entries=("a", "b"),
        frames=draw(st.integers(1, 3)),
        channels=draw(st.integers(1, 3)),
        height=height,
        width=width,
        encoding=encoding,
        compression=draw(st.sampled_from(["none", "zstd"])),
    )
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    given_ = {
        name: rng.standard_normal(spec.shape[1:], dtype=np.float32)
        for name, spec in manifest.arrays.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        with open_writer(folder, manifest) as writer:
            writer.write("b", given_)
        reader = open_reader(folder, allow_incomplete=True)
        for name, values in given_.items():
            stored = values.astype(encoding)
            full = reader.read("b", name)
            assert full.dtype == encoding
            assert full.tobytes() == stored.tobytes()
            _check_crops(draw, reader, name, stored)


def _check_crops(draw, reader, name, stored):
    for _ in range(4):
        y = draw(st.integers(0, stored.shape[-2] - 1))
        x = draw(st.integers(0, stored.shape[-1] - 1))
        h = draw(st.none() | st.integers(1, stored.shape[-2] - y))
        w = draw(st.none() | st.integers(1, stored.shape[-1] - x))
        first = draw(st.integers(0, len(stored) - 1))
        frames = slice(first, None, draw(st.integers(1, 2)))
        crop = reader.read("b", name, frames, y, x, h, w)
        rows = slice(y, None if h is None else y + h)
        expected = stored[frames][..., rows, x : None if w is None else x + w]
        assert crop.flags.c_contiguous
        assert crop.shape == expected.shape
        assert crop.tobytes() == expected.tobytes()


def test_plain_zarr_reads_the_same(cache, manifest, arrays):
    group = zarr.open_group(str(cache), mode="r")
    assert group.attrs["format"] == "stdpipe-cache"
    for key, index in manifest.index.items():
        for name, values in arrays(manifest, key).items():
            assert np.asarray(group[name][index]).tobytes() == values.tobytes()


def test_one_target_alone(tmp_path, make_manifest, build):
    manifest = make_manifest(targets=("attention",))
    reader = open_reader(build(tmp_path / "c", manifest))
    assert reader.read(manifest.entries[0], "attention").shape == (2, 20, 132)
    assert not (tmp_path / "c" / "f_sr").exists()
    with pytest.raises(CacheError, match=r"holds \('attention',\), not 'f_sr'"):
        reader.read(manifest.entries[0], "f_sr")


def test_facts_beside_the_arrays(cache, manifest):
    reader = open_reader(f"file://{cache}")
    assert reader.entries == manifest.index
    assert reader.extra(manifest.entries[2]) == {"source_crc32": 12}
    for call in (reader.extra, lambda key: reader.read(key, "f_sr")):
        with pytest.raises(CacheError, match=r"'nobody'.* is not in its manifest"):
            call("nobody")


@pytest.mark.parametrize(
    "window",
    [
        {"y": -1},
        {"x": 132},
        {"h": 21},
        {"h": 0},
        {"x": 120, "w": 13},
        {"frames": slice(2, None)},
        {"frames": slice(None, None, -1)},
    ],
)
def test_windows_outside_the_entry(cache, manifest, window):
    with pytest.raises(ValueError, match=r"move the window|count upwards"):
        open_reader(cache).read(manifest.entries[0], "f_sr", **window)


def test_expected_facts(cache, manifest):
    open_reader(cache, {"teacher": "edvr-l", "entries_digest": manifest.entries_digest})
    expected = r"was made by teacher 'edvr-l', but 'edvr-m' was asked for; use another --cache"
    with pytest.raises(CacheError, match=expected):
        open_reader(cache, {"seed": 0, "teacher": "edvr-m"})
    with pytest.raises(CacheError, match="encoding 'float32', but 'float16'"):
        open_reader(cache, {"encoding": "float16"})


def test_no_cache(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CacheError, match=r"is not a cache \(no manifest.json\)"):
            open_reader(path)


def test_incomplete(tmp_path, manifest, arrays):
    first, second = manifest.entries[:2]
    with open_writer(tmp_path / "c", manifest) as writer:
        writer.write(first, arrays(manifest, first))
        with pytest.raises(CacheError, match=r"incomplete \(1 of 4 entries committed\): run the"):
            open_reader(tmp_path / "c")
        reader = open_reader(tmp_path / "c", allow_incomplete=True)
    assert list(reader.entries) == [first]
    assert reader.read(first, "f_sr").shape == (2, 3, 20, 132)
    with pytest.raises(CacheError, match="is not committed"):
        reader.read(second, "f_sr")


@pytest.mark.parametrize("content", [None, b"", seal({"cache_id": "other", "entries": 4})])
def test_a_lost_or_damaged_end_mark_is_incomplete(cache, manifest, build, files_of, content):
    whole = files_of(cache)
    (cache / "complete.json").unlink()
    if content is not None:
        (cache / "complete.json").write_bytes(content)
    with pytest.raises(CacheError, match="run the same extract-teacher command again"):
        open_reader(cache)
    open_reader(build(cache, manifest))
    assert files_of(cache) == whole


def _read_all(reader):
    return b"".join(reader.read(key, "f_sr").tobytes() for key in reader.entries)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_reader_in_use_goes_to_other_processes(cache, method):
    reader = open_reader(cache)
    expected = [reader.read(key, "f_sr").tobytes() for key in reader.entries]
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        jobs = [pool.submit(reader.read, key, "f_sr") for key in reader.entries]
        assert [job.result(timeout=60).tobytes() for job in jobs] == expected
    assert [reader.read(key, "f_sr").tobytes() for key in reader.entries] == expected


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_reader_open_in_the_parent_survives_a_fork(cache):
    """The child inherits what the parent has read, unlike one that gets a pickled reader."""
    reader = open_reader(cache)
    expected = _read_all(reader)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    job = context.Process(target=lambda: answers.put(_read_all(reader)))
    job.start()
    assert answers.get(timeout=60) == expected
    job.join(60)


def test_a_pickled_reader_carries_nothing_of_what_it_read(cache):
    reader = open_reader(cache)
    fresh = pickle.dumps(reader)
    expected = _read_all(reader)
    data = pickle.dumps(reader)
    assert len(data) == len(fresh)
    assert _read_all(pickle.loads(data)) == expected


def test_many_threads_share_a_reader(cache):
    reader = open_reader(cache)
    keys = list(reader.entries) * 8
    expected = [open_reader(cache).read(key, "f_sr", x=8, w=100).tobytes() for key in keys]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda key: reader.read(key, "f_sr", x=8, w=100).tobytes(), keys)
        assert list(found) == expected


def test_an_index_is_read_once(cache, monkeypatch):
    """Not asserted: that bytes which change under an open reader are noticed by their index."""
    reader, spans = open_reader(cache), []
    real = LocalPlace.ranges

    def ranges(self, path, wanted):
        spans.append(list(wanted))
        return real(self, path, wanted)

    monkeypatch.setattr(LocalPlace, "ranges", ranges)
    for _ in range(3):
        reader.read(next(iter(reader.entries)), "f_sr", slice(0, 1), w=8)
    assert [len(some) for some in spans] == [1, 1, 1, 1]
    assert spans[1] == spans[2] == spans[3] != spans[0]


def shard(cache: Path, manifest: Manifest, key: str, name: str = "f_sr") -> Path:
    return cache / manifest.arrays[name].file(manifest.index[key])


def test_a_missing_shard(cache, manifest):
    bad, good = manifest.entries[1], manifest.entries[2]
    shard(cache, manifest, bad).unlink()
    reader = open_reader(cache)
    with pytest.raises(CacheError, match=rf"'{bad}'.*: its f_sr is damaged \(its file is miss"):
        reader.read(bad, "f_sr", h=1, w=1)
    assert reader.read(bad, "attention").shape == (2, 20, 132)
    assert reader.read(good, "f_sr").shape == (2, 3, 20, 132)


@pytest.mark.parametrize("size", [0, 3, 40, 4000])
def test_a_cut_shard(cache, manifest, size):
    key = manifest.entries[0]
    path = shard(cache, manifest, key)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CacheError, match=f"'{key}'.* its f_sr is damaged"):
        open_reader(cache).read(key, "f_sr", slice(0, 1), h=4, w=4)


def test_a_missing_inner_chunk_is_not_served_as_fill(cache, manifest, arrays):
    """A whole shard, checksums and all, that lacks the right half of frame 1."""
    key = manifest.entries[3]
    values = arrays(manifest, key)["f_sr"]
    values[1, :, :, 68:] = np.nan
    path = shard(cache, manifest, key)
    size = path.stat().st_size
    with zarr.config.set({"array.write_empty_chunks": False}):
        zarr.open_array(str(cache / "f_sr"), mode="r+")[3] = values
    patch_journal(cache, size, path.stat().st_size)
    reader = open_reader(cache)
    for window in ({}, {"x": 131, "w": 1, "y": 19}, {"frames": slice(0, 1)}):
        with pytest.raises(CacheError, match="a part of it is missing"):
            reader.read(key, "f_sr", **window)
    (broken,) = verify(cache).broken
    assert (broken.key, broken.array) == (key, "f_sr")


def patch_journal(cache: Path, old_size: int, new_size: int) -> None:
    """As if the last entry's f_sr had been committed with that many bytes."""
    (path,) = (cache / "journal").glob("*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    line = unseal(lines[3])
    assert line["arrays"]["f_sr"]["bytes"] == old_size
    line["arrays"]["f_sr"]["bytes"] = new_size
    path.write_bytes(b"".join([*lines[:3], seal(line)]))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"NaN"', b"0.0"),
        (b'"float32"', b'"float64"'),
        (b'"crc32c"', b'"crc33c"'),
        (b'"end"', b'"ene"'),
        (b"{", b"["),
    ],
)
def test_damaged_array_metadata_changes_nothing(cache, manifest, arrays, old, new):
    """The manifest says how the arrays lie; zarr.json is for others, and verify checks it."""
    path = cache / "f_sr" / "zarr.json"
    text = path.read_bytes()
    path.write_bytes(text.replace(old, new))
    assert path.read_bytes() != text
    key = manifest.entries[0]
    assert (open_reader(cache).read(key, "f_sr") == arrays(manifest, key)["f_sr"]).all()
    assert [b.path for b in verify(cache).broken] == ["f_sr/zarr.json"]
