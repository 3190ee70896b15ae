"""The written format of a cache: names, version, shapes and the chunk rule.

Users' disks hold what this file describes. Whoever changes a name, a shape rule or a codec raises
FORMAT_VERSION, and keeps older caches readable or refuses them by their version.
docs/cache.md says what version 3 leaves room for.

    cache.zarr/            Zarr v3 group
      f_sr/                    (entry, frame, C, H, W)   one entry = one shard = one file
      trunk/                   (entry, frame, C, h, w)   in place of f_sr, at a quarter of H and W
      f_sr_scale/, trunk_scale/    (entry, 2, C)         int8 only: value = code * [0] + [1]
      sr/                      (entry, frame, 3, H, W)   the teacher's image in 8 bits; 1 in place
                               of 3 where it is luma
      attention/               (entry, frame, H, W)
      f_lr/, f_lr_scale/       (entry, frame, C', h, w)  on request, as f_sr is encoded
      tail/<parameter>/        the teacher's own frozen weights: what turns trunk, where that is
                               stored, into f_sr, and f_sr into the image (may be missing)
      manifest.json            what the cache holds and who made it; written once, first
      manifest.<n>.json        the same after it has grown for the n-th time; the last one counts
      journal/manifest.json, journal/manifest.<n>.json    their copies
      journal/<writer>.<n>.jsonl   one line for each committed entry; the line is the commit. Where
                               a target was added, an entry has a second line for its arrays
      journal/<writer>.lock    held while that writer is at work
      journal/_repair.lock     held while a repair is at work: no writer begins then
      complete.json            how many entries, with which targets, are all committed; written last
      <T>x<H>x<W>/             the same arrays, for entries of another size than the first

Codecs: raw little-endian values, Blosc zstd where `compression` says so, and a CRC-32C behind each
chunk; a journal line holds the CRC-32C of all checksums in a file, which identifies the file.
Before a shard's index lie the checksums of its chunks: with the index, a reader has what the
journal's line is made of, and so knows each chunk's place. Version 2 lacks them, and does not grow.
lz4 was measured on trained features (benchmarks/RESULTS.md) and dropped: it shrinks int8 by a sixth
at half the reading speed, and a trunk not at all.
"""

from dataclasses import dataclass
from math import ceil, nan, prod
from typing import NamedTuple

import numpy as np

FORMAT = "stdpipe-cache"
FORMAT_VERSION = 3
READABLE = (2, FORMAT_VERSION)

MANIFEST = "manifest.json"
COMPLETE = "complete.json"
JOURNAL = "journal"
JOURNAL_SUFFIX = ".jsonl"
LOCK_SUFFIX = ".lock"
VERIFIED = "verified.json"
ZARR_METADATA = "zarr.json"
SEPARATOR = "."  # in names of chunks, so that an array has one folder to sync and to list
SEGMENT_BYTES = 1 << 16  # a journal file of this size takes no more lines: objects cannot grow
TAIL = "tail"

TARGETS = ("sr", "f_sr", "attention", "f_lr")  # what a cache serves, whatever lies on disk
SCALE_SUFFIX = "_scale"
ARRAYS = ("sr", "f_sr", "f_sr_scale", "trunk", "trunk_scale", "attention", "f_lr", "f_lr_scale")
INT8_LIMIT = 127  # codes are -127..127; -128 is the fill value and never stored


class Encoding(NamedTuple):
    """A form in which f_sr lies on disk."""

    stored: str  # "f_sr" itself, or "trunk", from which the tail makes it
    dtype: str
    attention: str  # dtype of the attention map


ENCODINGS = {
    "float32": Encoding("f_sr", "float32", "float32"),
    "float16": Encoding("f_sr", "float16", "float16"),
    "int8": Encoding("f_sr", "int8", "float16"),
    "trunk-float32": Encoding("trunk", "float32", "float32"),
    "trunk-float16": Encoding("trunk", "float16", "float16"),
    "trunk-int8": Encoding("trunk", "int8", "float16"),
}
COMPRESSIONS = ("none", "zstd")
MAX_INNER_HEIGHT = 256
MAX_INNER_WIDTH = 128
SCALE = 4  # HR pixels between LR pixels, unless a manifest says so; crops lie on their grid
GRID = 4  # the sides of inner chunks are multiples of it, whatever the scale


