"""Write a cache: create or resume it, or let it grow; commit entries one by one, finish it.

An entry is durable on the disk, or in the object store, before its journal line is written.
"""

import re
import threading
from collections.abc import Iterator, KeysView, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stdpipe.cache import journal, layout
from stdpipe.cache.codecs import check_codes, encode, quantise
from stdpipe.cache.creation import enter, furnish, leftovers
from stdpipe.cache.errors import CacheError, UserError
from stdpipe.cache.files import is_full
from stdpipe.cache.layout import SCALE_SUFFIX, ArraySpec
from stdpipe.cache.location import open_place
from stdpipe.cache.manifest import Manifest
from stdpipe.cache.manifest_files import create_mark
from stdpipe.cache.place import Lock, Place
from stdpipe.cache.shards import encode_shard, fingerprint
from stdpipe.cache.store import with_tail

Arrays = Mapping[str, NDArray[Any]]


def open_writer(
    path: str | Path,
    manifest: Manifest,
    writer: str = "0",
    tail: Mapping[str, NDArray[np.float32]] | None = None,
) -> "Writer":
    """Create the cache at `path`, or resume it if it has the same identity.

    Entries and targets that the manifest has beyond the cache are added; what is there stays.
    tail: the teacher's parameters that turn a stored trunk into f_sr and, if given, f_sr into the
    image. Writers of different names may work at once, on different entries.
    Raises CacheError for another identity (naming both values), where the same writer or a repair
    is at work, for a foreign folder and for a full disk.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", writer):
        raise CacheError(f"writer name {writer!r}: use letters, digits, '-' and '_'")
    assert not manifest.needs_tail or tail is not None, "a trunk needs its tail"
    place = open_place(path)
    manifest = with_tail(manifest, tail)
    with _clear_when_full(place):
        enter(place, manifest)
        if (lock := place.lock(journal.lock_path(writer))) is None:
            raise CacheError(
                f"writer {writer!r} is already at work on {place.url}: wait, or stop it"
            )
        try:
            _refuse_others(place, writer)
            return Writer(place, furnish(place, manifest, tail), writer, lock)
        except BaseException:
            lock.release()
            raise


class Writer:
    """One writer of a cache, a context manager. Many threads may call `write`."""

    def __init__(self, place: Place, manifest: Manifest, name: str, lock: Lock) -> None:
        self.manifest = manifest
        self._place = place
        self._lock = lock
        self._journal = journal.JournalWriter(place, name)
        self._commits = journal.committed(journal.read_journals(place))
        whole = (key for key in self._commits if not self.lacks(key))
        self._committed = dict.fromkeys(whole)
        self._one_at_a_time = threading.Lock()

    @property
    def committed(self) -> KeysView[str]:
        """A live view of the keys committed by all writers before this one, then by this one."""
        return self._committed.keys()

    def lacks(self, key: str) -> tuple[str, ...]:
        """Return those of Manifest.given that no line of the journal commits for an entry."""
        held = self._commits[key].arrays if key in self._commits else {}
        return tuple(name for name in self.manifest.given if name not in held)

    def write(self, key: str, arrays: Arrays, extra: Mapping[str, Any] | None = None) -> int:
        """Store one entry, commit it, and return the bytes stored.

        arrays: float32 values of what the entry `lacks`: f_sr (T, C, H, W) or trunk (T, C, H/4,
        W/4), and attention (T, H, W); or any of them in stored form: the array's own dtype, int8
        codes with <name>_scale (2, C) beside them.
        extra: JSON facts that the entry's journal line keeps; those whose names begin with "_" are
        no part of what it is.
        Raises CacheError, without a commit, for an unknown or committed key, wrong arrays, values
        that the encoding cannot hold, another `extra` than that of arrays committed earlier, and a
        full disk.
        """
        stored = self._stored(key, arrays)
        index, specs = self.manifest.index[key], self.manifest.group(key).arrays
        told = dict(extra or {})
        before = journal.identity(self._commits[key].extra) if key in self._commits else None
        if before not in (None, now := journal.identity(told)):
            advice = "use the data set that the cache was made from, or another --cache"
            raise CacheError(f"entry {key!r} was made from {before}, now from {now}: {advice}")
        with _clear_when_full(self._place):
            files = {}
            for name, values in stored.items():
                parts = encode_shard(specs[name], values)
                self._place.write(specs[name].file(index), parts)
                files[name] = journal.Stored(sum(map(len, parts)), fingerprint(parts))
            with self._one_at_a_time:
                self._lock.check()
                of = journal.short_id(self.manifest)
                self._journal.append(journal.Commit(key, index, files, told, of))
                self._committed[key] = None
        return sum(file.bytes for file in files.values())

    def missing(self) -> list[str]:
        """List the keys that no writer has wholly committed, as the journals have it now."""
        self._commits |= journal.committed(journal.read_journals(self._place))
        return [key for key in self.manifest.entries if self.lacks(key)]

    def finalise(self) -> None:
        """Mark the cache complete. Raises CacheError where entries are missing.

        The mark has its own small file: the manifest is not written again, so no crash can cost it.
        """
        # drop damaged lines of writers that are not at work: their entries were written anew
        found = journal.read_journals(self._place)
        for writer in {one.writer for one in found if one.torn or one.damaged}:
            if lock := self._place.lock(journal.lock_path(writer)):
                try:
                    journal.mend(self._place, writer)
                finally:
                    lock.release()
        if missing := self.missing():
            raise CacheError(
                f"cache {self._place.url} lacks {len(missing)} of {len(self.manifest.entries)} "
                f"entries, the first is {missing[0]!r}: run the same command again"
            )
        with _clear_when_full(self._place):
            create_mark(self._place, self.manifest)
        self._place.delete(
            leftovers(self._place, self.manifest)
        )  # by writers killed while they created a file

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
            raise CacheError(f"entry {key!r} is not in the manifest of {self._place.url}")
        if key in self._committed:
            raise CacheError(f"entry {key!r} is committed already: skip what is in .committed")
        given = sorted(name for name in arrays if not name.endswith(SCALE_SUFFIX))
        if given != (wanted := sorted(self.lacks(key))):
            raise CacheError(f"entry {key!r}: got {given}, give {wanted}")
        stored: dict[str, NDArray[Any]] = {}
        for name in self.lacks(key):
            try:
                stored |= _stored_form(self.manifest.group(key).arrays[name], name, arrays)
            except UserError as error:
                raise CacheError(f"entry {key!r}, {name}: {error}") from error
        return stored


def _stored_form(spec: ArraySpec, name: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Return an array as it lies on disk, int8 with its scale, from float32 or that very form."""
    values, shape = arrays[name], spec.shape[1:]
    scale_name = name + SCALE_SUFFIX
    wanted = ["uint8"] if spec.dtype == "uint8" else sorted({"float32", spec.dtype})
    if values.shape != shape or str(values.dtype) not in wanted:
        raise UserError(f"got {values.dtype} {values.shape}, give {' or '.join(wanted)} {shape}")
    if spec.dtype == "uint8":
        return {name: np.ascontiguousarray(values)}
    if spec.dtype != "int8":
        return {name: encode(values, spec.dtype)}
    if values.dtype == np.float32:
        codes, scale = quantise(values)
        return {name: codes, scale_name: scale}
    check_codes(values, arrays.get(scale_name))
    return {name: values, scale_name: arrays[scale_name]}


def _refuse_others(place: Place, writer: str) -> None:
    """Refuse to work beside a repair, or beside a writer "i-of-n" of another number of shares n.

    A repair takes its own lock before it looks for those of writers, and a writer does the reverse:
    of two that start together, one sees the other.
    """
    share = re.compile(rf"\w+-of-(?!{writer.partition('-of-')[2] or '-'}\.)\d+\.lock")
    repair = journal.REPAIR + layout.LOCK_SUFFIX
    others = [n for n in place.names(layout.JOURNAL) if n == repair or share.fullmatch(n)]
    held = place.held([f"{layout.JOURNAL}/{name}" for name in others])
    if journal.lock_path(journal.REPAIR) in held:
        advice = "wait until it is done, and run the same command again"
        raise CacheError(f"'stdpipe cache repair' is at work on {place.url}: {advice}")
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
        advice = "make space and run the same command again, it resumes"
        raise CacheError(f"no space left for cache {place.url}: {advice}") from error
