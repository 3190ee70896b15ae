"""Pack a data set into one HDF5 file (stdpipe.data.packed says how it lies there), resumably.

HDF5 files do not survive a kill while HDF5 writes to them. So it writes only once: all tables and
an empty block for every clip, to a file aside that is then renamed to OUT.partial. From there on
frames go straight to their place in the file, past HDF5. After a batch of clips and their checksums
is synced, each clip's `source_bytes` is written, and that number is the commit. A clip whose number
is not that of its folder is packed again: so is one whose frames were mended meanwhile.
When all are there, OUT.partial is renamed to OUT. Same data, same bytes, however often interrupted.
"""

import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from stdpipe.cache.errors import UserError
from stdpipe.cache.files import atomic_file, fsync, locked
from stdpipe.data.frames import Clip, clip_sizes, read_clip
from stdpipe.data.layouts import SPLITS, find_clips, vimeo_lists
from stdpipe.data.packed import FORMAT, VERSION, PackedFile

BATCH = 32  # clips a sync: what a kill can cost
THREADS = min(8, os.cpu_count() or 1)  # decoding releases the GIL; each holds a clip in memory


@dataclass(frozen=True)
class Packing:
    """What to pack, and where to."""

    data: Path
    out: Path
    split: str = "both"
    """Lists of Vimeo90K: "train", "test" or "both". Other data sets have none, and go whole."""


def pack_clips(job: Packing) -> dict[str, Any]:
    """Pack, or resume; returns what lies in OUT.

    Raises UserError: OUT is something else, frames of a clip differ in size, the disk is too small,
    or another process is at it.
    """
    clips, lists = _chosen(job)
    lock = job.out.with_name(f"{job.out.name}.lock")
    if not job.out.exists():
        with locked(
            lock, f"another process is packing {job.out}: wait for it, or choose another --out"
        ):
            if not job.out.exists():
                _pack(job, clips, lists)
    with closing(_same_clips(job.out, job.data, clips, lists)) as packed:
        _refuse_other_frames(packed, job.data, clips)
        frames = len(packed.crc32)
    lock.unlink(missing_ok=True)
    return {
        "out": str(job.out),
        "clips": len(clips),
        "frames": frames,
        "lists": {name: len(keys) for name, keys in lists.items()},
        "bytes": job.out.stat().st_size,
    }


def _chosen(job: Packing) -> tuple[list[Clip], dict[str, list[str]]]:
    """The clips to pack, and Vimeo90K's lists without the keys of other clips."""
    if job.data.is_file():
        raise UserError(f"{job.data} is a file: give the folder of the data set")
    splits = [s for s in SPLITS if job.split in (s, "both")]
    clips = {clip.key: clip for split in splits for clip in find_clips(job.data, split)}
    others = set(SPLITS) - set(splits)
    lists = {
        name: [key for key in keys if key in clips]
        for name, keys in vimeo_lists(job.data).items()
        if name not in others
    }
    return list(clips.values()), {name: keys for name, keys in lists.items() if keys}


def _pack(job: Packing, clips: list[Clip], lists: Mapping[str, list[str]]) -> None:
    partial = job.out.with_name(f"{job.out.name}.partial")
    if not partial.exists():
        _lay_out(partial, job, clips, lists)
    with ThreadPoolExecutor(THREADS) as pool:
        with closing(_same_clips(partial, job.data, clips, lists)) as packed:
            present = np.array(list(pool.map(_source_bytes, clips)))
            todo = np.flatnonzero(packed.source_bytes != present).tolist()
            places = _places(packed, todo)
        _fill(partial, clips, todo, places, pool)
    partial.replace(job.out)
    fsync(job.out.parent)


def _lay_out(
    partial: Path, job: Packing, clips: list[Clip], lists: Mapping[str, list[str]]
) -> None:
    """Write the whole file but for its pixels."""
    sizes = clip_sizes(clips)
    shapes = np.array([(len(c.frames), *size) for c, size in zip(clips, sizes, strict=True)])
    _refuse_full_disk(job.out, int(shapes.prod(axis=1).sum()) * 3)
    # since 1.10, HDF5 keeps its own structures under checksums
    with (
        atomic_file(partial) as aside,
        h5py.File(aside, "w", libver=("v110", "v110"), locking=False) as file,
    ):
        file.attrs.update({"format": FORMAT, "version": VERSION, "source": str(job.data)})
        file.create_dataset("keys", data=_bytes([c.key for c in clips]), fletcher32=True)
        file.create_dataset("shapes", data=shapes.astype("<i8"), fletcher32=True)
        for name, keys in lists.items():
            file.create_dataset(f"lists/{name}", data=_bytes(keys), fletcher32=True)
        file.require_group("lists")
        file.create_dataset("crc32", data=np.zeros(shapes[:, 0].sum(), "<u4"))
        file.create_dataset("source_bytes", data=np.zeros(len(clips), "<i8"))
        for clip, shape in zip(clips, shapes.tolist(), strict=True):
            file.create_dataset(f"clips/{clip.key}", (*shape, 3), "u1", dcpl=_reserved())


