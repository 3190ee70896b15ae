"""How a cache comes to be, and how a later writer cleans up behind a dead one.

Every writer holds journal/writers.lock, shared. One that gets it exclusively is alone: only then
is the store created, and only then are temporary files known to be nobody's.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stdpipe.cache import layout
from stdpipe.cache.durable import fsync
from stdpipe.cache.errors import CacheError
from stdpipe.cache.journal import try_lock
from stdpipe.cache.manifest import Manifest, load_manifest, refuse_difference, save_manifest
from stdpipe.cache.store import Tail, create_arrays, create_tail


def enter(root: Path, manifest: Manifest, tail: Tail) -> int:
    """Create the store, or compare identities; return a shared lock that every writer holds."""
    _make_folders(root)
    lock_path = root / layout.JOURNAL / layout.STORE_LOCK
    while True:
        alone = try_lock(lock_path)
        lock = alone if alone is not None else os.open(lock_path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if alone is not None:
                _prepare(root, manifest, tail)
            fcntl.flock(lock, fcntl.LOCK_SH)  # waits while another writer creates
            if (root / layout.MANIFEST).exists():
                _refuse_other(root, manifest)
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # the one that was creating died: our turn


def create_store(root: Path, manifest: Manifest, tail: Tail) -> None:
    """Make the empty cache; manifest.json comes last, and without it nothing here is trusted.

    Begins anew where an earlier creation was cut short. Raises CacheError where the folder holds
    anything that a creation cut short cannot have left.
    """
    _refuse_foreign(root)
    for folder in (root, *_array_folders(root)):
        (folder / layout.ZARR_METADATA).unlink(missing_ok=True)
    shutil.rmtree(root / layout.TAIL, ignore_errors=True)
    create_arrays(root, manifest.arrays)
    if tail:
        create_tail(root, tail)
    save_manifest(root, manifest)


def sweep(root: Path) -> None:
    """Remove temporary files that writers left when they were killed."""
    for path in leftovers(root):
        path.unlink(missing_ok=True)


def leftovers(root: Path) -> list[Path]:
    """Temporary files of writers: harmless, and in flight if one is at work."""
    folders = (root, root / layout.JOURNAL, *_array_folders(root))
    found = (path for folder in folders for path in folder.glob("*" + layout.PARTIAL_SUFFIX))
    return sorted(found)


def _prepare(root: Path, manifest: Manifest, tail: Tail) -> None:
    """What only a lone writer may do: finish a creation, sweep what dead writers left."""
    if not (root / layout.MANIFEST).exists():
        create_store(root, manifest, tail)
    _refuse_other(root, manifest)
    sweep(root)


def _refuse_other(root: Path, manifest: Manifest) -> None:
    made, wanted = load_manifest(root), manifest
    if made.cache_id == wanted.cache_id:
        return
    # a fact that only one side has counts as None on the other
    absent: dict[str, Any] = dict.fromkeys([*wanted.made_by, *made.made_by])
    refuse_difference(root, absent | made.facts(), absent | wanted.facts())
    raise AssertionError("identities differ, but no fact does")


def _make_folders(root: Path) -> None:
    if (root / layout.JOURNAL).is_dir():
        return
    foreign = root.exists() and (
        not root.is_dir() or any(child.name != layout.JOURNAL for child in root.iterdir())
    )
    if foreign:
        raise CacheError(f"{root} is not a cache and not empty: name a new folder with --cache")
    (root / layout.JOURNAL).mkdir(parents=True, exist_ok=True)
    fsync(root)
    fsync(root.parent)


def _refuse_foreign(root: Path) -> None:
    ours = {layout.ZARR_METADATA, layout.JOURNAL, *layout.ARRAYS, layout.TAIL}
    for child in root.iterdir():
        if child.name not in ours and child.suffix != layout.PARTIAL_SUFFIX:
            raise CacheError(f"{root} is not a cache, it holds {child.name}: name another folder")
    for path in _entries_written(root):
        raise CacheError(
            f"{root} holds {path.relative_to(root)} but no {layout.MANIFEST}: restore that from a "
            "backup, or name another folder"
        )


def _entries_written(root: Path) -> Iterator[Path]:
    """Files that exist only once a manifest was there."""
    for folder in _array_folders(root):
        yield from folder.glob("c.*")
    yield from (root / layout.JOURNAL).glob("*" + layout.JOURNAL_SUFFIX)


def _array_folders(root: Path) -> list[Path]:
    return [root / name for name in layout.ARRAYS if (root / name).is_dir()]
