"""Stage one's side of a cache: create or resume it, commit entries one by one, finish it.

An entry is written beside, renamed (both by zarr), fsynced, and only then journalled.
"""

import os
import re
from collections.abc import Iterator, KeysView, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stdpipe.cache import layout
from stdpipe.cache.codecs import encode, quantise
from stdpipe.cache.creation import enter
from stdpipe.cache.durable import file_checksum, fsync, replace, seal
from stdpipe.cache.errors import CacheError
from stdpipe.cache.journal import (
    JournalWriter,
    commit_of,
    committed,
    read_journals,
    repair,
    try_lock,
    unlock,
)
from stdpipe.cache.manifest import Manifest, load_manifest
from stdpipe.cache.store import disk_full, open_array


def open_writer(
    path: str | Path,
    manifest: Manifest,
    writer: str = "0",
    tail: Mapping[str, NDArray[np.float32]] | None = None,
) -> "Writer":
    """Create the cache at `path`, or resume it if it has the same identity.

    tail: where the encoding stores the trunk, the teacher's parameters that turn it into f_sr.
    Writers of different names may work at once, on different entries. Raises CacheError: another
    identity (both values named), the same writer at work, a folder of something else, disk full.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", writer) or writer == "writers":
        raise CacheError(f"writer name {writer!r}: use letters, digits, '-' and '_'")
    assert (manifest.stored == "trunk") == (tail is not None), "a trunk needs its tail"
    root = layout.local_path(path)
    with _clear_when_full(root, "the cache could not be opened"):
        lock = enter(root, manifest, tail)
        try:
            return Writer(root, load_manifest(root), writer, lock)
        except BaseException:
            os.close(lock)
            raise


class Writer:
    """One writer of a cache; use as a context manager. Not for several threads at once."""

    def __init__(self, root: Path, manifest: Manifest, name: str, store_lock: int) -> None:
        self.manifest = manifest
        self._root = root
        folder = root / layout.JOURNAL
        own_lock = try_lock(folder / (name + layout.LOCK_SUFFIX))
        if own_lock is None:
            raise CacheError(f"writer {name!r} is already at work on {root}: wait, or stop it")
        try:
            _refuse_other_shares(folder, name)
            self._journal = JournalWriter(folder / (name + layout.JOURNAL_SUFFIX))
            self._committed = dict.fromkeys(committed(read_journals(root)))
            specs = manifest.arrays.values()
            self._arrays = {spec.name: open_array(root, spec, write=True) for spec in specs}
        except BaseException:
            os.close(own_lock)
            raise
        self._locks = [own_lock, store_lock]

    @property
    def committed(self) -> KeysView[str]:
        """Keys committed so far: by all writers when this one was opened, then by this one.

        A live view, so that asking for every key of a large cache costs nothing.
        """
        return self._committed.keys()

    def write(
        self,
        key: str,
        arrays: Mapping[str, NDArray[np.generic]],
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Store one entry and commit it.

        arrays: float32, by Manifest.given: f_sr (T, C, H, W) or trunk (T, C, H/4, W/4), and
        attention (T, H, W). Or all of Manifest.arrays as they are to lie on disk, each in its
        dtype, int8 codes with their scale (2, C) beside them; whoever encoded them has checked
        that the encoding holds them.
        extra: JSON facts kept in the entry's journal line.
        Raises CacheError: unknown or committed key, wrong arrays, values that the encoding
        cannot hold, disk full. The entry is not committed then.
        """
        self._check(key, arrays)
        stored: dict[str, NDArray[np.generic]] = {}
        for name, values in arrays.items():
            stored |= self._encode(key, name, values)
        index = self.manifest.index[key]
        with _clear_when_full(self._root, self._progress()):
            files = {name: self._store(name, index, stored[name]) for name in self._arrays}
            self._journal.append(commit_of(key, index, files, extra or {}))
        self._committed[key] = None

    def missing(self) -> list[str]:
        """Keys that no writer has committed so far, by what the journals say now."""
        done = committed(read_journals(self._root))
        return [key for key in self.manifest.entries if key not in done]

    def finalise(self) -> None:
        """Mark the cache complete. Raises CacheError where entries are missing.

        Completeness has its own small file, so that the manifest is written once and no crash
        while finishing can cost it.
        """
        _repair_all(self._root)
        missing = self.missing()
        if missing:
            raise CacheError(
                f"cache {self._root} lacks {len(missing)} of {len(self.manifest.entries)} entries, "
                f"the first is {missing[0]!r}: run the same command again"
            )
        mark = {"cache_id": self.manifest.cache_id, "entries": len(self.manifest.entries)}
        with _clear_when_full(self._root, self._progress()):
            replace(self._root / layout.COMPLETE, seal(mark) + "\n")

    def close(self) -> None:
        """Release the journal and the locks. Harmless when repeated."""
        if self._locks:
            self._journal.close()
        while self._locks:
            unlock(self._locks.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _is_stored_form(self, arrays: Mapping[str, NDArray[np.generic]]) -> bool:
        specs = self.manifest.arrays
        return arrays.keys() == specs.keys() and all(
            values.dtype == specs[name].dtype for name, values in arrays.items()
        )

    def _check(self, key: str, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        assert self._locks, "the writer is closed"
        if key not in self.manifest.index:
            raise CacheError(f"entry {key!r} is not in the manifest of {self._root}: check the key")
        if key in self._committed:
            raise CacheError(f"entry {key!r} is committed already: skip what is in .committed")
        stored = self._is_stored_form(arrays)
        if not stored and set(arrays) != set(self.manifest.given):
            given = sorted(self.manifest.given)
            raise CacheError(f"entry {key!r}: got {sorted(arrays)}, give {given}")
        for name, values in arrays.items():
            shape = self.manifest.arrays[name].shape[1:]
            if values.shape != shape or not (stored or values.dtype == np.float32):
                got = f"{values.dtype} {values.shape}"
                raise CacheError(f"entry {key!r}, {name}: got {got}, give float32 {shape}")

    def _encode(self, key: str, name: str, values: NDArray[Any]) -> dict[str, NDArray[np.generic]]:
        if values.dtype != np.float32:
            return {name: values}
        dtype = self.manifest.arrays[name].dtype
        try:
            if dtype == "int8":
                codes, scale = quantise(values)
                return {name: codes, name + "_scale": scale}
            return {name: encode(values, dtype)}
        except ValueError as error:
            raise CacheError(f"entry {key!r}, {name}: {error}") from error

    def _store(self, name: str, index: int, values: NDArray[np.generic]) -> tuple[int, int]:
        """Write one shard durably; bytes and CRC-32 of its file."""
        file = layout.shard_file(self._root, self.manifest.arrays[name], index)
        # an uncommitted file may be torn, and zarr reads a padded shard before it replaces it
        file.unlink(missing_ok=True)
        self._arrays[name][index] = values
        fsync(file)
        fsync(file.parent)
        return file_checksum(file)

    def _progress(self) -> str:
        total = len(self.manifest.entries)
        return f"{len(self._committed)} of {total} entries are committed"


def _refuse_other_shares(folder: Path, name: str) -> None:
    """Writers named "i-of-n" split the entries in n; shares of another n would overlap them."""
    for path in folder.glob("*-of-*" + layout.LOCK_SUFFIX):
        if path.stem.partition("-of-")[2] == name.partition("-of-")[2]:
            continue
        lock = try_lock(path)
        if lock is None:
            raise CacheError(
                f"writer {path.stem!r} is at work on {folder.parent}, whose share overlaps that of "
                f"{name!r}: wait, or divide the work as it does"
            )
        unlock(lock)


def _repair_all(root: Path) -> None:
    """Drop damaged lines of writers that are not at work: their entries were written anew."""
    for path in (root / layout.JOURNAL).glob("*" + layout.JOURNAL_SUFFIX):
        lock = try_lock(path.with_suffix(layout.LOCK_SUFFIX))
        if lock is not None:
            try:
                repair(path)
            finally:
                unlock(lock)


@contextmanager
def _clear_when_full(root: Path, progress: str) -> Iterator[None]:
    try:
        yield
    except CacheError:
        raise
    except Exception as error:
        if not disk_full(error):
            raise
        raise CacheError(
            f"no space left for cache {root}: {progress}; make space and run the same command "
            "again, it resumes"
        ) from error
