"""The manifest: what a cache holds and what made it, as a frozen dataclass and as JSON."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from stdpipe.cache import layout
from stdpipe.cache.errors import CacheError, UserError
from stdpipe.cache.location import open_place
from stdpipe.cache.place import Place
from stdpipe.cache.schema import check_json, parse_json
from stdpipe.cache.seal import seal, unseal

Fact = str | int | float | bool | None
Size = Annotated[int, Field(ge=1)]
Key = Annotated[str, Field(min_length=1)]
MOST_VALUES = 2**40  # in one array of one entry: more than any memory holds

CLIP_FACTS = ("frames", "channels", "f_lr_channels", "height", "width", "entries_digest")
OWN_FACTS = ("encoding", "compression", "targets", *CLIP_FACTS)
MANIFEST_COPY = f"{layout.JOURNAL}/{layout.MANIFEST}"


def load_manifest(where: Place | str | Path) -> "Manifest":
    """Read the manifest of a cache, or its copy where the manifest is damaged.

    Raises CacheError where both are missing or damaged, or where the version is another.
    """
    place = open_place(where) if isinstance(where, str | Path) else where
    found = {path: _read_sealed(place, path) for path in (layout.MANIFEST, MANIFEST_COPY)}
    content = found[layout.MANIFEST] or found[MANIFEST_COPY]
    if content:
        return Manifest.from_json(content, where=place.url)
    if found[layout.MANIFEST] is None and found[MANIFEST_COPY] is None:
        raise CacheError(f"{place.url} is not a cache (no {layout.MANIFEST}): check the path")
    _refuse_other_version(place)
    both = f"both {layout.MANIFEST} and {MANIFEST_COPY} are damaged or missing"
    raise CacheError(f"{place.url}: {both}: restore one of them from a backup")


def manifest_exists(place: Place) -> bool:
    """Tell whether a cache lies there, even one whose manifest is damaged."""
    return layout.MANIFEST in place.names() or layout.MANIFEST in place.names(layout.JOURNAL)


def create_manifest(place: Place, manifest: "Manifest") -> "Manifest":
    """Write the manifest unless there is one; return the one that lies there now."""
    place.create(layout.MANIFEST, _text(manifest))
    return load_manifest(place)


def complete_manifests(place: Place, manifest: "Manifest", *, anew: Sequence[str] = ()) -> None:
    """Write the manifest and its copy where they are missing or named in `anew`.

    `manifest` must be the one of the cache: of two writers with different manifests, the first to
    create manifest.json is right.
    """
    place.delete(anew)
    for path in (layout.MANIFEST, MANIFEST_COPY):
        place.create(path, _text(manifest))


def damaged_manifests(place: Place) -> list[str]:
    """List which of the manifest and its copy is missing or damaged."""
    return [path for path in (layout.MANIFEST, MANIFEST_COPY) if not _read_sealed(place, path)]


def create_mark(place: Place, manifest: "Manifest") -> None:
    """Mark that every entry is committed. A damaged mark is written anew."""
    if _read_sealed(place, layout.COMPLETE) not in (None, _mark(manifest)):
        place.delete([layout.COMPLETE])
    place.create(layout.COMPLETE, seal(_mark(manifest)))


def is_marked(place: Place, manifest: "Manifest") -> bool:
    """Tell whether the mark of a complete cache is there and undamaged."""
    return _read_sealed(place, layout.COMPLETE) == _mark(manifest)


def _mark(manifest: "Manifest") -> dict[str, Any]:
    return {"cache_id": manifest.cache_id, "entries": len(manifest.entries)}


def _refuse_other_version(place: Place) -> None:
    """Refuse another version as such, not as damage, though its checksum may be made otherwise.

    A newer version is believed where both copies state it, since one flipped bit could fake it.
    """
    told = []
    for path in (layout.MANIFEST, MANIFEST_COPY):
        try:
            told.append(parse_json(place.read(path), path)["format_version"])
        except (FileNotFoundError, UserError, KeyError, TypeError):
            told.append(None)
    if isinstance(told[0], int) and (told[0] < layout.FORMAT_VERSION or told[0] == told[1]):
        _check_version(told[0], place.url)


def _text(manifest: "Manifest") -> bytes:
    return seal(manifest.to_json(), indent=1)


def _read_sealed(place: Place, path: str) -> dict[str, Any] | None:
    """Return a sealed file's content; None where it is missing, {} where it is damaged."""
    try:
        return unseal(place.read(path))
    except FileNotFoundError:
        return None
    except UserError:
        return {}


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

    Types are checked when it is read. Everything but `notes` is the cache's identity (`cache_id`).
    """

    made_by: dict[str, Fact]
    """Facts that the cache only compares: teacher, weights_sha256, degradation, views, seed..."""
    entries: Annotated[tuple[Key, ...], Field(min_length=1)]
    """Entry keys in array order."""
    frames: Size
    channels: Size  # of f_sr, or of the trunk where that is stored
    f_lr_channels: Annotated[int, Field(ge=0)] = 0  # 0 where f_lr is no target
    height: Size  # in HR pixels
    width: Size  # in HR pixels
    targets: tuple[str, ...] = ("f_sr", "attention")
    """What the cache serves, in the order of layout.TARGETS."""
    encoding: Annotated[str, Field(pattern=f"^({'|'.join(layout.ENCODINGS)})$")] = "float16"
    """How f_sr lies on disk: one of layout.ENCODINGS."""
    compression: Annotated[str, Field(pattern=f"^({'|'.join(layout.COMPRESSIONS)})$")] = "none"
    """Lossless compression: one of layout.COMPRESSIONS."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Any JSON: measured errors, warnings, software versions."""
    format_version: int = layout.FORMAT_VERSION
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str = "manifest") -> "Manifest":
        """Read a JSON object. Raises CacheError for another version, keys, or identity."""
        _check_version(content.get("format_version"), where)
        fields = {name: value for name, value in content.items() if name != "cache_id"}
        try:
            manifest = check_json(cls, fields, where)
        except UserError as error:
            raise CacheError(error) from None
        if content.get("cache_id") != manifest.cache_id:
            raise CacheError(f"{where}: the manifest's cache_id does not fit its fields")
        return manifest

    def __post_init__(self) -> None:
        assert self.compression in layout.COMPRESSIONS
        served = tuple(name for name in layout.TARGETS if name in self.targets)
        if not served or self.targets != served:
            order = f"name some of {layout.TARGETS}, in that order"
            raise CacheError(f"targets {self.targets!r}: {order}")
        if ("f_lr" in self.targets) != (self.f_lr_channels > 0):
            raise CacheError(f"f_lr_channels is {self.f_lr_channels}, targets are {self.targets!r}")
        if len(self.index) < len(self.entries):
            twice = next(k for i, k in enumerate(self.entries) if self.index[k] != i)
            raise CacheError(f"entry key {twice!r} occurs twice: list every clip once")
        off_grid = self.height % layout.GRID or self.width % layout.GRID
        if off_grid and (self.stored == "trunk" or "f_lr" in self.targets):
            raise CacheError(
                f"encoding {self.encoding!r} with targets {self.targets!r} needs sides that are "
                f"multiples of {layout.GRID}, got {self.height} x {self.width}"
            )
        largest = max(prod(spec.shape[1:]) for spec in self.arrays.values())
        if not 0 < largest <= MOST_VALUES:
            raise CacheError(f"an entry cannot have {largest:.3g} values: check frames and sizes")
        if clash := self.made_by.keys() & OWN_FACTS:
            raise CacheError(f"made_by must not hold {sorted(clash)}: these are own fields")

    def to_json(self) -> dict[str, Any]:
        """Return the fields and the cache_id as a JSON object."""
        return asdict(self) | {"cache_id": self.cache_id}

    def facts(self) -> dict[str, Any]:
        """Return every fact that a reader may expect: made_by, then encoding, shape, clip list."""
        return self.made_by | {name: getattr(self, name) for name in OWN_FACTS}

    @cached_property
    def entries_digest(self) -> str:
        """The sha256 (hex) of the entry keys in order."""
        return _sha256(list(self.entries))

    @cached_property
    def cache_id(self) -> str:
        """The sha256 (hex) of everything but the notes."""
        return _sha256({name: value for name, value in asdict(self).items() if name != "notes"})

    @cached_property
    def index(self) -> dict[str, int]:
        """Maps entry keys to positions along the arrays' first axis."""
        return {key: position for position, key in enumerate(self.entries)}

    @property
    def stored(self) -> str:
        """The array that f_sr is served from: "f_sr" or "trunk"."""
        return layout.ENCODINGS[self.encoding].stored

    @cached_property
    def arrays(self) -> dict[str, layout.ArraySpec]:
        """Maps array names to how the arrays lie on disk, scales included."""
        sizes = (len(self.entries), self.frames, self.channels, self.height, self.width)
        more = (self.compression, self.f_lr_channels)
        specs = layout.array_specs(self.targets, self.encoding, *sizes, *more)
        return {spec.name: spec for spec in specs}

    @property
    def given(self) -> tuple[str, ...]:
        """The arrays that a writer is given: all but the scales, which it computes."""
        return tuple(name for name in self.arrays if not name.endswith("_scale"))


def _remedy(name: str) -> str:
    """Return what the user changes to change a fact: an option, or the clips themselves."""
    if name in CLIP_FACTS:
        return "clips and teacher"
    special = {"extractor": "version of stdpipe", "lr_8bit": "version of stdpipe"}
    return (special | {"teacher_sha256": "weights"}).get(name, "--" + name.replace("_", "-"))


def _check_version(version: object, where: str) -> None:
    if version != layout.FORMAT_VERSION:
        raise CacheError(
            f"{where} has format version {version!r}, this stdpipe reads {layout.FORMAT_VERSION}: "
            "use the stdpipe that made it, or extract again"
        )


def _sha256(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
