"""The arrays of a cache: the only file that knows zarr's interface."""

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from stdpipe.cache.durable import fsync
from stdpipe.cache.errors import CacheError
from stdpipe.cache.layout import FORMAT, TAIL, ZARR_METADATA, ArraySpec, fill_value

Tail = Mapping[str, NDArray[np.float32]] | None

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


def create_tail(root: Path, tail: Mapping[str, NDArray[np.float32]]) -> None:
    """Write the teacher's frozen tail, an array a parameter, on disk when this returns."""
    group = zarr.create_group(str(root / TAIL))
    for name, values in tail.items():
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=values.shape,
            dtype="float32",
            compressors=[Crc32cCodec()],
            fill_value=np.nan,
            chunk_key_encoding={"name": "default", "separator": _SEPARATOR},
        )
        array[...] = values
    for file in (root / TAIL).rglob("*"):
        fsync(file)
    fsync(root / TAIL)


def read_tail(root: Path) -> dict[str, NDArray[np.float32]]:
    """The tail's parameters by name. Raises CacheError where one is missing or damaged."""
    folder = root / TAIL
    found: dict[str, NDArray[np.float32]] = {}
    for path in sorted(folder.iterdir() if folder.is_dir() else []):
        if not path.is_dir():
            continue
        try:
            values = np.asarray(zarr.open_array(str(path), mode="r")[...], dtype=np.float32)
        except Exception as error:  # damaged bytes raise nearly anything
            raise CacheError(f"{path} is damaged: {brief(error)}") from error
        if np.isnan(values).any():
            raise CacheError(f"{path} is damaged: a part of it is missing")
        found[path.name] = values
    if not found:
        raise CacheError(f"{folder} is missing: extract again")
    return found


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
    if not np.array_equal(array.fill_value, fill_value(spec.dtype), equal_nan=True):
        raise CacheError(f"{root / spec.name / ZARR_METADATA} has another fill value than ours")
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
    typesize = np.dtype(spec.dtype).itemsize
    blosc = BloscCodec(
        cname="lz4",
        clevel=5,
        shuffle="shuffle" if typesize > 1 else "noshuffle",
        typesize=typesize,
    )
    group.create_array(
        spec.name,
        shape=spec.shape,
        shards=spec.shard,
        chunks=spec.inner,
        dtype=spec.dtype,
        compressors=[blosc, Crc32cCodec()],
        fill_value=fill_value(spec.dtype),  # never stored: whatever reads so was not there
        chunk_key_encoding={"name": "default", "separator": _SEPARATOR},
    )
