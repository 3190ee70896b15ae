"""Create a cache: the first writer writes the manifest, then what makes the folder plain Zarr.

Everything follows from the manifest and the tail. So the next writer finishes a creation that was
cut short, and writers that start together write the same.
"""

from typing import Any

from stdpipe.cache import layout
from stdpipe.cache.errors import CacheError
from stdpipe.cache.files import PARTIAL
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
    """Create the cache, or finish its creation; return the manifest that lies there.

    Raises CacheError for a cache of another identity (naming both values) or a foreign folder.
    """
    if manifest_exists(place):
        made = load_manifest(place)
    else:
        _refuse_foreign(place)
        made = create_manifest(place, manifest)
    if made.cache_id != manifest.cache_id:
        # a fact that only one side has counts as None on the other
        absent: dict[str, Any] = dict.fromkeys([*manifest.made_by, *made.made_by])
        refuse_difference(place.url, absent | made.facts(), absent | manifest.facts())
        raise AssertionError("identities differ, but no fact does")
    complete_manifests(place, made)
    for path, content in store_files(manifest, tail).items():
        place.create(path, content)  # what is there stays: another zarr may write it otherwise
    return made


def leftovers(place: Place) -> list[str]:
    """List the temporary files of writers: harmless, and still in use where a writer is at work."""
    tail = [f"{layout.TAIL}/{name}" for name in place.names(layout.TAIL)]
    return place.leftovers(["", layout.JOURNAL, *layout.ARRAYS, layout.TAIL, *tail])


def _refuse_foreign(place: Place) -> None:
    """Without a manifest, a folder may hold only what a creation that was cut short leaves."""
    journals = [f"{layout.JOURNAL}/{name}" for name in place.names(layout.JOURNAL)]
    found = [name for name in journals if name.endswith(layout.JOURNAL_SUFFIX)]
    found += [n for n in place.names() if n != layout.JOURNAL and not n.endswith(PARTIAL)]
    # where another writer creates the cache right now, its manifest came before everything else
    if found and not manifest_exists(place):
        raise CacheError(
            f"{place.url} is not a cache, it holds {found[0]} but no {layout.MANIFEST}: name a new "
            "folder with --cache, or restore that file from a backup"
        )
