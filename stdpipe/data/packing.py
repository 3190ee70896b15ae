"""Pack a data set into one HDF5 file, whose format stdpipe.data.packed describes, resumably.

HDF5 files do not survive a kill while HDF5 writes to them. So HDF5 writes only once: all tables and
an empty block for every clip, to OUT.partial. After that, frames are written straight to their
place in the file. Once a batch of clips and their checksums is synced, each clip's `source_bytes`
is written, and that number is the commit; a clip whose files have another size or checksum now
is packed again. At the end OUT.partial gets the name OUT: the same bytes, however often stopped.
"""

import logging
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any
from zlib import crc32

import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from stdpipe.cache.errors import UserError
from stdpipe.cache.files import PARTIAL, atomic_file, crc32_of, fsync, locked
from stdpipe.data import named
from stdpipe.data.folders import is_video_file
from stdpipe.data.frames import Clip, clip_sizes, stream_frames
from stdpipe.data.given import lr_folder
from stdpipe.data.layouts import SPLITS, find_clips, split_lists
from stdpipe.data.packed import FORMAT, TABLES, VERSION, PackedFile

Lists = Mapping[str, list[str]]  # of Vimeo90K: name -> keys
Offsets = Mapping[str | int, int]  # name of a table, or number of a clip -> byte of the file
LOG = logging.getLogger(__name__)
BATCH = 32  # clips between two syncs, which a kill can cost
THREADS = min(8, os.cpu_count() or 1)  # decoding releases the GIL; each holds a clip in memory


def pack_clips(data: Path, out: Path, split: str = "both") -> dict[str, Any]:
    """Pack the data set `data`, or resume; return a summary of `out`.

    `split` names lists of Vimeo90K: "train", "test" or "both"; other data sets are packed whole.
    Raises UserError where `out` is another file, frames of a clip differ in size, the disk is too
    small, or another process is packing.
    """
    clips, lists = _chosen(data, split)
    lock = out.with_name(f"{out.name}.lock")
    with locked(lock, f"another process is packing {out}: wait for it, or choose another --out"):
        if not out.exists():
            _pack(data, out, clips, lists)
        lock.unlink()
    packed = _same_clips(out, data, clips, lists)
    packed.file.close()
    with ThreadPoolExecutor(THREADS) as pool:
        changed = _changed(packed, clips, pool)
    if changed:
        raise UserError(
            f"{out} was packed from other frames of clip {clips[changed[0]].key} (in "
            f"{packed.source}) than those in {data}: choose another --out, or remove it"
        )
    return {
        "out": str(out),
        "clips": len(clips),
        "frames": len(packed.crc32),
        "lists": {name: len(keys) for name, keys in lists.items()},
        "bytes": out.stat().st_size,
    }


def _chosen(data: Path, split: str) -> tuple[list[Clip], Lists]:
    """Find the clips to pack, and Vimeo90K's lists without the keys of other clips."""
    name = named.parse(data)
    if name.lr:
        raise UserError(f"{data}: LR is packed for itself: --data {name.lr}")
    if name.pad or name.repeat:
        raise UserError(f"{data}: pack without pad and repeat, and name the packed file with them")
    if beside := lr_folder(name.root, asked=False):
        LOG.warning(f"stdpipe: LR in {beside} is not packed: pack it, too, and name it by --lr")
    if data.is_file() and not is_video_file(data):
        raise UserError(f"{data} is a file, and no video: give the folder of the data set")
    splits = [name for name in SPLITS if split in (name, "both")]
    clips = {clip.key: clip for name in splits for clip in find_clips(data, name)}
    lists = {
        name: chosen
        for name, keys in split_lists(data).items()
        if name in splits or name not in SPLITS
        if (chosen := [key for key in keys if key in clips])
    }
    return list(clips.values()), lists


def _pack(data: Path, out: Path, clips: list[Clip], lists: Lists) -> None:
    partial = out.with_name(f"{out.name}{PARTIAL}")
    if partial.is_symlink():
        raise UserError(f"{partial} is a symbolic link: remove it")
    if not partial.exists():
        _lay_out(partial, data, clips, lists)
    packed = _same_clips(partial, data, clips, lists)
    with ThreadPoolExecutor(THREADS) as pool:
        with packed.file:  # closed before frames are written past HDF5
            todo = _changed(packed, clips, pool)
            wanted: list[str | int] = ["crc32", "source_bytes", *todo]
            if packed.source_crc32 is not None:
                wanted.append("source_crc32")
            offsets = {what: packed.offset(what) for what in wanted}
        if todo:
            _note_sum(partial, done=False)
        _fill(packed, clips, todo, offsets, pool)
    _note_sum(partial, done=True)
    partial.replace(out)
    fsync(out.parent)


