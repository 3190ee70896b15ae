"""The manifest: what a cache holds and what made it, as a frozen dataclass and as JSON."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import ConfigDict, Field

from stdpipe.cache import layout
from stdpipe.cache.errors import CacheError, UserError
from stdpipe.cache.groups import (
    Group,
    HeightWidth,
    Places,
    apart,
    check_groups,
    joined,
    places_of,
    size_of,
)
from stdpipe.cache.schema import check_json

Fact = str | int | float | bool | None
Size = Annotated[int, Field(ge=1)]
Key = Annotated[str, Field(min_length=1)]
Channels = Annotated[int, Field(ge=1, le=2**12)]  # a chunk of them is decoded at once
MOST_VALUES = 2**40  # in one array of one entry: more than any memory holds
MOST_CHUNKS = 2**22  # of one array of one entry, whose index is read at once

CLIP_FACTS = ("frames", "channels", "f_lr_channels", "height", "width", "entries_digest")
OWN_FACTS = ("encoding", "compression", "targets", "scale", *CLIP_FACTS)
DERIVED = ("cache_id", "digest")  # of the JSON; version 2 has the first alone
SINCE_3 = ("sr_channels", "times_grown")  # fields that a manifest of version 2 lacks
FEATURES = frozenset(layout.TARGETS) - {"sr"}  # the targets that an encoding is of


class Part(NamedTuple):
    """The part of a cache that is finished, or that a run used: it stays while the cache grows."""

    entries: int
    """The first so many entries."""
    targets: tuple[str, ...]


def difference(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Name the first of `wanted`'s facts that `made` does not share; None if all agree.

    The text is such as "teacher 'edvr-l', but 'edvr-m' was asked for; use another --cache or the
    same --teacher".
    """
    for name, value in wanted.items():
        if name not in made or made[name] != value:
            got = f"{name} {made[name]!r}" if name in made else f"{name} no value"
            remedy = f"use another --cache or the same {_remedy(name)}"
            return f"{got}, but {value!r} was asked for; {remedy}"
    return None


