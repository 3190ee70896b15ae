"""Read a cache: open one that fits, read crops of it, never serve a damaged value."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdpipe.cache import shards
from stdpipe.cache.errors import CacheError, DamagedError, UserError
from stdpipe.cache.journal import read_lines
from stdpipe.cache.layout import SCALE_SUFFIX
from stdpipe.cache.location import open_place
from stdpipe.cache.manifest import Manifest, Part, refuse_difference
from stdpipe.cache.manifest_files import finished, load_manifest
from stdpipe.cache.place import Place
from stdpipe.cache.store import read_tail
from stdpipe.cache.table import Table

KEPT = 16384  # indices of shards, and scales, that a process remembers: about 16 MB


def open_reader(
    path: str | Path,
    expect: Mapping[str, Any] | None = None,
    allow_incomplete: bool = False,
    part: Part | None = None,
) -> "Reader":
    """Open a cache for reading: all that is finished of it, even while it grows.

    expect: facts of Manifest.facts() that the cache must share.
    allow_incomplete: serve the entries committed so far; `.entries` then holds only those.
    part: serve this part alone, which an earlier reader's `manifest.part` named.
    Raises CacheError for no cache, another format version, other facts (naming both), and an
    incomplete cache.
    """
    place = open_place(path)
    manifest = load_manifest(place)
    refuse_difference(place.url, manifest.facts(), expect or {})
    # looked up before the journal: what was finished by then has its lines
    served = None if allow_incomplete else part or finished(place, manifest)
    made = manifest.part_of(served) if served else manifest
    reader = Reader(place, made, Table(made, read_lines(place)))
    if allow_incomplete:
        return reader
    if not served or not reader.is_whole():
        raise CacheError(
            f"cache {place.url} is incomplete ({len(reader.entries)} of "
            f"{len(reader.manifest.entries)} entries committed): run the same extract-teacher "
            "command again"
        )
    return reader


class Reader:
    """Reads crops of committed entries. Can be pickled and forked, and used by many threads."""

    def __init__(self, place: Place, manifest: Manifest, table: Table) -> None:
        self.manifest, self._table = manifest, table
        self.entries = table.whole()
        self.url = place.url
        self._place = place
        self._small: Callable[[str, str], NDArray[Any]] | None = None
        self._pid = 0

    def is_complete(self) -> bool:
        """Tell whether all of the manifest was finished and still has its journal lines."""
        return finished(self._place, self.manifest) == self.manifest.part and self.is_whole()

    def held(self, name: str) -> set[str]:
        """Return the entries of the manifest that have a committed array of that name."""
        return self._table.held(name)

    def is_whole(self) -> bool:
        """Tell whether every entry of the manifest is committed."""
        return len(self.entries) == len(self.manifest.entries)

    def bytes_by_array(self) -> dict[str, int]:
        """Return the stored bytes of each array, as the journal has them."""
        return self._table.bytes_by_array()

    def total_bytes(self) -> int:
        """Return the stored bytes of all arrays together."""
        return sum(self.bytes_by_array().values())

    def extra(self, key: str) -> dict[str, Any]:
        """Return the `extra` that was written with an entry. Raises CacheError: no such entry."""
        self._refuse_unknown(key)
        return self._table.extra(key)

    def read(
        self,
        key: str,
        name: str,
        frames: slice = slice(None),
        y: int = 0,
        x: int = 0,
        h: int | None = None,
        w: int | None = None,
    ) -> NDArray[Any]:
        """Read a crop of one entry in the stored dtype, as a new C-contiguous array.

        name: "f_sr" or "trunk" -> (t, C, h, w), "attention" -> (t, h, w).
        y, x, h, w: the window in the array's own pixels (HR; LR for the trunk); h and w default to
        all that is left. `scale` belongs to int8 codes.
        Raises CacheError for an unknown entry or array and for damage (naming both), UserError
        where the window or the frames do not lie within the entry.
        """
        self._refuse_unknown(key)
        if name not in self.manifest.given:
            raise CacheError(f"cache {self.url} holds {self.manifest.given}, not {name!r}")
        spec = self.manifest.group(key).arrays[name]
        wanted = range(self.manifest.frames)[frames]
        if not wanted or wanted.step < 1:
            raise UserError(f"{frames} takes none of {self.manifest.frames} frames: count upwards")
        height, width = spec.shape[-2:]
        rows, columns = _span("y", "h", y, h, height), _span("x", "w", x, w, width)
        size = (rows.stop - rows.start, columns.stop - columns.start)
        with self._named_errors(key, name):
            index = self._kept(key, name)  # first: where the index is whole, so are the sizes
            out = np.empty((len(wanted), *spec.shape[2:-2], *size), spec.dtype)
            parts = list(shards.chunk_parts(spec, wanted, rows, columns))
            chunks_at = [index[part.chunk].tolist() for part in parts]
            spans = [(start, start + length) for start, length, *_ in chunks_at]
            chunks = self._place.ranges(spec.file(self.entries[key]), spans)
            maps, sums = out.reshape(len(wanted), -1, *size), (row[2] for row in chunks_at)
            shards.decode_window(spec, parts, chunks, maps, sums)
        return out

    def scale(self, key: str, name: str) -> NDArray[np.float32]:
        """Read the scale (2, C) of an int8 array: code * scale[0] + scale[1]. Raises as `read`."""
        self._refuse_unknown(key)
        name += SCALE_SUFFIX
        with self._named_errors(key, name):
            return self._kept(key, name).copy()

    def tail(self) -> dict[str, NDArray[np.float32]]:
        """Read the teacher's parameters that the cache keeps. Raises CacheError where damaged."""
        return read_tail(self._place, self.manifest)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_small": None, "_pid": 0}

    def _refuse_unknown(self, key: str) -> None:
        if key in self.entries:
            return
        known = "not committed" if key in self.manifest.index else "not in its manifest"
        raise CacheError(f"entry {key!r} of cache {self.url} is {known}")

    def _kept(self, key: str, name: str) -> NDArray[Any]:
        """Return a shard's index, or a scale; each process reads it once."""
        if self._small is None or self._pid != os.getpid():
            self._small, self._pid = lru_cache(KEPT)(self._read_small), os.getpid()
            if multiprocessing.parent_process() is not None:
                shards.use_one_thread()
        return self._small(key, name)

    def _read_small(self, key: str, name: str) -> NDArray[Any]:
        spec = self.manifest.group(key).arrays[name]
        stored = self._table.stored(key, name)
        if stored is None:
            raise DamagedError("its journal line does not fit the manifest")
        if not spec.is_sharded:
            data = self._place.read(spec.file(self.entries[key]), stored.bytes)
            if shards.fingerprint([data]) != stored.crc32c:
                raise DamagedError("it is not the file that the journal names")
            return shards.decode_plain(data, spec.dtype, spec.inner[1:])
        if stored.bytes < shards.index_bytes(spec):
            raise DamagedError("its journal line does not fit the manifest")
        file = spec.file(self.entries[key])
        span = (stored.bytes - shards.index_bytes(spec), stored.bytes)
        (at_end,) = map(bytes, self._place.ranges(file, [span]))
        index = shards.decode_index(spec, at_end, stored.crc32c)
        if spec.sums:
            return index
        # in version 2 they lie with the chunks alone
        ends = [offset + length for offset, length in index.tolist()]
        spans = [(end - shards.CRC_BYTES, end) for end in ends]
        return shards.bound(
            index, at_end, b"".join(map(bytes, self._place.ranges(file, spans))), stored.crc32c
        )

    @contextmanager
    def _named_errors(self, key: str, name: str) -> Iterator[None]:
        """Name the entry that is damaged or out of reach."""
        where = f"entry {key!r} of cache {self.url}: its {name}"
        try:
            yield
        except (FileNotFoundError, DamagedError, EOFError) as error:
            reason = "its file is missing" if isinstance(error, FileNotFoundError) else error
            advice = "run 'stdpipe cache verify' on it"
            raise CacheError(f"{where} is damaged ({reason}); {advice}") from error
        except (OSError, MemoryError) as error:
            raise CacheError(f"{where} cannot be read: {error}") from error


def _span(at: str, length: str, start: int, size: int | None, limit: int) -> slice:
    stop = limit if size is None else start + size
    if not 0 <= start < stop <= limit:
        raise UserError(f"{at}={start}, {length}={size} lies outside 0..{limit}: move the window")
    return slice(start, stop)
