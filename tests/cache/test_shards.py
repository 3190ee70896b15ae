"""Our own bytes against plain zarr's, both ways: whatever we write zarr reads, and the other way.

tensorstore reads them too, where it is installed. Not asserted: that both write the same bytes;
zarr lays a shard's chunks along a space-filling curve and leaves out those that hold nothing.
"""

import json
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings, strategies as st

from stdpipe.cache import Manifest, open_place, open_writer
from stdpipe.cache.checksum import crc32c
from stdpipe.cache.errors import DamagedError
from stdpipe.cache.journal import Commit, Stored
from stdpipe.cache.layout import ENCODINGS, array_specs, fill_value
from stdpipe.cache.reader import Reader
from stdpipe.cache.shards import (
    chunk_parts,
    decode_index,
    decode_plain,
    decode_window,
    encode_shard,
    fingerprint,
    index_bytes,
    split,
)
from stdpipe.cache.store import store_files
from stdpipe.cache.table import Table

COMPRESSIONS = ("none", "zstd")


@st.composite
def manifests(draw):
    """One entry of any small shape, up to three chunks high or wide, in every encoding."""
    encoding = draw(st.sampled_from(sorted(ENCODINGS)))
    tall = draw(st.booleans())
    step = 4 if ENCODINGS[encoding].stored == "trunk" else 1
    height = draw(st.integers(1, (600 if tall else 40) // step)) * step
    width = draw(st.integers(1, (40 if tall else 300) // step)) * step
    return Manifest(
        made_by={},
        entries=("a", "b"),
        frames=draw(st.integers(1, 3)),
        channels=draw(st.integers(1, 3)),
        height=height,
        width=width,
        encoding=encoding,
        compression=draw(st.sampled_from(COMPRESSIONS)),
    )


def stored_values(manifest, seed=0):
    """Array -> values of one entry, in the stored dtype; smooth enough to be compressed."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, spec in manifest.arrays.items():
        values = np.cumsum(rng.integers(-2, 3, spec.shape[1:]), -1)
        found[name] = np.clip(values, -127, 127).astype(spec.dtype)
    return found


@contextmanager
def written(manifest, values):
    """A folder with entry "b", written by us."""
    tail = {"x": np.ones(2, np.float32)} if manifest.stored == "trunk" else None
    with tempfile.TemporaryDirectory() as folder:
        with open_writer(folder, manifest, tail=tail) as writer:
            writer.write("b", values)
        yield folder


@settings(max_examples=40, deadline=None)
@given(manifests())
def test_zarr_reads_what_we_write(manifest):
    values = stored_values(manifest)
    with written(manifest, values) as folder:
        group = zarr.open_group(folder, mode="r")
        for name, expected in values.items():
            assert group[name].shape == manifest.arrays[name].shape
            assert np.asarray(group[name][1]).tobytes() == expected.tobytes()
            nothing = np.full_like(expected, fill_value(manifest.arrays[name].dtype))
            assert np.array_equal(
                group[name][0], nothing, equal_nan="int" not in str(nothing.dtype)
            )


def read_by_us(folder, manifest, key, name):
    """A reader that takes the files as committed, whoever wrote them."""
    place, index = open_place(folder), manifest.index[key]
    files = {name: (spec, place.read(spec.file(index))) for name, spec in manifest.arrays.items()}
    stored = {name: Stored(len(data), sums_of(spec, data)) for name, (spec, data) in files.items()}
    return Reader(place, manifest, Table(manifest, [asdict(Commit(key, index, stored, {}))]))


def sums_of(spec, data):
    """The fingerprint of a file whose chunks lie in any order."""
    if not spec.is_sharded:
        return fingerprint([data])
    index = decode_index(spec, data[-index_bytes(spec) :])
    chunks = [data[offset : offset + length] for offset, length in index.tolist()]
    return fingerprint([*chunks, data])


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(manifests(), st.data())
def test_we_read_what_zarr_writes(manifest, data):
    """Same metadata, its own order of chunks; any window of it. From version 3 on, a shard holds
    the checksums of its chunks, which zarr leaves out."""
    manifest = replace(manifest, format_version=2)
    values = stored_values(manifest)
    with tempfile.TemporaryDirectory() as folder:
        for path, content in store_files(manifest, None).items():
            open_place(folder).write(path, [content])
        group = zarr.open_group(folder, mode="r+")
        for name, expected in values.items():
            with zarr.config.set({"array.write_empty_chunks": True}):
                group[name][1] = expected
        for name in manifest.given:
            reader = read_by_us(folder, manifest, "b", name)
            assert reader.read("b", name).tobytes() == values[name].tobytes()
            check_window(data.draw, reader, name, values[name])
            if manifest.arrays[name].dtype == "int8":
                assert (reader.scale("b", name) == values[name + "_scale"]).all()


def check_window(draw, reader, name, values):
    height, width = values.shape[-2:]
    y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    h, w = draw(st.integers(1, height - y)), draw(st.integers(1, width - x))
    found = reader.read("b", name, slice(0, 1), y, x, h, w)
    assert found.tobytes() == values[:1, ..., y : y + h, x : x + w].tobytes()


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("encoding", ["float16", "int8", "trunk-float32"])
def test_tensorstore_reads_what_we_write(encoding, compression):
    tensorstore = pytest.importorskip("tensorstore")
    sizes = {"frames": 2, "channels": 3, "height": 24, "width": 520}
    manifest = Manifest(
        made_by={}, entries=("a", "b"), **sizes, encoding=encoding, compression=compression
    )
    values = stored_values(manifest)
    with written(manifest, values) as folder:
        for name, expected in values.items():
            store = {"driver": "file", "path": str(Path(folder) / name)}
            array = tensorstore.open({"driver": "zarr3", "kvstore": store}, open=True).result()
            assert array[1].read().result().tobytes() == expected.tobytes()


@settings(max_examples=60, deadline=None)
@given(manifests(), st.data())
def test_a_windows_pieces_tile_it(manifest, data):
    """Each value of a window is in exactly one piece, and each piece's chunk is touched once."""
    spec = manifest.arrays[manifest.given[0]]
    height, width = spec.shape[-2:]
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    h, w = data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x))
    frames = data.draw(st.lists(st.integers(0, manifest.frames - 1), min_size=1, unique=True))
    frames.sort()
    wanted = list(chunk_parts(spec, frames, slice(y, y + h), slice(x, x + w)))
    seen = np.zeros((len(frames), h, w), int)
    for piece in wanted:
        seen[piece.frame, piece.rows, piece.columns] += 1
    assert (seen == 1).all()
    chunks = [piece.chunk for piece in wanted]
    assert chunks == sorted(set(chunks))


def spec_of(encoding="float16", compression="none", height=20, width=132):
    return array_specs(("f_sr",), encoding, 2, 2, 3, height, width, compression)[0]


def entry(spec, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(-99, 99, spec.shape[1:]).astype(spec.dtype)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_shard_is_its_chunks_in_order_and_their_index(compression):
    spec = spec_of(compression=compression)
    *chunks, tail = encode_shard(spec, entry(spec))
    assert len(tail) == index_bytes(spec) == (16 + 4) * 4 + 4
    index = decode_index(spec, tail)
    assert index[:, 1].tolist() == [len(chunk) for chunk in chunks]
    assert index[:, 0].tolist() == np.cumsum([0, *map(len, chunks[:-1])]).tolist()
    assert index[:, 2].tolist() == [int.from_bytes(chunk[-4:], "little") for chunk in chunks]
    assert split(spec, b"".join([*chunks, tail])) == [*chunks, tail]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_flipped_bit_of_a_chunk_is_seen(compression):
    spec = spec_of(compression=compression, height=4, width=8)
    *chunks, _ = encode_shard(spec, entry(spec))
    rows, columns = slice(0, 4), slice(0, 8)
    wanted = list(chunk_parts(spec, [0], rows, columns))
    out = np.empty((1, 3, 4, 8), spec.dtype)
    for bit in range(len(chunks[0]) * 8):
        flipped = bytearray(chunks[0])
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedError, match="checksum"):
            decode_window(spec, wanted, [flipped], out, [int.from_bytes(flipped[-4:], "little")])
    for size in range(len(chunks[0])):
        cut = chunks[0][:size]
        with pytest.raises(DamagedError):
            decode_window(spec, wanted, [cut], out, [int.from_bytes(cut[-4:], "little")])


def test_a_plain_chunk_of_another_size():
    spec = array_specs(("f_sr",), "int8", 1, 1, 3, 4, 4)[1]
    (data,) = encode_shard(spec, np.ones((2, 3), np.float32))
    assert (decode_plain(data, "float32", (2, 3)) == 1).all()
    for broken in (b"", bytes(4), data[:-1], data[:4]):
        with pytest.raises(DamagedError):
            decode_plain(broken, "float32", (2, 3))


def test_an_index_that_lacks_a_chunk():
    spec = spec_of()
    index = np.arange(8, dtype=np.uint64).reshape(4, 2)
    index[2] = np.iinfo(np.uint64).max
    body = index.tobytes()
    with pytest.raises(DamagedError, match="a part of it is missing"):
        decode_index(spec, bytes(4 * 4) + body + crc32c(body).to_bytes(4, "little"))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("encoding", ["float16", "int8"])
def test_fingerprints_tell_entries_apart(encoding, compression):
    """A CRC over all of a file would not: behind data and its CRC, it is a constant."""
    specs = array_specs(("f_sr",), encoding, 2, 2, 3, 20, 132, compression)
    for spec in specs:
        files = [encode_shard(spec, entry(spec, seed)) for seed in range(20)]
        assert len({fingerprint(parts) for parts in files}) == 20
        for parts in files:
            assert fingerprint(split(spec, b"".join(parts))) == fingerprint(parts)


def test_the_codecs_are_what_zarr_json_says():
    with tempfile.TemporaryDirectory() as folder:
        manifest = Manifest(
            made_by={}, entries=("a",), frames=1, channels=2, height=8, width=8, compression="zstd"
        )
        open_writer(folder, manifest).close()
        text = (Path(folder) / "f_sr" / "zarr.json").read_text()
    (sharding,) = json.loads(text)["codecs"]
    names = [codec["name"] for codec in sharding["configuration"]["codecs"]]
    assert names == ["bytes", "blosc", "crc32c"]
    assert sharding["configuration"]["index_location"] == "end"
    assert [c["name"] for c in sharding["configuration"]["index_codecs"]] == ["bytes", "crc32c"]


def test_a_cut_or_strange_file_has_no_parts():
    spec = spec_of()
    data = b"".join(encode_shard(spec, entry(spec)))
    for broken in (b"", data[:10], data[:-1], data + b"x"):
        with pytest.raises(DamagedError):
            split(spec, broken)
