"""How a cache comes to be: the manifest first, by whoever is first, then what makes it plain Zarr.

All of it follows from the manifest and the tail, so a creation that was cut short is finished by
the next writer, and several that start together write the same.
"""

from typing import Any

from stdpipe.cache import layout
from stdpipe.cache.errors import CacheError
from stdpipe.cache.manifest import (
    Manifest,
    complete_manifests,
    create_manifest,
    load_manifest,
    manifest_exists,
    refuse_difference,
)
from stdpipe.cache.place import Place
from stdpipe.cache.store import Tail, store_files


def enter(place: Place, manifest: Manifest, tail: Tail) -> Manifest:
    """Create the cache, or finish or resume it; its manifest as it lies there.

    Raises CacheError: another identity (both values named), or a folder of something else.
    """
    if manifest_exists(place):
        made = load_manifest(place)
    else:
        _refuse_foreign(place)
        made = create_manifest(place, manifest)
    _refuse_other(place, made, manifest)
    complete_manifests(place, made)
    _write_missing(place, store_files(manifest, tail))
    return made


def leftovers(place: Place) -> list[str]:
    """Temporary files of writers: harmless, and in flight if one is at work."""
    tail = [f"{layout.TAIL}/{name}" for name in place.names(layout.TAIL)]
    return place.leftovers(["", layout.JOURNAL, *layout.ARRAYS, layout.TAIL, *tail])


def _refuse_other(place: Place, made: Manifest, wanted: Manifest) -> None:
    if made.cache_id == wanted.cache_id:
        return
    # a fact that only one side has counts as None on the other
    absent: dict[str, Any] = dict.fromkeys([*wanted.made_by, *made.made_by])
    refuse_difference(place.url, absent | made.facts(), absent | wanted.facts())
    raise AssertionError("identities differ, but no fact does")


def _refuse_foreign(place: Place) -> None:
    """Without a manifest nothing may be here but what a creation cut short leaves."""
    reason = _foreign(place)
    # another writer may be creating it right now: its manifest comes before all else
    if reason and not manifest_exists(place):
        raise CacheError(f"{place.url} {reason}")


def _foreign(place: Place) -> str:
    for name in place.names(layout.JOURNAL):
        if name.endswith(layout.JOURNAL_SUFFIX):
            return (
                f"holds {layout.JOURNAL}/{name} but no {layout.MANIFEST}: restore that from a "
                "backup, or name another folder"
            )
    for name in place.names():
        if name != layout.JOURNAL and not name.endswith(layout.PARTIAL_SUFFIX):
            return f"is not a cache, it holds {name}: name a new folder with --cache"
    return ""


def _write_missing(place: Place, files: dict[str, bytes]) -> None:
    """Create missing files alone: another version of zarr may have written the others otherwise."""
    folders = {path.rpartition("/")[0] for path in files}
    there = {folder: set(place.names(folder)) for folder in folders}
    for path, content in files.items():
        folder, _, name = path.rpartition("/")
        if name not in there[folder]:
            place.create(path, content)
