"""The written format of a cache: names, version, shapes and the chunk rule. A promise.

What this file says lies on users' disks. Whoever changes a name, a shape rule or a codec raises
FORMAT_VERSION, and keeps older caches readable or refuses them by their version.

    cache.zarr/            Zarr v3 group
      f_sr/                    (entry, frame, C, H, W)   one entry = one shard = one file
      trunk/                   (entry, frame, C, h, w)   in place of f_sr, at a quarter of H and W
      f_sr_scale/, trunk_scale/    (entry, 2, C)         int8 only: value = code * [0] + [1]
      attention/               (entry, frame, H, W)
      f_lr/, f_lr_scale/       (entry, frame, C', h, w)  on request, as f_sr is encoded
      tail/<parameter>/        the teacher's own frozen weights: what turns trunk, where that is
                               stored, into f_sr, and f_sr into its image (this may be missing)
      manifest.json            what the cache holds and who made it; written once, first
      journal/manifest.json    its copy
      journal/<writer>.<n>.jsonl   one line a committed entry; the line is the commit
      journal/<writer>.lock    who is at work
      journal/_repair.lock     whether a repair is: no writer begins then
      complete.json            there when every entry is committed; written last

Codecs: raw little-endian values, Blosc zstd where `compression` says so, and a CRC-32C a chunk;
a journal line has the CRC-32C of all the checksums in a file, which tells files apart.
Measured on trained features (benchmarks/RESULTS.md), lz4 shrinks int8 by a sixth at half the
reading speed, and a trunk not at all.
"""

from dataclasses import dataclass
from math import ceil, nan
from typing import NamedTuple

FORMAT = "stdpipe-cache"
FORMAT_VERSION = 2

MANIFEST = "manifest.json"
COMPLETE = "complete.json"
JOURNAL = "journal"
JOURNAL_SUFFIX = ".jsonl"
LOCK_SUFFIX = ".lock"
VERIFIED = "verified.json"
ZARR_METADATA = "zarr.json"
SEPARATOR = "."  # in names of chunks: one folder to fsync and to list
PARTIAL_SUFFIX = ".partial"
SEGMENT_BYTES = 1 << 16  # a journal file takes no more lines then: objects cannot be appended to

TAIL = "tail"

TARGETS = ("f_sr", "attention", "f_lr")  # what a cache serves, whatever lies on disk
SCALE_SUFFIX = "_scale"
ARRAYS = ("f_sr", "f_sr_scale", "trunk", "trunk_scale", "attention", "f_lr", "f_lr_scale")
INT8_LIMIT = 127  # codes are -127..127; -128 is the fill value and never stored


class Encoding(NamedTuple):
    """Says how f_sr lies on disk."""

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
GRID = 4  # LR pixels lie 4 HR pixels apart, so crops do too


@dataclass(frozen=True)
class ArraySpec:
    """Says how one array lies on disk. A shard may reach beyond the shape: the rest is padding."""

    name: str
    shape: tuple[int, ...]
    shard: tuple[int, ...]
    """The same as `inner` where an entry is one plain chunk."""
    inner: tuple[int, ...]
    dtype: str
    compression: str = "none"

    @property
    def is_sharded(self) -> bool:
        """Whether an entry's file holds several chunks, and their index; else one plain chunk."""
        return not self.name.endswith(SCALE_SUFFIX) and not self.name.startswith(f"{TAIL}/")

    def file(self, index: int) -> str:
        """The file of entry `index`."""
        zeros = ["0"] * (len(self.shape) - 1)
        return f"{self.name}/{SEPARATOR.join(['c', str(index), *zeros])}"


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
) -> list[ArraySpec]:
    """The arrays of a cache whose frames are (height, width) HR pixels, in the order of ARRAYS."""
    stored, dtype, attention_dtype = ENCODINGS[encoding]
    low = (height // GRID, width // GRID)
    shapes = {
        "f_sr": (channels, *(low if stored == "trunk" else (height, width))),
        "attention": (height, width),
        "f_lr": (f_lr_channels, *low),
    }
    specs = []
    for target in (name for name in TARGETS if name in targets):
        name = stored if target == "f_sr" else target
        kept_as = attention_dtype if target == "attention" else dtype
        specs.append(_map_spec(name, (entries, frames, *shapes[target]), kept_as, compression))
        if kept_as == "int8":
            one = (1, 2, shapes[target][0])
            specs.append(ArraySpec(name + SCALE_SUFFIX, (entries, *one[1:]), one, one, "float32"))
    return specs


def _map_spec(name: str, shape: tuple[int, ...], dtype: str, compression: str) -> ArraySpec:
    """Lay out one entry a shard, inner chunks of one frame, narrow in W."""
    frames, channels, (height, width) = shape[1], shape[2:-2], shape[-2:]
    inner_h = chunk_side(height, MAX_INNER_HEIGHT)
    inner_w = chunk_side(width, MAX_INNER_WIDTH)
    padded = (_round_up(height, inner_h), _round_up(width, inner_w))
    return ArraySpec(
        name=name,
        shape=shape,
        shard=(1, frames, *channels, *padded),
        inner=(1, 1, *channels, inner_h, inner_w),
        dtype=dtype,
        compression=compression,
    )


def fill_value(dtype: str) -> float:
    """The value that a missing chunk reads as; no stored value equals it."""
    return -INT8_LIMIT - 1 if dtype == "int8" else nan


def chunk_side(size: int, limit: int) -> int:
    """Side of an inner chunk along an axis of `size`: even pieces, on the grid, <= limit.

    Even pieces keep the padding of the last one small: 436 at a limit of 64 is 7 x 64, and
    288 at a limit of 256 is 2 x 144 rather than 2 x 256.
    """
    pieces = ceil(size / limit)
    return min(size, limit, _round_up(ceil(size / pieces), GRID))


def _round_up(size: int, step: int) -> int:
    return ceil(size / step) * step
