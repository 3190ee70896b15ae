"""What makes a cache readable as plain Zarr: the metadata of its arrays, and the teacher's tail.

Only this file calls zarr; shards.py reads and writes the entries.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdpipe.cache import layout
from stdpipe.cache.errors import CacheError
from stdpipe.cache.layout import ArraySpec
from stdpipe.cache.manifest import Manifest
from stdpipe.cache.place import Place
from stdpipe.cache.shards import ZSTD_LEVEL, decode_plain

Tail = Mapping[str, NDArray[np.float32]] | None

_REMEDY = "run 'stdpipe cache repair', then extract-teacher again"


def store_files(manifest: Manifest, tail: Tail) -> dict[str, bytes]:
    """Path -> content of every file that is there before the first entry, manifests apart."""
    import zarr

    with tempfile.TemporaryDirectory() as folder:
        group = zarr.create_group(folder, attributes={"format": layout.FORMAT})
        for spec in manifest.arrays.values():
            _create_array(group, spec)
        for name, values in (tail or {}).items():
            whole = ArraySpec(
                f"{layout.TAIL}/{name}", values.shape, values.shape, values.shape, "float32"
            )
            _create_array(group, whole)[...] = values
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def read_tail(place: Place) -> dict[str, NDArray[np.float32]]:
    """The tail's parameters by name. Raises CacheError where one is missing or damaged."""
    others = (layout.ZARR_METADATA, layout.PARTIAL_SUFFIX)
    names = [name for name in place.names(layout.TAIL) if not name.endswith(others)]
    if not names:
        raise CacheError(f"{place.url}/{layout.TAIL} is missing: {_REMEDY}")
    return {name: _read_parameter(place, f"{layout.TAIL}/{name}") for name in names}


def damaged_metadata(place: Place, manifest: Manifest, tail: Tail) -> list[str]:
    """Paths of zarr.json that are missing, or say something else than they should.

    Entries are read without them; other Zarr libraries need them.
    """
    files = store_files(manifest, tail).items()
    wanted = {path: json.loads(data) for path, data in files if path.endswith(layout.ZARR_METADATA)}
    return [path for path, content in wanted.items() if not _says(place, path, content)]


def _read_parameter(place: Place, folder: str) -> NDArray[np.float32]:
    try:
        shape = tuple(json.loads(place.read(f"{folder}/{layout.ZARR_METADATA}"))["shape"])
        name = layout.SEPARATOR.join(["c"] + ["0"] * len(shape))
        return decode_plain(place.read(f"{folder}/{name}"), "float32", shape).copy()
    except FileNotFoundError:
        reason = "a part of it is missing"
    except (ValueError, KeyError, TypeError) as error:  # DamagedError, broken JSON: ValueErrors
        reason = str(error)
    raise CacheError(f"{place.url}/{folder} is damaged ({reason}): {_REMEDY}")


def _says(place: Place, path: str, content: dict[str, Any]) -> bool:
    """Tell whether a zarr.json has all that ours has, whichever zarr wrote it."""
    try:
        found = json.loads(place.read(path))
        return all(found[name] == value for name, value in content.items())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def _create_array(group: Any, spec: ArraySpec) -> Any:
    from zarr.codecs import BloscCodec, Crc32cCodec

    compressors: list[Any] = [Crc32cCodec()]  # Blosc has no checksum: a flipped bit would be served
    if spec.compression == "zstd":
        size = np.dtype(spec.dtype).itemsize
        blosc = BloscCodec(
            cname="zstd",
            clevel=ZSTD_LEVEL,
            shuffle="bitshuffle" if size > 1 else "noshuffle",
            typesize=size,
        )
        compressors.insert(0, blosc)
    return group.create_array(
        spec.name,
        shape=spec.shape,
        shards=spec.shard if spec.is_sharded else None,
        chunks=spec.inner,
        dtype=spec.dtype,
        compressors=compressors,
        fill_value=layout.fill_value(spec.dtype),  # never stored: what reads so was not there
        chunk_key_encoding={"name": "default", "separator": layout.SEPARATOR},
    )
