"""What --data names: a place, and, after a colon, what of it is used: `videos:test=0.2,seed=1`.

The name says it all, so that every command, run, cache and result that holds it means the same.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from stdpipe.cache.errors import UserError
from stdpipe.suggest import refuse_unknown

KNOWN = ("test", "seed", "exclude", "deinterlace", "partial", "lr", "pad", "repeat")
SAID = {"1": True, "0": False}


class DataName(NamedTuple):
    """A place of clips, and what of it is used."""

    root: Path
    test: float = 0.0
    """The share of sources, whole videos or folders, that is held out for testing."""
    seed: int = 0  # draws which
    exclude: tuple[str, ...] = ()  # keys of clips or of sources
    deinterlace: bool = False  # of videos
    partial: bool = False  # of videos: damaged ones are taken as far as they go
    lr: Path | None = None  # where LR frames lie that are given, from the place on
    pad: int = 0
    """The side in HR pixels to which smaller frames are padded, by repeating their edges."""
    repeat: bool = False  # the last frame of clips that are too short, instead of leaving them out


def parse(data: Path) -> DataName:
    """Read what --data names. Raises UserError for options that are unknown or out of range."""
    place, colon, options = str(data).rpartition(":")
    if not colon or not re.match(r"\w+=", options) or _exists(data):
        return DataName(data)
    found: dict[str, list[str]] = {}
    for option in options.split(","):
        name, _, value = option.partition("=")
        refuse_unknown([name], KNOWN, f"{data}: unknown option of a data set")
        found.setdefault(name, []).append(unquote(value))
    exclude = found.pop("exclude", [])
    if twice := [name for name, values in found.items() if len(values) > 1]:
        raise UserError(f"{data}: {twice[0]} stands twice")
    try:
        test, seed = float(found.get("test", ["0"])[0]), int(found.get("seed", ["0"])[0])
    except ValueError:
        raise UserError(f"{data}: test is a share such as 0.2, seed a whole number") from None
    if not 0 <= test < 1:
        raise UserError(f"{data}: test is the share of sources held out, from 0 to below 1")
    pad = found.get("pad", ["0"])[0]
    if not re.fullmatch("[0-9]{1,4}", pad):
        raise UserError(f"{data}: pad is a side in HR pixels, such as 256, of 9999 at most")
    switches = {}
    for name in ("deinterlace", "partial", "repeat"):
        if (said := found.get(name, ["0"])[0]) not in SAID:
            raise UserError(f"{data}: {name} is 1 or 0")
        switches[name] = SAID[said]
    lr = Path(place) / found["lr"][0] if "lr" in found else None
    return DataName(Path(place), test, seed, tuple(exclude), lr=lr, pad=int(pad), **switches)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # longer than a file's name may be
        return False


def without(data: Path, keys: Iterable[str]) -> Path:
    """Name the same data without some clips or sources."""
    more = ",".join(f"exclude={quote(key, safe='/ ')}" for key in keys)
    return with_option(data, more) if more else data


def with_lr(data: Path, folder: Path) -> Path:
    """Name the same data with LR frames of a folder of their own."""
    return with_option(data, f"lr={quote(str(folder.absolute()), safe='/ ')}")


def with_option(data: Path, option: str) -> Path:
    """Name the same data with one option more."""
    joint = ":" if parse(data).root == data else ","
    return Path(f"{data}{joint}{option}")


def source(key: str) -> str:
    """Return the video or folder that a clip was cut out of, from its key."""
    return key.partition("/")[0]


def tested(sources: Iterable[str], name: DataName) -> set[str]:
    """Return which sources are held out for testing: that share of them, at least one, drawn by
    the seed and their names, so that another source changes little.

    Raises UserError where none would be left to train on.
    """
    ordered = sorted(
        set(sources), key=lambda each: hashlib.sha256(f"{name.seed} {each}".encode()).digest()
    )
    if not name.test:
        return set()
    if len(ordered) < 2:
        raise UserError(
            f"{name.root} has {len(ordered)} source, and a share held out for testing takes whole "
            "sources: add one, or name another data set to test on"
        )
    count = min(max(1, round(name.test * len(ordered))), len(ordered) - 1)
    return set(ordered[:count])
