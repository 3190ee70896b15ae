"""Stage one's side of a cache: create or resume it, commit entries one by one, finish it.

An entry is durable on the disk, or in the object store, before its line is journalled.
"""

import re
import threading
from collections.abc import Iterator, KeysView, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stdpipe.cache import layout
from stdpipe.cache.codecs import check_codes, encode, quantise
from stdpipe.cache.creation import enter, leftovers
from stdpipe.cache.errors import CacheError, UserError
from stdpipe.cache.files import is_full
from stdpipe.cache.journal import (
    REPAIR,
    Commit,
    JournalWriter,
    Stored,
    committed,
    lock_path,
    mend,
    read_journals,
)
from stdpipe.cache.layout import SCALE_SUFFIX, ArraySpec
from stdpipe.cache.location import open_place
from stdpipe.cache.manifest import Manifest, create_mark
from stdpipe.cache.place import Lock, Place
from stdpipe.cache.shards import encode_shard, fingerprint

Arrays = Mapping[str, NDArray[Any]]


def open_writer(
    path: str | Path,
    manifest: Manifest,
    writer: str = "0",
    tail: Mapping[str, NDArray[np.float32]] | None = None,
) -> "Writer":
    """Create the cache at `path`, or resume it if it has the same identity.

    tail: the teacher's parameters that turn the trunk, where that is stored, into f_sr, and f_sr
    into its image; the latter may be left out.
    Writers of different names may work at once, on different entries. Raises CacheError: another
    identity (both values named), the same writer or a repair at work, a folder of something else,
    disk full.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", writer):
        raise CacheError(f"writer name {writer!r}: use letters, digits, '-' and '_'")
    assert manifest.stored != "trunk" or tail is not None, "a trunk needs its tail"
    place = open_place(path)
    with _clear_when_full(place):
        made = enter(place, manifest, tail)
        lock = place.lock(lock_path(writer))
        if lock is None:
            raise CacheError(
                f"writer {writer!r} is already at work on {place.url}: wait, or stop it"
            )
        try:
            _refuse_others(place, writer)
            return Writer(place, made, writer, lock)
        except BaseException:
            lock.release()
            raise


class Writer:
    """One writer of a cache; use as a context manager. `write` may be called from many threads."""

    def __init__(self, place: Place, manifest: Manifest, name: str, lock: Lock) -> None:
        self.manifest = manifest
        self._place = place
        self._lock = lock
        self._journal = JournalWriter(place, name)
        self._committed = dict.fromkeys(committed(read_journals(place)))
        self._one_at_a_time = threading.Lock()

    @property
    def committed(self) -> KeysView[str]:
        """Keys committed so far: by all writers when this one was opened, then by this one.

        A live view, so that asking for every key of a large cache costs nothing.
        """
        return self._committed.keys()

    def write(self, key: str, arrays: Arrays, extra: Mapping[str, Any] | None = None) -> int:
        """Store one entry and commit it; returns the bytes stored.

        arrays: float32 values by Manifest.given: f_sr (T, C, H, W) or trunk (T, C, H/4, W/4), and
        attention (T, H, W); or any of them in stored form: the array's own dtype, int8 codes with
        <name>_scale (2, C) beside them.
        extra: JSON facts kept in the entry's journal line.
        Raises CacheError: unknown or committed key, wrong arrays, values that the encoding
        cannot hold, disk full. The entry is not committed then.
        """
        stored = self._stored(key, arrays)
        index = self.manifest.index[key]
        with _clear_when_full(self._place):
            files = {name: self._store(name, index, stored[name]) for name in self.manifest.arrays}
            with self._one_at_a_time:
                self._lock.check()
                self._journal.append(Commit(key, index, files, dict(extra or {})))
                self._committed[key] = None
        return sum(file.bytes for file in files.values())

    def missing(self) -> list[str]:
        """Keys that no writer has committed so far, by what the journals say now."""
        done = committed(read_journals(self._place))
        return [key for key in self.manifest.entries if key not in done]

    def finalise(self) -> None:
        """Mark the cache complete. Raises CacheError where entries are missing.

        Completeness has its own small file, so that the manifest is written once and no crash
        while finishing can cost it.
        """
        # drop damaged lines of writers that are not at work: their entries were written anew
        journals = read_journals(self._place)
        for writer in {journal.writer for journal in journals if journal.torn or journal.damaged}:
            if lock := self._place.lock(lock_path(writer)):
                try:
                    mend(self._place, writer)
                finally:
                    lock.release()
        if missing := self.missing():
            raise CacheError(
                f"cache {self._place.url} lacks {len(missing)} of {len(self.manifest.entries)} "
                f"entries, the first is {missing[0]!r}: run the same command again"
            )
        with _clear_when_full(self._place):
            create_mark(self._place, self.manifest)
        self._place.delete(leftovers(self._place))  # of writers killed while they created a file

    def close(self) -> None:
        """Release the lock. Harmless when repeated."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stored(self, key: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Return all arrays of an entry as they lie on disk, scales included."""
        if key not in self.manifest.index:
            url = self._place.url
            raise CacheError(f"entry {key!r} is not in the manifest of {url}: check the key")
        if key in self._committed:
            raise CacheError(f"entry {key!r} is committed already: skip what is in .committed")
        given = sorted(name for name in arrays if not name.endswith(SCALE_SUFFIX))
        if given != (wanted := sorted(self.manifest.given)):
            raise CacheError(f"entry {key!r}: got {given}, give {wanted}")
        stored: dict[str, NDArray[Any]] = {}
        for name in self.manifest.given:
            try:
                stored |= _stored_form(self.manifest.arrays[name], name, arrays)
            except ValueError as error:
                raise CacheError(f"entry {key!r}, {name}: {error}") from error
        return stored

    def _store(self, name: str, index: int, values: NDArray[Any]) -> Stored:
        """Write one entry of one array."""
        spec = self.manifest.arrays[name]
        parts = encode_shard(spec, values)
        self._place.write(spec.file(index), parts)
        return Stored(sum(map(len, parts)), fingerprint(parts))


