"""Read a data set in one HDF5 file, as `stdpipe pack-clips` writes it. The format:

    attributes      format "stdpipe-clips", version, source (the folder it was packed from)
    clips/KEY       (T, H, W, 3) uint8 RGB, one contiguous block for each clip
    keys, shapes    (n,) UTF-8 in the order of packing, and (n, 3): T, H, W
    lists/NAME      keys of a Vimeo90K list: train, test, slow, medium, fast
    crc32           (sum of T,): of a clip's bytes up to and including each frame
    source_bytes    (n,): the size of a clip's image files; 0 until the clip is committed
    source_crc32    (n,): of the crc32 of each of these files; older files have none
    tables          (1,): 2^32 + the crc32 of all of the above but the pixels; 0 until all clips are
                    committed. Files of 0.1.0 do not have it

A clip is one uncompressed block, since lossless codecs gain little on film: any run of its frames
is one read. The checksum is ours, not HDF5's: a cache entry keeps the crc32 of its frames.
numpy and h5py only: usable without torch.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import h5py
import numpy as np
from numpy.typing import NDArray

from stdpipe.cache.errors import UserError
from stdpipe.data.images import MOST_PIXELS

FORMAT, VERSION, TABLES = "stdpipe-clips", 1, "tables"
MOST_TABLE = 2**28  # bytes of a table, or of a chunk of one: a hundred million frames
AGAIN = "copy the file again, or pack it again"
# h5py raises these for a damaged or unexpected file
HDF5_ERRORS = (
    OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError,
    MemoryError,
)  # fmt: skip


class PackedPlace(NamedTuple):
    """The position of a clip in a packed file."""

    file: Path
    number: int


class PackedFile:
    """An open packed file with its tables. Raises UserError for damaged and other files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = path.stat().st_size if path.exists() else 0
        if not is_hdf5(path):
            raise UserError(f"{path} is no HDF5 file: check the path")
        with self._told():
            # without a lock, since many processes read one file, also on NFS and read-only disks
            self.file = h5py.File(path, "r", locking=False)
        try:
            with self._told():
                self._read_tables()
        except BaseException:
            self.file.close()
            raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except HDF5_ERRORS as error:
            reason = " ".join(str(error).split())
            state = "is truncated" if "truncated" in reason else f"cannot be read ({reason})"
            raise UserError(f"{self.path} {state}: {AGAIN}") from error

    def _read_tables(self) -> None:
        kind, version = (str(self.file.attrs.get(name)) for name in ("format", "version"))
        if kind != FORMAT:
            raise UserError(f"{self.path} is an HDF5 file, but none of pack-clips: check the path")
        if version != str(VERSION):
            ours = f"this stdpipe reads {VERSION}: pack it again"
            raise UserError(f"{self.path} has format version {version}, {ours}")
        self.source = str(self.file.attrs["source"])
        self.keys = self._texts("keys")
        self.lists = {str(name): self._texts(f"lists/{name}") for name in self.file["lists"]}
        self.shapes: NDArray[np.int64] = self._table("shapes")
        self.crc32: NDArray[np.uint32] = self._table("crc32")
        self.source_bytes: NDArray[np.int64] = self._table("source_bytes")
        has_sums = "source_crc32" in self.file
        self.source_crc32: NDArray[np.uint32] | None = (
            self._table("source_crc32") if has_sums else None
        )
        n, known = len(self.keys), set(self.keys)
        fit = (
            len(known) == n > 0
            and self.shapes.shape == (n, 3)
            and self.shapes.dtype.kind == "i"
            and self.shapes.min() > 0
            and self.shapes[:, 1:].astype(float).prod(axis=1).max() <= MOST_PIXELS
            and self.source_bytes.shape == (n,)
            and (self.source_crc32 is None or self.source_crc32.shape == (n,))
            and self.crc32.shape == (self.shapes[:, 0].sum(),)
            and all(known.issuperset(keys) for keys in self.lists.values())
        )
        # computed in floats, which do not overflow
        if not fit or 3 * self.shapes.astype(float).prod(axis=1).max() > self._size:
            raise ValueError("its tables do not fit each other")
        if (said := self.sum_said()) and said != self.sum_of_tables():
            raise ValueError("its tables do not fit their checksum")
        self.first_frame = np.concatenate([[0], np.cumsum(self.shapes[:, 0])])

    def sum_said(self) -> int | None:
        """Return what the file says of its tables: 0 while it is packed, None in older files."""
        return int(self._table(TABLES)[0]) if TABLES in self.file else None

    def sum_of_tables(self) -> int:
        """Return what it should say when all clips are there."""
        texts = repr((self.source, self.keys, sorted(self.lists.items()))).encode()
        found = crc32(texts)
        for table in (self.shapes, self.crc32, self.source_bytes, self.source_crc32):
            found = crc32(table.tobytes(), found) if table is not None else found
        return 2**32 + found

    def _table(self, name: str) -> NDArray[Any]:
        """Read a dataset. pack-clips compresses none, so that none is larger than the file."""
        table = self.file[name]
        size = max(table.size, math.prod(table.chunks or ())) * table.dtype.itemsize
        if table.dtype.kind not in "iuS":  # texts of any length may all be one, a thousand times
            raise ValueError(f"its table {name} is of another kind")
        if size > min(self._size, MOST_TABLE):
            raise ValueError(f"its table {name} claims more bytes than the file has")
        content: NDArray[Any] = table[()]
        return content

    def _texts(self, name: str) -> list[str]:
        return [text.decode() for text in self._table(name).tolist()]

    def read(self, key: str, index: int, frames: range) -> tuple[NDArray[np.uint8], int]:
        """Read consecutive frames of clip number `index`, (t, H, W, 3), and their crc32.

        Raises UserError with `key`, the clip's name for its user, where they are damaged.
        """
        assert frames.step == 1
        if not self.source_bytes[index]:
            raise UserError(f"clip {key} of {self.path} is not packed yet: run pack-clips again")
        try:
            pixels: NDArray[np.uint8] = self._block(index)[frames.start : frames.stop]
        except HDF5_ERRORS as error:
            raise UserError(f"clip {key} cannot be read from {self.path}: {AGAIN}") from error
        # starting from the checksum of the frames before, one pass checks any run
        sums = self.crc32[self.first_frame[index] : self.first_frame[index + 1]]
        before = int(sums[frames.start - 1]) if frames.start else 0
        found = crc32(pixels.data, before)
        if found != sums[frames.stop - 1]:
            raise UserError(f"clip {key} is damaged in {self.path}: {AGAIN}")
        return pixels, crc32(pixels.data) if before else found

    def known_crc32(self, index: int, frames: range) -> int | None:
        """Return the crc32 that the file states of a clip's first frames; None of others."""
        if frames.start or not frames or not self.source_bytes[index]:
            return None
        return int(self.crc32[self.first_frame[index] + frames.stop - 1])

    def offset(self, what: str | int) -> int:
        """Return the byte of the file where a table, or the pixels of a clip by number, begin.

        Raises UserError where they are no single block, as in a file of another program.
        """
        with self._told():
            block = self._block(what) if isinstance(what, int) else self.file[what]
            return int(block.id.get_offset())

    def _block(self, index: int) -> h5py.Dataset:
        block = self.file[f"clips/{self.keys[index]}"]
        if block.shape != (*self.shapes[index], 3) or block.dtype != np.uint8:
            raise ValueError(f"clip {self.keys[index]} has another shape than its table says")
        if math.prod(block.chunks or ()) > MOST_TABLE:
            raise ValueError(f"clip {self.keys[index]} lies in chunks of more than {MOST_TABLE:,}")
        return block


def is_hdf5(path: Path) -> bool:
    """Tell whether a path is a file that begins as HDF5 files do."""
    return path.is_file() and bool(h5py.is_hdf5(path))


def opened(path: Path) -> PackedFile:
    """Open a file, once in each process; a pickled PackedPlace carries no handle."""
    stat = path.stat()
    return _open(path, os.getpid(), (stat.st_ino, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=4)
def _open(path: Path, pid: int, stamp: tuple[int, int, int]) -> PackedFile:
    # pid: HDF5's handles belong to the process that opened them, not to its forks
    return PackedFile(path)
