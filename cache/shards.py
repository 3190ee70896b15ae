"""Encode and decode one entry of one array: the part of Zarr v3 that a cache uses, at full speed.

A shard ("sharding_indexed") is its inner chunks in C order, then offset and length of each as
uint64, then the CRC-32C of that index. A chunk is its values, in Blosc where the cache is
compressed, and a CRC-32C. Between chunks and index lie, from version 3 of the format on, the
checksums of the chunks. Plain zarr reads what is written here.
Axes of an entry: T frames, C channels, H W; an attention map has C = 1 here.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, product
from math import ceil, prod
from typing import Any, NamedTuple

import numpy as np
from numcodecs import blosc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from stdpipe.cache.checksum import Buffer, crc32c
from stdpipe.cache.errors import DamagedError
from stdpipe.cache.layout import ArraySpec, fill_value

Index = NDArray[np.uint64]  # (chunks, 2 or 3): offset, length and, from version 3 on, checksum

CRC_BYTES = 4
ZSTD_LEVEL = 1
_ABSENT = np.iinfo(np.uint64).max


class ChunkPart(NamedTuple):
    """The part of a window that one chunk holds."""

    chunk: int  # number within the shard
    frame: int  # number within the window, as rows and columns are
    rows: slice
    columns: slice
    chunk_rows: slice
    chunk_columns: slice


def encode_shard(spec: ArraySpec, values: NDArray[Any]) -> list[bytes]:
    """Encode an entry, (T, C, H, W) or (T, H, W) in the stored dtype, to its file, in parts."""
    assert values.shape == spec.shape[1:]
    assert values.dtype == spec.dtype
    if not spec.is_sharded:
        return [_sealed(values.tobytes())]
    maps = values.reshape(len(values), -1, *values.shape[-2:])
    chunks = [_encode_chunk(spec, block) for block in _blocks(spec, maps)]
    lengths = np.array([len(chunk) for chunk in chunks], np.uint64)
    offsets = np.cumsum(lengths, dtype=np.uint64) - lengths
    sums = _last_bytes(chunks) if spec.sums else b""
    return [*chunks, sums + _sealed(np.stack((offsets, lengths), 1).tobytes())]


def fingerprint(parts: Iterable[bytes | memoryview]) -> int:
    """Return the fingerprint of a file: the CRC-32C of the checksums that end its parts.

    The CRC of the parts themselves would be the same for all files of one size, since the CRC of
    data and its own CRC is a constant.
    """
    return crc32c(_last_bytes(parts))


def check(spec: ArraySpec, data: bytes) -> int:
    """Check every byte of a file and return its fingerprint. Raises DamagedError."""
    parts = split(spec, data)
    for part in parts[: -1 if spec.is_sharded else None]:  # `split` has checked the index
        _unsealed(part)
    if spec.is_sharded and spec.sums and not bytes(parts[-1]).startswith(_last_bytes(parts[:-1])):
        raise DamagedError("the checksums before its index are not those of its chunks")
    return fingerprint(parts)


def split(spec: ArraySpec, data: bytes) -> list[memoryview]:
    """Split a file into the parts that `encode_shard` returned. Raises DamagedError."""
    view = memoryview(data)
    if not spec.is_sharded:
        return [view]
    tail = view[-index_bytes(spec) :]
    bounds = (int(row[0]) for row in decode_index(spec, tail))
    starts = [*bounds, len(data) - len(tail), len(data)]
    return [view[start:stop] for start, stop in pairwise(starts)]


def index_bytes(spec: ArraySpec) -> int:
    """Return the length of the index at the end of a shard, with the checksums before it."""
    return (16 + CRC_BYTES * spec.sums) * _num_chunks(spec) + CRC_BYTES


def decode_index(spec: ArraySpec, data: Buffer, told: int | None = None) -> Index:
    """Decode an index; told: the fingerprint of the file, which the checksums in it must make.

    Raises DamagedError for a wrong length or checksum, a missing chunk, and another entry's file.
    """
    if len(data) != index_bytes(spec):
        raise DamagedError("its index is cut short")
    view = memoryview(data)  # type: ignore[arg-type]
    sums = view[: CRC_BYTES * spec.sums * _num_chunks(spec)]
    index = np.frombuffer(_unsealed(view[len(sums) :]), np.uint64).reshape(_num_chunks(spec), 2)
    if (index == _ABSENT).any():
        raise DamagedError("a part of it is missing")
    if not spec.sums:
        return index
    return bound(index, data, sums, told)


def bound(index: Index, data: Buffer, sums: Buffer, told: int | None = None) -> Index:
    """Add the checksums of its chunks to an index, whose bytes `data` are; told as decode_index."""
    if told is not None and crc32c(bytes(sums) + bytes(data[-CRC_BYTES:])) != told:
        raise DamagedError("it is not the file that the journal names")
    return np.column_stack((index, np.frombuffer(sums, "<u4").astype(np.uint64)))


def decode_plain(data: Buffer, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """View the values of an uncompressed chunk in its own buffer. Raises DamagedError."""
    raw = _unsealed(data)
    if len(raw) != prod(shape) * np.dtype(dtype).itemsize:
        raise DamagedError(f"a chunk of it has {len(raw)} bytes")
    return np.frombuffer(raw, dtype).reshape(shape)


def chunk_parts(
    spec: ArraySpec, frames: Sequence[int], rows: slice, columns: slice
) -> Iterator[ChunkPart]:
    """Yield the chunks that a window touches, in the order in which they lie in the shard."""
    inner_h, inner_w = spec.inner[-2:]
    down, across = (spec.shard[-2] // inner_h, spec.shard[-1] // inner_w)
    high = range(rows.start // inner_h, ceil(rows.stop / inner_h))
    wide = range(columns.start // inner_w, ceil(columns.stop / inner_w))
    for (t, frame), i, j in product(enumerate(frames), high, wide):
        to_rows, from_rows = _overlap(rows, i, inner_h)
        to_columns, from_columns = _overlap(columns, j, inner_w)
        chunk = (frame * down + i) * across + j
        yield ChunkPart(chunk, t, to_rows, to_columns, from_rows, from_columns)


def decode_window(
    spec: ArraySpec,
    wanted: Sequence[ChunkPart],
    chunks: Iterable[Buffer],
    out: NDArray[Any],
    sums: Iterable[int],
) -> None:
    """Fill `out` (t, C, h, w) from the chunks of its parts; sums: their checksums, by which a chunk
    is known in its place. Raises DamagedError."""
    shape = (out.shape[1], *spec.inner[-2:])
    scratch = np.empty(shape, spec.dtype) if spec.compression != "none" else None
    for piece, data, told in zip(wanted, chunks, sums, strict=True):
        if told != int.from_bytes(data[-CRC_BYTES:], "little"):
            raise DamagedError("a chunk of it belongs elsewhere, or a checksum does not fit")
        chunk = _decode_chunk(spec, data, shape, scratch)
        source = chunk[:, piece.chunk_rows, piece.chunk_columns]
        _copy_rows(source, out[piece.frame, :, piece.rows, piece.columns])


def use_one_thread() -> None:
    """Limit Blosc to one thread in this process, where a loader has a process for each core."""
    blosc.use_threads = False


def _last_bytes(parts: Iterable[bytes | memoryview]) -> bytes:
    return b"".join(part[-CRC_BYTES:] for part in parts)


def _num_chunks(spec: ArraySpec) -> int:
    return prod(spec.shard) // prod(spec.inner)


def _blocks(spec: ArraySpec, maps: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield each chunk's values (C, h, w), contiguous, padded where the array ends earlier."""
    inner_h, inner_w = spec.inner[-2:]
    down, across = (spec.shard[-2] // inner_h, spec.shard[-1] // inner_w)
    for frame, i, j in product(range(len(maps)), range(down), range(across)):
        here = maps[frame, :, i * inner_h : (i + 1) * inner_h, j * inner_w : (j + 1) * inner_w]
        block = np.empty((maps.shape[1], inner_h, inner_w), maps.dtype)
        if here.shape != block.shape:
            block.fill(fill_value(spec.dtype))
        _copy_rows(here, block[:, : here.shape[1], : here.shape[2]])
        yield block


def _encode_chunk(spec: ArraySpec, block: NDArray[Any]) -> bytes:
    if spec.compression == "none":
        return _sealed(block.tobytes())
    size = block.dtype.itemsize
    shuffle = blosc.BITSHUFFLE if size > 1 else blosc.NOSHUFFLE  # measured: zstd likes codes plain
    return _sealed(blosc.compress(block, b"zstd", ZSTD_LEVEL, shuffle, 0, typesize=size))


def _decode_chunk(
    spec: ArraySpec, data: Buffer, shape: tuple[int, ...], scratch: NDArray[Any] | None
) -> NDArray[Any]:
    if scratch is None:
        return decode_plain(data, spec.dtype, shape)
    raw = _unsealed(data)
    try:
        blosc.decompress(raw, scratch)
    except (RuntimeError, ValueError) as error:
        raise DamagedError(f"a chunk of it does not decompress: {error}") from error
    return scratch


def _sealed(data: bytes) -> bytes:
    return data + crc32c(data).to_bytes(CRC_BYTES, "little")


def _unsealed(data: Buffer) -> memoryview:
    view = memoryview(data)  # type: ignore[arg-type]
    body, told = view[:-CRC_BYTES], view[-CRC_BYTES:]
    if not body or crc32c(body) != int.from_bytes(told, "little"):
        raise DamagedError("a checksum does not fit its bytes")
    return body


def _copy_rows(source: NDArray[Any], target: NDArray[Any]) -> None:
    """Do `target[...] = source` with rows as items: 1.6 times as fast for short rows."""
    row = np.dtype((np.void, source.shape[-1] * source.dtype.itemsize))
    target.view(row)[...] = source.view(row)


def _overlap(span: slice, step: int, side: int) -> tuple[slice, slice]:
    """Return where chunk number `step` meets the span, within the window and within the chunk."""
    at, first, stop = step * side, max(span.start, step * side), min(span.stop, (step + 1) * side)
    return slice(first - span.start, stop - span.start), slice(first - at, stop - at)
