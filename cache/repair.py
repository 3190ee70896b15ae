"""Drop the broken parts of a cache, so that the extraction that made it fills it again."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from stdpipe.cache import layout
from stdpipe.cache.errors import CacheError
from stdpipe.cache.journal import REPAIR, lock_path, read_journals
from stdpipe.cache.location import open_place
from stdpipe.cache.manifest_files import complete_manifests, damaged_manifests, load_manifest, marks
from stdpipe.cache.place import Lock, Place
from stdpipe.cache.verify import Broken, Progress, Report, verify


def repair(path: str | Path, progress: Progress | None = None) -> Report:
    """Verify a cache, remove all that is broken, and return what was found.

    Nothing whole is touched, and no writer begins until this returns. Raises CacheError where a
    writer or another repair is at work, and as `verify` does.
    """
    place = open_place(path)
    load_manifest(place)  # so that no lock is put where no cache lies
    # locked before it looks: files of a writer at work are neither broken nor left over
    with _alone(place) as locks:
        report = verify(path, progress, fresh=True)
        for lock in locks:
            lock.check()
        if report.broken or report.torn:
            _drop(place, report.broken)
        place.delete(report.leftovers)
    return report


def _drop(place: Place, broken: list[Broken]) -> None:
    """Remove what is broken, in an order in which a crash leaves the cache incomplete at most."""
    manifest = load_manifest(place)
    keys = {one.key for one in broken if one.key}
    if keys or any(one.path.startswith(layout.TAIL) for one in broken):
        place.delete(marks(place))
    for journal in read_journals(place):
        kept = [commit for commit in journal.commits if commit.key not in keys]
        if journal.torn or journal.damaged or len(kept) < len(journal.commits):
            journal.commits = kept
            place.write(journal.path, [journal.text()])
    for key in keys:
        place.delete(s.file(manifest.index[key]) for s in manifest.group(key).arrays.values())
    complete_manifests(place, manifest, anew=damaged_manifests(place))
    for one in broken:
        if one.array == layout.TAIL:
            place.delete([f"{layout.TAIL}/{layout.ZARR_METADATA}"])
            for folder in (f"{layout.TAIL}/{name}" for name in place.names(layout.TAIL)):
                place.delete([f"{folder}/{file}" for file in place.names(folder)])
        elif one.array == "metadata" and not one.is_restorable:
            place.delete([one.path])


@contextmanager
def _alone(place: Place) -> Iterator[list[Lock]]:
    """Hold the lock of a repair, which keeps new writers away, and those of all known writers."""
    suffixes = (layout.JOURNAL_SUFFIX, layout.LOCK_SUFFIX)
    locks: list[Lock] = []

    def is_busy(writer: str) -> bool:
        lock = place.lock(lock_path(writer))
        locks.extend([lock] if lock else [])
        return lock is None

    try:
        if is_busy(REPAIR):
            raise CacheError(f"another repair is at work on {place.url}: wait, or stop it")
        names = [name for name in place.names(layout.JOURNAL) if name.endswith(suffixes)]
        writers = sorted({name.partition(".")[0] for name in names} - {REPAIR})
        with ThreadPoolExecutor(len(writers) or 1) as pool:  # leases of dead writers take a while
            busy = dict(zip(writers, pool.map(is_busy, writers), strict=True))
        for writer in filter(busy.get, writers):
            raise CacheError(f"writer {writer!r} is at work on {place.url}: wait, or stop it")
        yield locks
    finally:
        for lock in locks:
            lock.release()
