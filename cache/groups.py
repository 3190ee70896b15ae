"""Clips of several sizes in one cache: each size has arrays of its own.

Those of the first entry's size lie at the top of the cache, those of another one in a folder that
is named by its frames, height and width, `7x192x320/`. A manifest in memory lists all entries in
the data's order, and in which places of that list those of each folder stand. As JSON, it lists the
entries of each folder for themselves, so that entry i of a list is index i of that folder's arrays.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from stdpipe.cache.errors import CacheError
from stdpipe.cache.layout import ArraySpec
from stdpipe.cache.schema import check_json

HeightWidth = tuple[int, int]  # in HR pixels
Places = tuple[int, ...]  # positions in Manifest.entries, ascending

_NAME = re.compile(r"([1-9]\d{0,9})x([1-9]\d{0,9})x([1-9]\d{0,9})", re.ASCII)


class Group(NamedTuple):
    """The entries of one size, and their arrays."""

    folder: str  # "" at the top, else "7x192x320"
    height: int
    width: int
    entries: tuple[str, ...]  # in array order
    arrays: dict[str, ArraySpec]


def places_of(frames: int, sizes: Sequence[HeightWidth]) -> dict[str, Places]:
    """Map folders to the places of the entries that have another size than the first."""
    found: dict[str, list[int]] = {}
    for place, size in enumerate(sizes):
        if size != sizes[0]:
            found.setdefault("x".join(map(str, (frames, *size))), []).append(place)
    return {name: tuple(places) for name, places in found.items()}


def size_of(name: str) -> HeightWidth:
    """Return the height and width that a folder's name says."""
    _, height, width = name.split("x")
    return int(height), int(width)


def check_groups(groups: Mapping[str, Places], frames: int, top: HeightWidth, entries: int) -> None:
    """Raise CacheError where folders and places contradict the rest of a manifest."""
    taken = {0}  # the first entry's size is the top's
    for name, places in groups.items():
        parts = _NAME.fullmatch(name)
        if not parts or int(parts[1]) != frames or size_of(name) == top:
            raise CacheError(f"groups: {name!r} names no other size of {frames} frames")
        ascending = list(places) == sorted({*places} - taken) and places
        if not ascending or places[-1] >= entries:
            raise CacheError(f"groups: the places of {name} are not those of {entries} entries")
        taken |= {*places}


def apart(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest's fields as JSON has them: the top's entries, and those of each group."""
    entries, groups = fields["entries"], fields["groups"]
    rest = {name: value for name, value in fields.items() if name != "groups"}
    if not groups:
        return rest
    elsewhere = {place for places in groups.values() for place in places}
    top = [key for place, key in enumerate(entries) if place not in elsewhere]
    told = {
        name: {"entries": [entries[place] for place in places], "places": list(places)}
        for name, places in groups.items()
    }
    return rest | {"entries": top, "groups": told}


def joined(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Undo `apart` for the two fields that it changes. Raises UserError for other JSON."""
    told = {name: content.get(name) for name in ("entries", "groups")}
    found = check_json(_Stated, told, where)
    of_place: dict[int, str] = {}
    for group in found.groups.values():
        if len(group.entries) != len(group.places) or of_place.keys() & {*group.places}:
            raise CacheError(f"{where}: groups: each entry needs a place of its own")
        of_place |= dict(zip(group.places, group.entries, strict=True))
    top = iter(found.entries)
    count = len(found.entries) + len(of_place)
    entries = [of_place[place] if place in of_place else next(top, "") for place in range(count)]
    return {"entries": entries, "groups": {n: group.places for n, group in found.groups.items()}}


@dataclass(frozen=True)
class _StatedGroup:
    entries: tuple[str, ...]
    places: tuple[int, ...]


@dataclass(frozen=True)
class _Stated:
    entries: tuple[str, ...]
    groups: dict[str, _StatedGroup]