def refuse_difference(url: str, made: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise CacheError naming the first difference between what is there and what is wanted."""
    if text := difference(made, wanted):
        raise CacheError(f"cache {url} was made by {text}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of a cache. Raises CacheError for contradictory fields.

    Types are checked when it is read. The identity (`cache_id`) is what made the cache; entries and
    targets may be added. In version 2 it is everything but `notes`, and nothing can be added.
    """

    made_by: dict[str, Fact]
    """Facts that the cache only compares: teacher, weights_sha256, degradation, views, seed..."""
    entries: Annotated[tuple[Key, ...], Field(min_length=1)]
    """Entry keys in the data's order; those of one size are in the order of their arrays."""
    frames: Size
    channels: Channels  # of f_sr, or of the trunk where that is stored; 1 where neither is
    sr_channels: Literal[1, 3] = 3  # of the image: 1 where it is luma
    f_lr_channels: Annotated[int, Field(ge=0, le=2**12)] = 0  # 0 where f_lr is no target
    height: Size  # in HR pixels, of the first entry
    width: Size  # in HR pixels
    scale: Annotated[int, Field(ge=2, le=4)] = 4  # HR size / LR size; not written where it is 4
    groups: dict[str, Places] = field(default_factory=dict)
    """Folder -> the places in `entries` of those of another size, as places_of tells."""
    targets: tuple[str, ...] = ("f_sr", "attention")
    """What the cache serves, in the order of layout.TARGETS."""
    encoding: Annotated[str, Field(pattern=f"^({'|'.join(layout.ENCODINGS)})$")] = "float16"
    """How f_sr lies on disk: one of layout.ENCODINGS."""
    compression: Annotated[str, Field(pattern=f"^({'|'.join(layout.COMPRESSIONS)})$")] = "none"
    """Lossless compression: one of layout.COMPRESSIONS."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Any JSON: measured errors, warnings, software versions."""
    times_grown: Annotated[int, Field(ge=0)] = 0
    format_version: int = layout.FORMAT_VERSION
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str = "manifest") -> "Manifest":
        """Read a JSON object. Raises CacheError for another version, keys, or identity."""
        check_version(content.get("format_version"), where)
        fields = {name: value for name, value in content.items() if name not in DERIVED}
        try:
            if "groups" in content:
                fields |= joined(content, where)
            manifest = check_json(cls, fields, where)
        except UserError as error:
            raise CacheError(error) from None
        for name in DERIVED:
            if content.get(name) != manifest.to_json().get(name):
                raise CacheError(f"{where}: the manifest's {name} does not fit its fields")
        return manifest

    def __post_init__(self) -> None:
        assert self.compression in layout.COMPRESSIONS
        served = tuple(name for name in layout.TARGETS if name in self.targets)
        if not served or self.targets != served:
            order = f"name some of {layout.TARGETS}, in that order"
            raise CacheError(f"targets {self.targets!r}: {order}")
        if ("f_lr" in self.targets) != (self.f_lr_channels > 0):
            raise CacheError(f"f_lr_channels is {self.f_lr_channels}, targets are {self.targets!r}")
        if len({*self.entries}) < len(self.entries):
            twice = next(key for key, count in Counter(self.entries).items() if count > 1)
            raise CacheError(f"entry key {twice!r} occurs twice: list every clip once")
        if self.groups and self.format_version < 3:
            raise CacheError("a cache of version 2 holds clips of one size: use another --cache")
        check_groups(self.groups, self.frames, self.size(), len(self.entries))
        for group in self.sizes:
            off_grid = group.height % self.scale or group.width % self.scale
            if off_grid and (self.needs_tail or "f_lr" in self.targets):
                raise CacheError(
                    f"encoding {self.encoding!r} with targets {self.targets!r} needs sides that "
                    f"are multiples of {self.scale}, got {group.height} x {group.width}"
                )
            largest = max(prod(spec.shape[1:]) for spec in group.arrays.values())
            most = max(prod(spec.shard) // prod(spec.inner) for spec in group.arrays.values())
            if not 0 < largest <= MOST_VALUES or most > MOST_CHUNKS:
                raise CacheError(
                    f"an entry cannot have {largest:.3g} values: check frames and sizes"
                )
        if clash := self.made_by.keys() & OWN_FACTS:
            raise CacheError(f"made_by must not hold {sorted(clash)}: these are own fields")

    def to_json(self) -> dict[str, Any]:
        """Return the fields, the cache_id and a digest of all but the notes as a JSON object."""
        if self.format_version < 3:
            return self._fields() | {"cache_id": self.cache_id}
        return self._fields() | dict(zip(DERIVED, (self.cache_id, self.digest), strict=True))

    def _fields(self) -> dict[str, Any]:
        unsaid = {*(SINCE_3 if self.format_version < 3 else ())}
        unsaid |= {"scale"} if self.scale == layout.SCALE else set()  # as before there were others
        return apart({k: v for k, v in asdict(self).items() if k not in unsaid})

    @cached_property
    def digest(self) -> str:
        """The sha256 (hex) of everything but the notes."""
        return _sha256({name: value for name, value in self._fields().items() if name != "notes"})

    def facts(self) -> dict[str, Any]:
        """Return every fact that a reader may expect: made_by, then encoding, shape, clip list."""
        return self.made_by | {name: getattr(self, name) for name in OWN_FACTS}

    @cached_property
    def entries_digest(self) -> str:
        """The sha256 (hex) of the entry keys in order."""
        return _sha256(list(self.entries))

    @cached_property
    def cache_id(self) -> str:
        """The sha256 (hex) of what made the cache; of version 2, of everything but the notes."""
        if self.format_version < 3:
            return self.digest
        return _sha256({"format_version": self.format_version, "made_by": self.made_by})

    @property
    def part(self) -> Part:
        """The part of the cache that this manifest is of: its entries and targets."""
        return Part(len(self.entries), self.targets)

    def part_of(self, part: Part) -> "Manifest":
        """Return this with the part's entries and targets alone, as far as they are here."""
        targets = tuple(name for name in self.targets if name in part.targets) or self.targets
        f_lr = self.f_lr_channels * ("f_lr" in targets)
        entries = self.entries[: max(part.entries, 1)]
        if self.format_version < 3 or part == self.part:
            return self
        places = {n: tuple(p for p in at if p < len(entries)) for n, at in self.groups.items()}
        held = {name: at for name, at in places.items() if at}
        return replace(self, entries=entries, groups=held, targets=targets, f_lr_channels=f_lr)

    def grown(self, wanted: "Manifest", url: str) -> "Manifest":
        """Return this with the entries and targets that `wanted` adds; what is here stays.

        Raises CacheError where identities, or what both hold, differ, and where `wanted` lacks
        entries: the clips of another data set are not added by mistake. Version 2 does not grow.
        """
        if self.format_version < 3:
            wanted = replace(wanted, format_version=self.format_version)
        # a fact that only one side has counts as None on the other
        absent: dict[str, Any] = dict.fromkeys([*wanted.made_by, *self.made_by])
        made, asked = absent | self.facts(), absent | wanted.facts() | self._size_facts()
        if other := next((key for key in self.entries if self._differs(wanted, key)), None):
            made, asked = made | self._size_facts(other), asked | wanted._size_facts(other)
        if self.format_version < 3:
            refuse_difference(url, made, asked)
            return self
        new = {*wanted.targets} - {*self.targets}
        both = {*wanted.targets} & {*self.targets}
        here = bool(FEATURES & {*self.targets})
        may_differ = {"targets"}
        may_differ |= {"entries_digest"} if {*self.entries} <= {*wanted.entries} else set()
        may_differ |= set() if here and FEATURES & {*wanted.targets} else {"encoding"}
        may_differ |= set() if "f_sr" in both else {"channels"}
        may_differ |= set() if "f_lr" in both else {"f_lr_channels"}
        refuse_difference(url, made, {n: x for n, x in asked.items() if n not in may_differ})
        entries = tuple(key for key in wanted.entries if key not in self.index)
        if not new and not entries:
            return self
        sizes = [self.size()] + [self.size(key) for key in self.entries[1:]]
        sizes += [wanted.size(key) for key in entries]
        return replace(
            self,
            entries=(*self.entries, *entries),
            groups=places_of(self.frames, sizes),
            targets=tuple(name for name in layout.TARGETS if name in {*self.targets, *new}),
            encoding=(self if here else wanted).encoding,
            channels=(wanted if "f_sr" in new else self).channels,
            f_lr_channels=(wanted if "f_lr" in new else self).f_lr_channels,
            notes={**self.notes, **wanted.notes} if new else self.notes,
            times_grown=self.times_grown + 1,
        )

    def _differs(self, wanted: "Manifest", key: str) -> bool:
        return key in wanted.index and self.size(key) != wanted.size(key)

    def _size_facts(self, key: str | None = None) -> dict[str, int]:
        return dict(zip(("height", "width"), self.size(key), strict=True))

    @cached_property
    def index(self) -> dict[str, int]:
        """Maps entry keys to positions along the first axis of their arrays."""
        found = {key: place for group in self.sizes for place, key in enumerate(group.entries)}
        return found if not self.groups else {key: found[key] for key in self.entries}

    @cached_property
    def sizes(self) -> tuple[Group, ...]:
        """The entries of each size with their arrays: the first entry's size, then the others."""
        elsewhere = {place for places in self.groups.values() for place in places}
        top = (key for place, key in enumerate(self.entries) if place not in elsewhere)
        found = [self._group("", self.height, self.width, tuple(top))]
        for name, places in self.groups.items():
            keys = tuple(self.entries[place] for place in places)
            found.append(self._group(name, *size_of(name), keys))
        return tuple(found)

    def group(self, key: str) -> Group:
        """Return the group that an entry belongs to."""
        return self._elsewhere.get(key, self.sizes[0])

    def size(self, key: str | None = None) -> HeightWidth:
        """Return the height and width of an entry in HR pixels; None stands for the first."""
        group = self._elsewhere.get(key) if key is not None and self.groups else None
        return (group.height, group.width) if group else (self.height, self.width)

    @cached_property
    def _elsewhere(self) -> dict[str, Group]:
        return {key: group for group in self.sizes[1:] for key in group.entries}

    def _group(self, name: str, height: int, width: int, keys: tuple[str, ...]) -> Group:
        sizes = (len(keys), self.frames, self.channels, height, width)
        more = (self.compression, self.f_lr_channels, self.sr_channels, self.format_version > 2)
        specs = layout.array_specs(self.targets, self.encoding, *sizes, *more, self.scale, name)
        return Group(name, height, width, keys, {spec.name: spec for spec in specs})

    @property
    def stored(self) -> str:
        """The array that f_sr is served from: "f_sr" or "trunk"."""
        return layout.ENCODINGS[self.encoding].stored

    @property
    def needs_tail(self) -> bool:
        """True where f_sr is served, and is made of the trunk by the teacher's tail."""
        return self.stored == "trunk" and "f_sr" in self.targets

    @property
    def arrays(self) -> dict[str, layout.ArraySpec]:
        """Maps array names to how those of the first entry's size lie on disk, scales included."""
        return self.sizes[0].arrays

    @property
    def given(self) -> tuple[str, ...]:
        """The arrays that a writer is given: all but the scales, which it computes."""
        return tuple(name for name in self.arrays if not name.endswith("_scale"))


def _remedy(name: str) -> str:
    """Return what the user changes to change a fact: an option, or the clips themselves."""
    if name in CLIP_FACTS:
        return "clips and teacher"
    special = {"extractor": "version of stdpipe", "lr_8bit": "version of stdpipe"}
    special |= {"pad": "pad= behind --data", "repeat": "repeat= behind --data"}
    special |= {"teacher_sha256": "weights", "scale": "--degradation"}
    return special.get(name, "--" + name.replace("_", "-"))


def check_version(version: object, where: str) -> None:
    if version not in layout.READABLE:
        known = " and ".join(map(str, layout.READABLE))
        raise CacheError(
            f"{where} has format version {version!r}, this stdpipe reads {known}: "
            "use the stdpipe that made it, or extract again"
        )


def _sha256(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
