"""Create a cache: the first writer writes the manifest, then what makes the folder plain Zarr.

Everything follows from the manifest and the tail. So the next writer finishes a creation that was
cut short, and writers that start together write the same.
"""

from stdpipe.cache import layout
from stdpipe.cache.errors import CacheError
from stdpipe.cache.files import PARTIAL
from stdpipe.cache.manifest import Manifest
from stdpipe.cache.manifest_files import (
    complete_manifests,
    create_manifest,
    grow_manifest,
    load_manifest,
    manifest_exists,
)
from stdpipe.cache.place import Place
from stdpipe.cache.store import Tail, is_metadata, says, store_files


def enter(place: Place, manifest: Manifest) -> None:
    """Create the manifest of a cache, unless there is one.

    Raises CacheError for a cache of another identity (naming both values) or a foreign folder.
    """
    if manifest_exists(place):
        made = load_manifest(place)
    else:
        _refuse_foreign(place)
        made = create_manifest(place, manifest)
    made.grown(manifest, place.url)  # for what it refuses


def furnish(place: Place, manifest: Manifest, tail: Tail) -> Manifest:
    """Let the cache grow to all that `manifest` has, and write what it lacks beside its entries;
    return the manifest that lies there. Raises CacheError as `enter` does."""
    made = grow_manifest(place, manifest)
    complete_manifests(place, made)
    for path, content in store_files(made, tail).items():
        is_new = place.create(path, content)
        # what is there stays, since another zarr may write it otherwise, unless its array grew
        if not is_new and made.times_grown and is_metadata(path) and not says(place, path, content):
            place.delete([path])
            place.create(path, content)
    return made


def leftovers(place: Place, manifest: Manifest) -> list[str]:
    """List the temporary files of writers: harmless, and still in use where a writer is at work."""
    tail = [f"{layout.TAIL}/{name}" for name in place.names(layout.TAIL)]
    groups = [f"{name}/{array}" for name in manifest.groups for array in layout.ARRAYS]
    found = ["", layout.JOURNAL, *layout.ARRAYS, layout.TAIL, *tail, *manifest.groups, *groups]
    return place.leftovers(found)


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
