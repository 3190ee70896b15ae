"""The arrays of a cache: the only file that knows zarr's interface."""

import errno
import math
from pathlib import Path
from typing import Any

import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from stdpipe.cache.durable import fsync
from stdpipe.cache.errors import CacheError
from stdpipe.cache.layout import FORMAT, ZARR_METADATA, ArraySpec

_SEPARATOR = "."


def create_arrays(root: Path, specs: dict[str, ArraySpec]) -> None:
    """Lay out the group and its empty arrays, on disk when this returns."""
    group = zarr.create_group(str(root), attributes={"format": FORMAT})
    for spec in specs.values():
        _create_array(group, spec)
        fsync(root / spec.name / ZARR_METADATA)
        fsync(root / spec.name)
    fsync(root / ZARR_METADATA)
    fsync(root)


def open_array(root: Path, spec: ArraySpec, *, write: bool = False) -> "zarr.Array[Any]":
    """One array, its metadata compared with `spec`. Raises CacheError where they differ."""
    try:
        # zarr does not persist write_empty_chunks: it counts when the array is opened
        with zarr.config.set({"array.write_empty_chunks": True}):
            array = zarr.open_array(str(root / spec.name), mode="r+" if write else "r")
    except Exception as error:  # damaged JSON raises nearly anything
        raise CacheError(
            f"{root / spec.name / ZARR_METADATA} is damaged: {brief(error)}"
        ) from error
    found = (array.shape, array.shards, array.chunks, str(array.dtype))
    if found != (spec.shape, spec.shard, spec.inner, spec.dtype):
        raise CacheError(f"{root / spec.name / ZARR_METADATA} does not fit the manifest: {found}")
    if not math.isnan(float(array.fill_value)):
        raise CacheError(f"{root / spec.name / ZARR_METADATA} has another fill value than NaN")
    return array


def disk_full(error: BaseException | None) -> bool:
    """Whether a full disk or quota is behind an error, however deep zarr wrapped it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            return True
        if isinstance(error, BaseExceptionGroup) and any(map(disk_full, error.exceptions)):
            return True
        error = error.__cause__ or error.__context__
    return False


def brief(error: BaseException) -> str:
    """An error of another library as one short line."""
    text = " ".join(str(error).split()) or "no details"
    return f"{type(error).__name__}: {text[:200]}"


def _create_array(group: zarr.Group, spec: ArraySpec) -> None:
    # Blosc carries no checksum of its own: without crc32c behind it a flipped bit reads as a value
    blosc = BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=int(spec.dtype[-2:]) // 8)
    group.create_array(
        spec.name,
        shape=spec.shape,
        shards=spec.shard,
        chunks=spec.inner,
        dtype=spec.dtype,
        compressors=[blosc, Crc32cCodec()],
        fill_value=math.nan,  # never a stored value, so whatever reads as NaN was not there
        chunk_key_encoding={"name": "default", "separator": _SEPARATOR},
    )