@dataclass(frozen=True)
class ArraySpec:
    """The layout of one array on disk. A shard may reach beyond the shape: the rest is padding."""

    name: str
    shape: tuple[int, ...]
    shard: tuple[int, ...]  # equals `inner` where an entry is one plain chunk
    inner: tuple[int, ...]
    dtype: str
    compression: str = "none"
    sums: bool = True  # whether the checksums of a shard's chunks lie before its index
    folder: str = ""  # of the entry's size; "" at the top

    @property
    def path(self) -> str:
        """Return the path of the array's own folder."""
        return f"{self.folder}/{self.name}" if self.folder else self.name

    @property
    def raw_bytes(self) -> int:
        """Return the bytes of an entry's values, uncompressed and with their padding."""
        return prod(self.shard) * np.dtype(self.dtype).itemsize

    @property
    def is_sharded(self) -> bool:
        """Tell whether an entry's file is chunks with an index, rather than one plain chunk."""
        return not self.name.endswith(SCALE_SUFFIX) and not self.name.startswith(f"{TAIL}/")

    def file(self, index: int) -> str:
        """Return the path of the file of entry `index`."""
        return f"{self.path}/" + SEPARATOR.join(["c", str(index), *"0" * (len(self.shape) - 1)])


def array_specs(
    targets: tuple[str, ...],
    encoding: str,
    entries: int,
    frames: int,
    channels: int,
    height: int,
    width: int,
    compression: str = "none",
    f_lr_channels: int = 0,
    sr_channels: int = 3,
    sums: bool = True,
    scale: int = SCALE,
    folder: str = "",
) -> list[ArraySpec]:
    """List the arrays of a cache with frames of (height, width) HR pixels, ordered as ARRAYS."""
    stored, dtype, attention_dtype = ENCODINGS[encoding]
    low = (height // scale, width // scale)
    shapes = {
        "sr": (sr_channels, height, width),
        "f_sr": (channels, *(low if stored == "trunk" else (height, width))),
        "attention": (height, width),
        "f_lr": (f_lr_channels, *low),
    }
    specs = []
    for target in (name for name in TARGETS if name in targets):
        name = stored if target == "f_sr" else target
        kept_as = {"attention": attention_dtype, "sr": "uint8"}.get(target, dtype)
        whole = (entries, frames, *shapes[target])
        specs.append(_map_spec(name, whole, kept_as, compression, sums, folder))
        if kept_as == "int8":
            one = (1, 2, shapes[target][0])
            shape = (entries, *one[1:])
            kept = ArraySpec(name + SCALE_SUFFIX, shape, one, one, "float32", folder=folder)
            specs.append(kept)
    return specs


def _map_spec(
    name: str, shape: tuple[int, ...], dtype: str, compression: str, sums: bool, folder: str
) -> ArraySpec:
    """Lay an array out as one shard for each entry, its inner chunks of one frame, narrow in W."""
    frames, channels, (height, width) = shape[1], shape[2:-2], shape[-2:]
    high, wide = chunk_side(height, MAX_INNER_HEIGHT), chunk_side(width, MAX_INNER_WIDTH)
    shard = (1, frames, *channels, _round_up(height, high), _round_up(width, wide))
    inner = (1, 1, *channels, high, wide)
    return ArraySpec(name, shape, shard, inner, dtype, compression, sums, folder)


def fill_value(dtype: str) -> float:
    """Return the value that a missing chunk reads as; no stored value but black equals it."""
    return {"int8": -INT8_LIMIT - 1, "uint8": 0}.get(dtype, nan)


def chunk_side(size: int, limit: int) -> int:
    """Return the side of inner chunks along an axis of `size`: a multiple of GRID, <= limit.

    Even pieces keep the padding of the last one small: 436 at a limit of 64 is 7 x 64, and
    288 at a limit of 256 is 2 x 144 rather than 2 x 256.
    """
    return min(size, limit, _round_up(ceil(size / ceil(size / limit)), GRID))


def _round_up(size: int, step: int) -> int:
    return ceil(size / step) * step
