"""Baselines of the cache: other ways to keep the same int8 codes on disk and read a window of them.

Each function writes what `reader` holds to `folder` and returns how a window is read from there, as
an array of its own, (T, C, h, w).
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from windows import Window

from stdpipe.cache import Reader

Codes = NDArray[np.int8]
Read = Callable[[Window], Codes]
H5_TUNED = 64 << 20  # bytes of chunk cache in which the chunks of a crop have room


def baselines(reader: Reader, folder: Path) -> dict[str, Read]:
    """All of them, by name; tensorstore where it is installed."""
    found = {
        "memmap": memmap(reader, folder),
        **h5(reader, folder),
        **pt(reader, folder),
        "zarr-default": zarr_default(reader, folder),
        "zarr-same-store": _cut(zarr.open_group(reader.url, mode="r")["f_sr"], reader),
    }
    if importlib.util.find_spec("tensorstore"):
        found["tensorstore"] = tensorstore(reader)
    return found


def memmap(reader: Reader, folder: Path) -> Read:
    """One big .npy file."""
    file, shape = folder / "codes.npy", reader.manifest.arrays["f_sr"].shape
    codes = np.lib.format.open_memmap(file, "w+", np.int8, shape)
    for index, key in enumerate(reader.entries):
        codes[index] = reader.read(key, "f_sr")
    codes.flush()
    return _cut(np.load(file, mmap_mode="r"), reader)


def h5(reader: Reader, folder: Path) -> dict[str, Read]:
    """h5py, chunks of the cache's own shape, not compressed; three sizes of HDF5's chunk cache.

    A chunk that has no room there is read row by row. The default is 8 MiB a data set in HDF5 2,
    1 MiB before. A file each: within a process, HDF5 shares one file's cache however it is opened.
    """
    caches: dict[str, dict[str, Any]] = {
        "h5py": {},
        "h5py-rdcc-0": {"rdcc_nbytes": 0},
        "h5py-rdcc-64M": {"rdcc_nbytes": H5_TUNED},
    }
    return {
        name: _cut(h5py.File(_write_h5(reader, folder / f"{name}.h5"), "r", **kw)["f_sr"], reader)
        for name, kw in caches.items()
    }


def _write_h5(reader: Reader, file: Path) -> Path:
    spec = reader.manifest.arrays["f_sr"]
    with h5py.File(file, "w") as made:
        codes = made.create_dataset("f_sr", spec.shape, np.int8, chunks=spec.inner)
        for index, key in enumerate(reader.entries):
            codes[index] = reader.read(key, "f_sr")
    return file


def pt(reader: Reader, folder: Path) -> dict[str, Read]:
    """torch.save, one file a clip; read whole, or mapped."""
    for key in reader.entries:
        torch.save(torch.from_numpy(reader.read(key, "f_sr")), folder / f"{key}.pt")

    def read(window: Window, mapped: bool) -> Codes:
        codes = torch.load(folder / f"{window.key}.pt", weights_only=True, mmap=mapped)
        return np.array(codes.numpy()[_region(window)])

    return {"pt": lambda w: read(w, False), "pt-mmap": lambda w: read(w, True)}


def zarr_default(reader: Reader, folder: Path) -> Read:
    """zarr.create_array, chunks and codecs as it chooses them."""
    codes = np.stack([reader.read(key, "f_sr") for key in reader.entries])
    store = str(folder / "default.zarr")
    return _cut(zarr.create_array(store, data=codes), reader)


def tensorstore(reader: Reader) -> Read:
    """tensorstore on the cache itself, one thread."""
    import tensorstore as ts

    one = {"limit": 1}
    kvstore = {"driver": "file", "path": f"{reader.url}/f_sr"}
    context = {"data_copy_concurrency": one, "file_io_concurrency": one}
    spec = {"driver": "zarr3", "kvstore": kvstore, "context": context}
    array = ts.open(spec, open=True, read=True).result()

    def read(window: Window) -> Codes:
        region = (reader.entries[window.key], *_region(window))
        return np.asarray(array[region].read().result())

    return read


def _cut(array: Any, reader: Reader) -> Read:
    """From what is indexed as numpy is."""

    def read(window: Window) -> Codes:
        return np.array(array[(reader.entries[window.key], *_region(window))])

    return read


def _region(window: Window) -> tuple[slice, ...]:
    rows = slice(window.y, window.y + window.height)
    return slice(None), slice(None), rows, slice(window.x, window.x + window.width)
