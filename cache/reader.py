"""Stage two's side of a cache: open one that fits, read crops, never serve a damaged value."""

import multiprocessing
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from stdpipe.cache import layout
from stdpipe.cache.durable import unseal
from stdpipe.cache.errors import CacheError
from stdpipe.cache.journal import Commit, committed, read_journals
from stdpipe.cache.manifest import Manifest, load_manifest, refuse_difference
from stdpipe.cache.store import brief, open_array, read_tail


def open_reader(
    path: str | Path, expect: Mapping[str, Any] | None = None, allow_incomplete: bool = False
) -> "Reader":
    """Open a cache for reading.

    expect: facts the cache must share: made_by's, or any other of Manifest.facts().
    allow_incomplete: serve what is committed so far; `.entries` then holds only that.
    Raises CacheError: no cache, other format version, other facts (both named), incomplete.
    """
    root = layout.local_path(path)
    manifest = load_manifest(root)
    refuse_difference(root, manifest.facts(), expect or {})
    commits = committed(read_journals(root))
    if not allow_incomplete and not is_complete(root, manifest, commits):
        raise CacheError(
            f"cache {root} is incomplete ({len(commits)} of {len(manifest.entries)} entries "
            "committed): run the same extract-teacher command again"
        )
    return Reader(root, manifest, commits)


def is_complete(root: Path, manifest: Manifest, commits: Mapping[str, Commit]) -> bool:
    """Whether the cache was finished and every entry has its journal line still."""
    try:
        mark = unseal((root / layout.COMPLETE).read_text(encoding="utf-8").rstrip("\n"))
    except (FileNotFoundError, ValueError):
        return False
    return mark["cache_id"] == manifest.cache_id and commits.keys() >= manifest.index.keys()


class Reader:
    """Reads crops of committed entries. Can be pickled and forked: each process opens its own."""

    def __init__(self, root: Path, manifest: Manifest, commits: Mapping[str, Commit]) -> None:
        self.manifest = manifest
        self.entries = {key: i for key, i in manifest.index.items() if key in commits}
        self._extra = {key: commits[key].extra for key in self.entries}
        self._root = root
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._pid = 0

    def extra(self, key: str) -> dict[str, Any]:
        """What the writer was given beside the arrays. Raises CacheError: entry not there."""
        self._index(key)
        return self._extra[key]

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
        """A crop of one entry in the stored dtype, C-contiguous and the caller's own.

        name: "f_sr" or "trunk" -> (t, C, h, w), "attention" -> (t, h, w).
        y, x, h, w: window in the array's own pixels (HR; LR for the trunk); h and w default to
        all that is left. int8 codes come with `scale`.
        Raises CacheError: unknown entry or array, or damage (names both);
        ValueError: the window or the frames do not lie within the entry.
        """
        index = self._index(key)
        if name not in self.manifest.given:
            raise CacheError(f"cache {self._root} holds {self.manifest.given}, not {name!r}")
        window = self._window(name, frames, y, x, h, w)
        try:
            crop = (slice(index, index + 1), *_full(name, window))
            values: NDArray[Any] = np.asarray(self._open(name)[crop])[0]
        except CacheError:
            raise
        except Exception as error:  # zarr's codecs raise nearly anything on damaged bytes
            raise self._damaged(key, name, brief(error)) from error
        if _holds_fill(values, self.manifest.arrays[name], y, x):
            raise self._damaged(key, name, "a part of it is missing")
        return np.ascontiguousarray(values)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_arrays": {}, "_pid": 0}

    def _index(self, key: str) -> int:
        if key in self.entries:
            return self.entries[key]
        known = "not committed" if key in self.manifest.index else "not in its manifest"
        raise CacheError(f"entry {key!r} of cache {self._root} is {known}")

    def scale(self, key: str, name: str) -> NDArray[np.float32]:
        """(2, C) of an int8 array: value = code * scale[0] + scale[1]. Raises as `read` does."""
        name += "_scale"
        index = self._index(key)
        try:
            values = np.asarray(self._open(name)[index], dtype=np.float32)
        except CacheError:
            raise
        except Exception as error:  # see read
            raise self._damaged(key, name, brief(error)) from error
        if np.isnan(values).any():
            raise self._damaged(key, name, "it is missing")
        return values

    def tail(self) -> dict[str, NDArray[np.float32]]:
        """Parameters of the teacher that turn the trunk into f_sr. Raises CacheError: damaged."""
        return read_tail(self._root)

    def _window(
        self, name: str, frames: slice, y: int, x: int, h: int | None, w: int | None
    ) -> tuple[slice, slice, slice]:
        made = self.manifest
        height, width = made.arrays[name].shape[-2:]
        first, stop, step = frames.indices(made.frames)
        if step < 1 or stop <= first:
            raise ValueError(f"{frames} takes no frames of {made.frames}: count upwards from 0")
        rows, columns = _span("y", "h", y, h, height), _span("x", "w", x, w, width)
        return slice(first, stop, step), rows, columns

    def _open(self, name: str) -> "zarr.Array[Any]":
        """The array, opened by this very process: zarr's threads do not survive a fork."""
        if self._pid != os.getpid():
            self._arrays, self._pid = {}, os.getpid()
        if name not in self._arrays:
            with _codec_threads():
                array = open_array(self._root, self.manifest.arrays[name])
            self._arrays[name] = array
        return self._arrays[name]

    def _damaged(self, key: str, name: str, reason: str) -> CacheError:
        return CacheError(
            f"entry {key!r} of cache {self._root}: its {name} is damaged ({reason}); "
            "run 'stdpipe cache verify' on it"
        )


def _span(at: str, length: str, start: int, size: int | None, limit: int) -> slice:
    stop = limit if size is None else start + size
    if not 0 <= start < stop <= limit:
        raise ValueError(f"{at}={start}, {length}={size} lies outside 0..{limit}: move the window")
    return slice(start, stop)


def _full(name: str, window: tuple[slice, slice, slice]) -> tuple[slice, ...]:
    frames, rows, columns = window
    return window if name == "attention" else (frames, slice(None), rows, columns)


def _holds_fill(values: NDArray[Any], spec: layout.ArraySpec, y: int, x: int) -> bool:
    """Whether an inner chunk was missing: zarr then serves the fill value for all of it.

    That value is never stored and present chunks are checksummed, so one value a chunk tells.
    """
    rows = _probes(y, values.shape[-2], spec.inner[-2])
    columns = _probes(x, values.shape[-1], spec.inner[-1])
    probes = values[:, 0] if values.ndim == 4 else values
    taken = probes[:, rows][:, :, columns]
    missing = taken == layout.fill_value("int8") if spec.dtype == "int8" else np.isnan(taken)
    return bool(missing.any())


def _probes(start: int, size: int, inner: int) -> list[int]:
    """Positions within a window of the first pixel of each inner chunk it touches."""
    return [0, *range(inner - start % inner, size, inner)]


def _codec_threads() -> AbstractContextManager[Any]:
    """One codec thread in data loader processes, which are one a core already.

    zarr takes the number when its thread pool starts, at the first use in a process.
    """
    if multiprocessing.parent_process() is None:
        return nullcontext()
    threads: AbstractContextManager[Any] = zarr.config.set({"threading.max_workers": 1})
    return threads