def _lay_out(partial: Path, data: Path, clips: list[Clip], lists: Lists) -> None:
    """Write the whole file without its pixels."""
    sizes = clip_sizes(clips)
    shapes = np.array([(len(c.frames), *size) for c, size in zip(clips, sizes, strict=True)])
    needed, free = int(shapes.prod(axis=1).sum()) * 3, shutil.disk_usage(partial.parent).free
    if needed > free:
        raise UserError(
            f"{partial.with_suffix('')} will take {needed / 1e9:,.1f} GB, but {free / 1e9:,.1f} GB "
            "are free there: make space, or choose another disk"
        )
    # a block has its place in the file before anything is written to it
    reserved = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    reserved.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    reserved.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    texts = {"keys": [clip.key for clip in clips]} | {f"lists/{n}": k for n, k in lists.items()}
    # since 1.10, HDF5 protects its own structures with checksums
    with (
        atomic_file(partial) as aside,
        h5py.File(aside, "w", libver=("v110", "v110"), locking=False) as file,
    ):
        file.attrs.update({"format": FORMAT, "version": VERSION, "source": str(data)})
        file.create_dataset("shapes", data=shapes.astype("<i8"), fletcher32=True)
        for name, keys in texts.items():
            file.create_dataset(name, data=np.char.encode(keys, "utf-8"), fletcher32=True)
        file.require_group("lists")
        file.create_dataset("crc32", data=np.zeros(shapes[:, 0].sum(), "<u4"))
        file.create_dataset("source_bytes", data=np.zeros(len(clips), "<i8"))
        file.create_dataset(TABLES, data=np.zeros(1, "<u8"))
        file.create_dataset("source_crc32", data=np.zeros(len(clips), "<u4"))
        for clip, shape in zip(clips, shapes.tolist(), strict=True):
            file.create_dataset(f"clips/{clip.key}", (*shape, 3), "u1", dcpl=reserved)


def _fill(
    packed: PackedFile, clips: list[Clip], todo: list[int], offsets: Offsets, pool: Executor
) -> None:
    done = len(clips) - len(todo)
    bar = tqdm(total=len(clips), initial=done, unit="clip", desc="pack-clips", disable=None)
    with packed.path.open("r+b", buffering=0) as file, bar:
        fd = file.fileno()
        for at in range(0, len(todo), BATCH):
            batch = todo[at : at + BATCH]
            sizes = list(pool.map(lambda i: _write_clip(fd, packed, clips[i], i, offsets), batch))
            fsync(fd)
            for index, size in zip(batch, sizes, strict=True):
                _write(fd, np.array([size], "<i8"), offsets["source_bytes"] + 8 * index)
            fsync(fd)
            bar.update(len(batch))


def _note_sum(partial: Path, *, done: bool) -> None:
    """Write the checksum of the tables, or 0 while they still change."""
    packed = PackedFile(partial)
    with packed.file:
        if packed.sum_said() is None:  # begun by an older version
            return
        at, value = packed.offset(TABLES), packed.sum_of_tables() if done else 0
    with partial.open("r+b", buffering=0) as file:
        _write(file.fileno(), np.array([value], "<u8"), at)
        fsync(file.fileno())


def _write_clip(fd: int, packed: PackedFile, clip: Clip, index: int, offsets: Offsets) -> int:
    """Write pixels and checksums of one clip; return the bytes of its image files."""
    size, source = _source_bytes(clip), _source_crc32(clip)
    _, height, width = packed.shapes[index].tolist()
    at, sums = offsets[index], [0]
    with closing(stream_frames(clip)) as frames:  # a scene of a video may be long
        for frame in frames:
            if frame.shape != (height, width, 3):
                raise UserError(
                    f"clip {clip.key}: its frames are {frame.shape[1]}x{frame.shape[0]}, but were "
                    f"{width}x{height} when packing began: remove {packed.path} to begin anew"
                )
            pixels = np.ascontiguousarray(frame)
            _write(fd, pixels, at)
            at += pixels.nbytes
            sums.append(crc32(pixels.data, sums[-1]))
    first = offsets["crc32"] + 4 * int(packed.first_frame[index])
    _write(fd, np.array(sums[1:], "<u4"), first)
    if "source_crc32" in offsets:
        _write(fd, np.array([source], "<u4"), offsets["source_crc32"] + 4 * index)
    return size


def _write(fd: int, values: NDArray[Any], offset: int) -> None:
    data = values.reshape(-1).view(np.uint8).data
    while data:  # one call writes at most 2 GiB
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def _same_clips(path: Path, data: Path, clips: list[Clip], lists: Lists) -> PackedFile:
    """Open a packed file. Raises UserError where it was not made for these clips."""
    packed = PackedFile(path)
    there = list(zip(packed.keys, packed.shapes[:, 0].tolist(), strict=True))
    here = [(clip.key, len(clip.frames)) for clip in clips]
    if there == here and packed.lists == lists:
        return packed
    packed.file.close()
    odd = [key for key, _ in sorted(set(there) ^ set(here))]
    raise UserError(
        f"{path} holds {len(there)} clips of {packed.source}, not the {len(here)} asked for of "
        f"{data} ({f'{odd[0]} differs' if odd else 'their lists differ'}): choose another --out, "
        "or remove it"
    )


def _changed(packed: PackedFile, clips: list[Clip], pool: Executor) -> list[int]:
    """List the clips, by number, that are not packed, or from files that have changed since: of
    another size, or of other bytes. A file of an older version knows the sizes alone."""
    sums = packed.source_crc32

    def is_same(index: int) -> bool:
        size = int(packed.source_bytes[index])
        same = size > 0 and size == _source_bytes(clips[index])
        return same and (sums is None or int(sums[index]) == _source_crc32(clips[index]))

    return [index for index, same in enumerate(pool.map(is_same, range(len(clips)))) if not same]


def _source_bytes(clip: Clip) -> int:
    return sum(path.stat().st_size for path in clip.files)


def _source_crc32(clip: Clip) -> int:
    """Return the crc32 of the crc32 of each of a clip's files, in order."""
    return crc32(np.array([_crc32(path, path.stat()) for path in clip.files], "<u4").data)


@lru_cache(maxsize=64)
def _crc32(path: Path, _stat: os.stat_result) -> int:
    return crc32_of(path)  # once for all scenes of a video
