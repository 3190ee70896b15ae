"""The files of a manifest: one and a copy for each time that a cache has grown, and their marks."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from stdpipe.cache import layout
from stdpipe.cache.errors import CacheError, UserError
from stdpipe.cache.location import open_place
from stdpipe.cache.manifest import Manifest, Part, check_version
from stdpipe.cache.place import MOST_TEXT, Place
from stdpipe.cache.schema import check_json, parse_json
from stdpipe.cache.seal import seal, unseal

_NAME = re.compile(r"manifest(?:\.([1-9]\d*))?\.json")


def load_manifest(where: Place | str | Path) -> Manifest:
    """Read the manifest of a cache as it last grew, or its copy where that is damaged.

    Raises CacheError where both are missing or damaged, or where the version is another.
    """
    place = open_place(where) if isinstance(where, str | Path) else where
    paths = _files(place)[-1]
    found = [_read_sealed(place, path) for path in paths]
    if content := found[0] or found[1]:
        return Manifest.from_json(content, where=place.url)
    if found == [None, None]:
        raise CacheError(f"{place.url} is not a cache (no {layout.MANIFEST}): check the path")
    _refuse_other_version(place, paths)
    both = f"both {paths[0]} and {paths[1]} are damaged or missing"
    raise CacheError(f"{place.url}: {both}: restore one of them from a backup")


def manifest_exists(place: Place) -> bool:
    """Tell whether a cache lies there, even one whose manifest is damaged."""
    return layout.MANIFEST in place.names() or layout.MANIFEST in place.names(layout.JOURNAL)


def is_manifest(path: str) -> bool:
    """Tell whether a path is that of a manifest or of a copy."""
    return bool(_NAME.fullmatch(path.rpartition("/")[2]))


def manifest_name(manifest: Manifest) -> str:
    """Return the name of the manifest's file."""
    return _numbered(layout.MANIFEST, manifest.times_grown)


def _files(place: Place) -> list[tuple[str, str]]:
    """List the manifest and its copy of each time that the cache has grown, in order."""
    found = {name for folder in ("", layout.JOURNAL) for name in place.names(folder)}
    times = {int(match[1]) for name in found if (match := _NAME.fullmatch(name)) and match[1]}
    names = [_numbered(layout.MANIFEST, n) for n in range(max(times, default=0) + 1)]
    return [(name, f"{layout.JOURNAL}/{name}") for name in names]


def _numbered(name: str, times_grown: int) -> str:
    """Return "manifest.2.json", and "manifest.json" before the cache has grown."""
    return name.replace(".", f".{times_grown}.", 1) if times_grown else name


def create_manifest(place: Place, manifest: Manifest) -> Manifest:
    """Write the manifest unless there is one; return the one that lies there now."""
    place.create(layout.MANIFEST, _text(manifest))
    return load_manifest(place)


def grow_manifest(place: Place, wanted: Manifest) -> Manifest:
    """Add what `wanted` has beyond the cache; return the manifest that lies there now.

    A new file is created, so that of several writers that add at once each sees what others added.
    Raises CacheError where `wanted` is of another identity, or lacks entries of the cache.
    """
    while True:
        made = load_manifest(place)
        grown = made.grown(wanted, place.url)
        if grown == made:
            return made
        place.create(manifest_name(grown), _text(grown))


def complete_manifests(place: Place, manifest: Manifest, *, anew: Sequence[str] = ()) -> None:
    """Write the manifests and their copies where they are missing or named in `anew`.

    `manifest` must be the one of the cache: of two writers with different manifests, the first to
    create manifest.json is right.
    """
    for pair in _files(place):
        told = {path: _read_sealed(place, path) for path in pair}
        whole = next((seal(content, indent=1) for content in told.values() if content), None)
        for path in pair:
            if path in anew:
                place.delete([path])
            place.create(path, whole or _text(manifest))


def damaged_manifests(place: Place) -> list[str]:
    """List which of the manifests and their copies are missing or damaged."""
    return [path for pair in _files(place) for path in pair if not _read_sealed(place, path)]


def create_mark(place: Place, manifest: Manifest) -> None:
    """Mark that all of the manifest is committed. A damaged mark is written anew."""
    path = _numbered(layout.COMPLETE, manifest.times_grown)
    mark: dict[str, Any] = {"cache_id": manifest.cache_id, "entries": len(manifest.entries)}
    if manifest.format_version > 2:
        mark["targets"] = list(manifest.targets)
    if _read_sealed(place, path) not in (None, mark):
        place.delete([path])
    place.create(path, seal(mark))


def marks(place: Place) -> list[str]:
    """List the marks of a finished cache, one for each time that it has grown, in order."""
    there = place.names()
    paths = (_numbered(layout.COMPLETE, number) for number in range(len(_files(place))))
    return [path for path in paths if path in there]


def damaged_marks(place: Place, manifest: Manifest) -> list[str]:
    """List the marks that do not fit the manifest."""
    return [path for path in marks(place) if _marked(place, manifest, path) is None]


def finished(place: Place, manifest: Manifest) -> Part | None:
    """Return the part of the cache that was finished last, by its undamaged marks; None if none."""
    found = (_marked(place, manifest, path) for path in reversed(marks(place)))
    return next(filter(None, found), None)


def _marked(place: Place, manifest: Manifest, path: str) -> Part | None:
    try:
        mark = check_json(_Mark, _read_sealed(place, path), path)
    except UserError:
        return None
    targets = manifest.targets if mark.targets is None else mark.targets
    fits = mark.cache_id == manifest.cache_id and mark.entries <= len(manifest.entries)
    return Part(mark.entries, targets) if fits and {*targets} <= {*manifest.targets} else None


@dataclass(frozen=True)
class _Mark:
    cache_id: str
    entries: Annotated[int, Field(ge=1)]
    targets: tuple[str, ...] | None = None  # version 2 does not say them


def _refuse_other_version(place: Place, paths: Sequence[str]) -> None:
    """Refuse another version as such, not as damage, though its checksum may be made otherwise.

    A newer version is believed where both copies state it, since one flipped bit could fake it.
    """
    told = []
    for path in paths:
        try:
            told.append(parse_json(place.read(path, MOST_TEXT), path)["format_version"])
        except (FileNotFoundError, UserError, KeyError, TypeError):
            told.append(None)
    if isinstance(told[0], int) and (told[0] < min(layout.READABLE) or told[0] == told[1]):
        check_version(told[0], place.url)


def _text(manifest: Manifest) -> bytes:
    return seal(manifest.to_json(), indent=1)


def _read_sealed(place: Place, path: str) -> dict[str, Any] | None:
    """Return a sealed file's content; None where it is missing, {} where it is damaged."""
    try:
        return unseal(place.read(path, MOST_TEXT))
    except FileNotFoundError:
        return None
    except UserError:
        return {}
