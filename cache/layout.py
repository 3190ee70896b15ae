"""The written format of a cache: names, version, shapes and the chunk rule. A promise.

What this file says lies on users' disks. Whoever changes a name, a shape rule or a codec raises
FORMAT_VERSION, and keeps older caches readable or refuses them by their version.

    cache.zarr/            Zarr v3 group
      f_sr/                    (entry, frame, C, H, W)   one entry = one shard = one file
      attention/               (entry, frame, H, W)
      manifest.json            what the cache holds and who made it; written once
      journal/<writer>.jsonl   one line a committed entry; the line is the commit
      complete.json            there when every entry is committed; written last
"""

from dataclasses import dataclass
from math import ceil
from pathlib import Path

from stdpipe.cache.errors import CacheError

FORMAT = "stdpipe-cache"
FORMAT_VERSION = 1

MANIFEST = "manifest.json"
COMPLETE = "complete.json"
JOURNAL = "journal"
JOURNAL_SUFFIX = ".jsonl"
LOCK_SUFFIX = ".lock"
STORE_LOCK = "writers.lock"
ZARR_METADATA = "zarr.json"
PARTIAL_SUFFIX = ".partial"

TARGETS = ("f_sr", "attention")
DTYPES = {"float32": "float32", "float16": "float16"}  # encoding -> dtype of every target
MAX_INNER_HEIGHT = 256
MAX_INNER_WIDTH = 64
GRID = 4  # LR pixels lie 4 HR pixels apart, so crops do too


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """How one target lies on disk. A shard may reach beyond the shape: the rest is padding."""

    name: str
    shape: tuple[int, ...]
    shard: tuple[int, ...]
    inner: tuple[int, ...]
    dtype: str


def array_spec(
    name: str, *, encoding: str, entries: int, frames: int, channels: int, height: int, width: int
) -> ArraySpec:
    """The layout of target `name`: one entry a shard, inner chunks of one frame, narrow in W."""
    assert name in TARGETS
    inner_h = chunk_side(height, MAX_INNER_HEIGHT)
    inner_w = chunk_side(width, MAX_INNER_WIDTH)
    maps = (channels,) if name == "f_sr" else ()
    padded = (_round_up(height, inner_h), _round_up(width, inner_w))
    return ArraySpec(
        name=name,
        shape=(entries, frames, *maps, height, width),
        shard=(1, frames, *maps, *padded),
        inner=(1, 1, *maps, inner_h, inner_w),
        dtype=DTYPES[encoding],
    )


def chunk_side(size: int, limit: int) -> int:
    """Side of an inner chunk along an axis of `size`: even pieces, on the grid, <= limit.

    Even pieces keep the padding of the last one small: 436 at a limit of 64 is 7 x 64, and
    288 at a limit of 256 is 2 x 144 rather than 2 x 256.
    """
    pieces = ceil(size / limit)
    return min(size, limit, _round_up(ceil(size / pieces), GRID))


def shard_file(root: Path, spec: ArraySpec, index: int) -> Path:
    """The file of entry `index`. Dots, not folders: one folder to fsync and to list."""
    return root / spec.name / ".".join(["c", str(index)] + ["0"] * (len(spec.shape) - 1))


def local_path(url: str | Path) -> Path:
    """A path or file:// URL as a Path. Raises CacheError for any other scheme."""
    text = str(url)
    scheme, mark, rest = text.partition("://")
    if not mark:
        return Path(url)
    if scheme != "file" or not rest.startswith("/"):
        raise CacheError(f"cache {text!r}: only local paths and file:///... work; give a folder")
    return Path(rest)


def _round_up(size: int, step: int) -> int:
    return ceil(size / step) * step
