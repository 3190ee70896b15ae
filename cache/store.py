"""The part of a cache that zarr writes: the metadata of its arrays, and the teacher's tail.

With it, a cache can be read as plain Zarr. shards.py reads and writes the entries.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdpipe.cache import layout
from stdpipe.cache.checksum import crc32c
from stdpipe.cache.errors import CacheError
from stdpipe.cache.files import PARTIAL
from stdpipe.cache.layout import ArraySpec
from stdpipe.cache.manifest import Manifest
from stdpipe.cache.place import MOST_TEXT, Place
from stdpipe.cache.schema import check, parse_json
from stdpipe.cache.shards import ZSTD_LEVEL, decode_plain

Tail = Mapping[str, NDArray[np.float32]] | None

TAIL_NOTE = "tail_crc32c"

_REMEDY = "run 'stdpipe cache repair', then extract-teacher again"


def store_files(manifest: Manifest, tail: Tail) -> dict[str, bytes]:
    """Map paths to contents for all files before the first entry, manifests apart."""
    import zarr

    with tempfile.TemporaryDirectory() as folder:
        group = zarr.create_group(folder, attributes={"format": layout.FORMAT})
        for size in manifest.sizes:
            for spec in size.arrays.values():
                _create_array(group, spec)
        for name, values in (tail or {}).items():
            shape = values.shape
            spec = ArraySpec(f"{layout.TAIL}/{name}", shape, shape, shape, "float32")
            _create_array(group, spec)[...] = values
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def with_tail(manifest: Manifest, tail: Tail) -> Manifest:
    """Note the checksum of the tail's parameters, by name, so that none stands for another."""
    if not tail or manifest.format_version < 3:
        return manifest
    return replace(manifest, notes={**manifest.notes, TAIL_NOTE: _fingerprint(tail)})


def read_tail(place: Place, manifest: Manifest) -> dict[str, NDArray[np.float32]]:
    """Read the tail's parameters by name. Raises CacheError where one is missing or damaged, or
    where they are not those that the manifest notes, which older ones do not."""
    found = place.names(layout.TAIL)
    names = [name for name in found if not name.endswith((layout.ZARR_METADATA, PARTIAL))]
    if not names:
        raise CacheError(f"{place.url}/{layout.TAIL} is missing: {_REMEDY}")
    tail = {name: _read_parameter(place, f"{layout.TAIL}/{name}") for name in names}
    if manifest.notes.get(TAIL_NOTE) not in (None, _fingerprint(tail)):
        reason = "its parameters are not those that the manifest notes"
        raise CacheError(f"{place.url}/{layout.TAIL} is damaged ({reason}): {_REMEDY}")
    return tail


def _fingerprint(tail: Mapping[str, NDArray[np.float32]]) -> int:
    """Return one CRC-32C of names, shapes and values."""
    total = 0
    for name, values in sorted(tail.items()):
        total = crc32c(f"{name} {values.shape}".encode(), total)
        total = crc32c(np.ascontiguousarray(values, "<f4").view(np.uint8).ravel(), total)
    return total


def damaged_metadata(place: Place, manifest: Manifest, tail: Tail) -> list[str]:
    """List the zarr.json files that are missing or hold something else than they should.

    stdpipe reads entries without them; other Zarr libraries need them.
    """
    files = store_files(manifest, tail).items()
    return [path for path, data in files if is_metadata(path) and not says(place, path, data)]


def is_metadata(path: str) -> bool:
    return path.endswith(layout.ZARR_METADATA)


def says(place: Place, path: str, content: bytes) -> bool:
    """Tell whether a zarr.json, whichever zarr wrote it, holds all that ours holds."""
    try:
        found = parse_json(place.read(path, MOST_TEXT), path)
        return all(found[name] == value for name, value in parse_json(content, path).items())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def _read_parameter(place: Place, folder: str) -> NDArray[np.float32]:
    file = f"{folder}/{layout.ZARR_METADATA}"
    try:
        shape = tuple(
            check(list[int], parse_json(place.read(file, MOST_TEXT), file)["shape"], file)
        )
        name = layout.SEPARATOR.join(["c"] + ["0"] * len(shape))
        return decode_plain(place.read(f"{folder}/{name}", MOST_TEXT), "float32", shape).copy()
    except FileNotFoundError:
        reason = "a part of it is missing"
    except (ValueError, KeyError, TypeError) as error:  # damage and broken JSON are ValueErrors
        reason = str(error)
    raise CacheError(f"{place.url}/{folder} is damaged ({reason}): {_REMEDY}")


def _create_array(group: Any, spec: ArraySpec) -> Any:
    from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec

    compressors: list[Any] = [Crc32cCodec()]  # Blosc has no checksum of its own
    if spec.compression == "zstd":
        size = np.dtype(spec.dtype).itemsize
        shuffle = BloscShuffle.bitshuffle if size > 1 else BloscShuffle.noshuffle
        blosc = BloscCodec(cname="zstd", clevel=ZSTD_LEVEL, shuffle=shuffle, typesize=size)
        compressors.insert(0, blosc)
    return group.create_array(
        spec.path,
        shape=spec.shape,
        shards=spec.shard if spec.is_sharded else None,
        chunks=spec.inner,
        dtype=spec.dtype,
        compressors=compressors,
        fill_value=layout.fill_value(spec.dtype),  # never stored: it shows what is missing
        chunk_key_encoding={"name": "default", "separator": layout.SEPARATOR},
    )
