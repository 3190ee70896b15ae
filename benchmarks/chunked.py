"""Entries as shards of any layout: chunk height and width, compressed or not. For layout.py."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from stdpipe.cache.checksum import crc32c
from stdpipe.cache.layout import ArraySpec
from stdpipe.cache.local import LocalPlace
from stdpipe.cache.shards import (
    ChunkPart,
    Index,
    chunk_parts,
    decode_index,
    decode_window,
    encode_shard,
    index_bytes,
)

COMPRESSIONS = ("none", "lz4", "zstd")
LZ4_LEVEL = 5

Values = NDArray[Any]
Corner = tuple[int, int, int]  # entry, y, x


@dataclass(frozen=True)
class Layout:
    """Entries written in one layout."""

    spec: ArraySpec
    place: LocalPlace
    files: tuple[str, ...]
    indices: tuple[Index, ...]

    @property
    def name(self) -> str:
        height, width = self.spec.inner[-2:]
        return f"{self.spec.dtype} {height}x{width} {self.spec.compression}"

    def bytes(self) -> int:
        """Of all its files."""
        return sum(self.place.size(file) for file in self.files)

    def spans(self, corner: Corner, side: int) -> list[tuple[int, int]]:
        """Bytes of the chunks that a crop touches, in order."""
        index = self.indices[corner[0]]
        numbers = [piece.chunk for piece in self._pieces(corner, side)]
        return [(int(index[n, 0]), int(index[n, :2].sum())) for n in numbers]

    def read(self, corner: Corner, side: int) -> Values:
        """A crop, (T, C, side, side), as stdpipe.cache.Reader reads it."""
        out = np.empty((*self.spec.shape[1:3], side, side), self.spec.dtype)
        chunks = self.place.ranges(self.files[corner[0]], self.spans(corner, side))
        parts = [*self._pieces(corner, side)]
        sums = self.indices[corner[0]][[part.chunk for part in parts], 2].tolist()
        decode_window(self.spec, parts, chunks, out, sums)
        return out

    def _pieces(self, corner: Corner, side: int) -> Iterator[ChunkPart]:
        _, y, x = corner
        frames = range(self.spec.shape[1])
        return chunk_parts(self.spec, frames, slice(y, y + side), slice(x, x + side))


def write(
    place: LocalPlace, values: list[Values], height: int, width: int, compression: str
) -> Layout:
    """Write entries (T, C, H, W), one shard each, in chunks of one frame and height x width."""
    frames, channels, full_height, full_width = values[0].shape
    padded = (ceil(full_height / height) * height, ceil(full_width / width) * width)
    spec = ArraySpec(
        name="f_sr",
        shape=(len(values), *values[0].shape),
        shard=(1, frames, channels, *padded),
        inner=(1, 1, channels, height, width),
        dtype=str(values[0].dtype),
        compression=compression,
    )
    encode = lz4_shard if compression == "lz4" else encode_shard
    files = tuple(f"{height}x{width}-{compression}-{i}" for i in range(len(values)))
    for file, entry in zip(files, values, strict=True):
        place.write(file, encode(spec, entry))
    indices = tuple(decode_index(spec, place.read(f)[-index_bytes(spec) :]) for f in files)
    return Layout(spec, place, files, indices)


def lz4_shard(spec: ArraySpec, values: Values) -> list[bytes]:
    """As encode_shard, but lz4, which the format has not: Blosc's chunks say what they are."""
    size = values.dtype.itemsize
    shuffle = blosc.SHUFFLE if size > 1 else blosc.NOSHUFFLE
    *plain, _ = encode_shard(replace(spec, compression="none"), values)
    chunks = [
        _sealed(blosc.compress(chunk[:-4], b"lz4", LZ4_LEVEL, shuffle, 0, typesize=size))
        for chunk in plain
    ]
    lengths = np.array([len(chunk) for chunk in chunks], np.uint64)
    offsets = np.cumsum(lengths, dtype=np.uint64) - lengths
    return [*chunks, _sealed(np.stack((offsets, lengths), 1).tobytes())]


def _sealed(data: bytes) -> bytes:
    return data + crc32c(data).to_bytes(4, "little")