def _reserved() -> h5py.h5p.PropDCID:
    """A block that has its place in the file before anything is written to it."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return properties


class _Places(NamedTuple):
    """Where in the file everything goes, so that HDF5 need not be open while it is filled."""

    file: Path
    pixels: dict[int, int]  # number of a clip -> byte where its pixels begin
    shapes: NDArray[np.int64]
    first_frame: NDArray[np.int64]
    crc32: int
    source_bytes: int


def _places(packed: PackedFile, clips: list[int]) -> _Places:
    return _Places(
        packed.path,
        {index: packed.clip_offset(index) for index in clips},
        packed.shapes,
        packed.first_frame,
        packed.offset("crc32"),
        packed.offset("source_bytes"),
    )


def _fill(
    partial: Path, clips: list[Clip], todo: list[int], places: _Places, pool: ThreadPoolExecutor
) -> None:
    done = len(clips) - len(todo)
    bar = tqdm(total=len(clips), initial=done, unit="clip", desc="pack-clips", disable=None)
    with partial.open("r+b", buffering=0) as file, bar:
        fd = file.fileno()
        for at in range(0, len(todo), BATCH):
            batch = todo[at : at + BATCH]
            sizes = list(pool.map(lambda i: _write_clip(fd, places, i, clips[i]), batch))
            os.fsync(fd)
            for index, size in zip(batch, sizes, strict=True):
                _write(fd, np.array([size], "<i8"), places.source_bytes + 8 * index)
            os.fsync(fd)
            bar.update(len(batch))


def _write_clip(fd: int, places: _Places, index: int, clip: Clip) -> int:
    """Write pixels and checksums of one clip; return the bytes of its image files."""
    size = _source_bytes(clip)
    frames = read_clip(clip)
    expected = (*places.shapes[index], 3)
    if frames.shape != expected:
        raise UserError(
            f"clip {clip.key}: its frames are {frames.shape[2]}x{frames.shape[1]}, but were "
            f"{expected[2]}x{expected[1]} when packing began: remove {places.file} to begin anew"
        )
    _write(fd, frames, places.pixels[index])
    sums, running = [], 0
    for frame in frames:
        running = crc32(frame.data, running)
        sums.append(running)
    _write(fd, np.array(sums, "<u4"), places.crc32 + 4 * int(places.first_frame[index]))
    return size


def _write(fd: int, values: NDArray[Any], offset: int) -> None:
    data = values.reshape(-1).view(np.uint8).data
    while data:  # one call writes 2 GiB at most
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def _same_clips(
    path: Path, data: Path, clips: list[Clip], lists: Mapping[str, list[str]]
) -> PackedFile:
    """Open the file. Raises UserError where it is not made for these clips."""
    packed = PackedFile(path)
    there = list(zip(packed.keys, packed.shapes[:, 0].tolist(), strict=True))
    here = [(clip.key, len(clip.frames)) for clip in clips]
    if there == here and packed.lists == lists:
        return packed
    packed.close()
    odd = [key for key, _ in sorted(set(there) ^ set(here))]
    raise UserError(
        f"{path} holds {len(there)} clips of {packed.source}, not the {len(here)} asked for of "
        f"{data} ({f'{odd[0]} differs' if odd else 'their lists differ'}): choose another --out, "
        "or remove it"
    )


def _refuse_other_frames(packed: PackedFile, data: Path, clips: list[Clip]) -> None:
    for clip, size in zip(clips, packed.source_bytes.tolist(), strict=True):
        if (now := _source_bytes(clip)) != size:
            raise UserError(
                f"{packed.path} was packed from other frames of clip {clip.key} ({size:,} bytes in "
                f"{packed.source}, {now:,} in {data}): choose another --out, or remove it"
            )


def _refuse_full_disk(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out.parent).free
    if needed > free:
        raise UserError(
            f"{out} will take {needed / 1e9:,.1f} GB, but {free / 1e9:,.1f} GB are free there: "
            "make space, or choose another disk"
        )


def _source_bytes(clip: Clip) -> int:
    """Size of a clip's image files: it changes when they do, and costs no reading."""
    assert isinstance(clip.frames, tuple)
    return sum(path.stat().st_size for path in clip.frames)


def _bytes(texts: list[str]) -> NDArray[np.bytes_]:
    return np.array([text.encode() for text in texts])
