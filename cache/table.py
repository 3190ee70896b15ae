"""The commits of a cache in columns: an object for each entry takes seven times as much."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stdpipe.cache.journal import Stored, short_id
from stdpipe.cache.manifest import Manifest

NONE = -1  # bytes of an array that no line commits; a fact that a line does not state


class Table:
    """What the journal says of the entries of a manifest. Cheap to send to other processes."""

    def __init__(self, manifest: Manifest, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take a journal's lines in order: those of one entry are joined, and a later one wins."""
        self._manifest, self._cache = manifest, short_id(manifest)
        self._first: dict[str, int] = {}  # row of the first entry, by the folder of its size
        count = 0
        for group in manifest.sizes:
            self._first[group.folder] = count
            count += len(group.entries)
        self._bytes: dict[str, NDArray[Any]] = {
            name: np.full(count, NONE, np.int64) for name in manifest.arrays
        }
        self._sums = {name: np.zeros(count, np.uint32) for name in manifest.arrays}
        self._misfits = np.zeros(count, bool)
        self._facts: dict[str, NDArray[np.int64]] = {}  # whole numbers of `extra`, by name
        self._others: dict[int, dict[str, Any]] = {}  # row -> the rest of an `extra`
        for line in lines:
            self._add(line)
        self._bytes = {name: _narrow(column) for name, column in self._bytes.items()}

    def _add(self, line: Mapping[str, Any]) -> None:
        key = line["key"]
        if key not in self._manifest.index:
            return
        row = self._row(key)
        is_ours = line.get("cache", "") in ("", self._cache)
        self._misfits[row] = not is_ours or line["index"] != self._manifest.index[key]
        for name, stored in line["arrays"].items():
            if name in self._bytes:
                self._bytes[name][row] = stored["bytes"]
                self._sums[name][row] = stored["crc32c"]
        self._say(row, line["extra"])

    def _say(self, row: int, extra: Mapping[str, Any]) -> None:
        others = {}
        for name in extra.keys() - self._facts.keys():
            self._facts[name] = np.full(len(self._misfits), NONE, np.int64)
        for name, column in self._facts.items():
            value = extra.get(name, NONE)
            is_number = type(value) is int and NONE <= value < 2**63
            column[row] = value if is_number else NONE
            if name in extra and (not is_number or value == NONE):
                others[name] = value
        if others or row in self._others:
            self._others[row] = others

    def whole(self) -> dict[str, int]:
        """Map the entries that have all arrays of the manifest to their index in these."""
        complete = np.all([stored >= 0 for stored in self._bytes.values()], axis=0)
        index = self._manifest.index
        if complete.all():
            return index
        return {key: number for key, number in index.items() if complete[self._row(key)]}

    def held(self, name: str) -> set[str]:
        """Return the entries that have an array of that name."""
        if name not in self._bytes:
            return set()
        return {key for key in self._manifest.index if self._bytes[name][self._row(key)] >= 0}

    def bytes_by_array(self) -> dict[str, int]:
        """Return the stored bytes of each array."""
        return {n: int(stored[stored >= 0].sum()) for n, stored in self._bytes.items()}

    def stored(self, key: str, name: str) -> Stored | None:
        """Return the file of an entry's array; None where no line that fits commits it."""
        row = self._row(key)
        if self._misfits[row] or self._bytes[name][row] < 0:
            return None
        return Stored(int(self._bytes[name][row]), int(self._sums[name][row]))

    def extra(self, key: str) -> dict[str, Any]:
        """Return what was written with an entry."""
        row = self._row(key)
        facts = {n: int(column[row]) for n, column in self._facts.items() if column[row] != NONE}
        return facts | self._others.get(row, {})

    def _row(self, key: str) -> int:
        return self._first[self._manifest.group(key).folder] + self._manifest.index[key]


def _narrow(column: NDArray[np.int64]) -> NDArray[Any]:
    return column.astype(np.int32) if column.max(initial=0) < 2**31 else column