def _stored_form(spec: ArraySpec, name: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """An array as it lies on disk, int8 with its scale, from float32 or from that form itself."""
    values, shape = arrays[name], spec.shape[1:]
    scale_name = name + SCALE_SUFFIX
    wanted = sorted({"float32", spec.dtype})
    if values.shape != shape or str(values.dtype) not in wanted:
        raise UserError(f"got {values.dtype} {values.shape}, give {' or '.join(wanted)} {shape}")
    if spec.dtype != "int8":
        return {name: encode(values, spec.dtype)}
    if values.dtype == np.float32:
        codes, scale = quantise(values)
        return {name: codes, scale_name: scale}
    check_codes(values, arrays.get(scale_name))
    return {name: values, scale_name: arrays[scale_name]}


def _refuse_others(place: Place, writer: str) -> None:
    """A repair, and writers named "i-of-n", which split the entries in n, of another n.

    A repair takes its own lock before it looks for those of writers, and a writer does the reverse:
    of two that start together, one sees the other.
    """
    share = re.compile(rf"\w+-of-(?!{writer.partition('-of-')[2] or '-'}\.)\d+\.lock")
    repair = REPAIR + layout.LOCK_SUFFIX
    others = [n for n in place.names(layout.JOURNAL) if n == repair or share.fullmatch(n)]
    held = place.held([f"{layout.JOURNAL}/{name}" for name in others])
    if lock_path(REPAIR) in held:
        raise CacheError(
            f"'stdpipe cache repair' is at work on {place.url}: wait until it is done, and run the "
            "same command again"
        )
    if held:
        other = held[0].removeprefix(layout.JOURNAL + "/").removesuffix(layout.LOCK_SUFFIX)
        raise CacheError(
            f"writer {other!r} is at work on {place.url}, whose share overlaps that of "
            f"{writer!r}: wait, or divide the work as it does"
        )


@contextmanager
def _clear_when_full(place: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise CacheError(
            f"no space left for cache {place.url}: make space and run the same command again, "
            "it resumes"
        ) from error
