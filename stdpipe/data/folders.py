"""List folders of frames and of videos, in the order in which people count. Without torch."""

import os
import re
from pathlib import Path

from stdpipe.cache.errors import UserError

FRAME_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset(
    {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm"}
)


def is_video_file(path: Path) -> bool:
    """Tell whether a path is that of a video file, by its name."""
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()


def frames_in(folder: Path) -> tuple[Path, ...]:
    """List the image files of a folder. Raises UserError for two of one name."""
    stems: dict[str, Path] = {}
    for path in (Path(entry.path) for entry in visible(folder)):
        if path.suffix.lower() not in FRAME_SUFFIXES:
            continue
        if (twin := stems.setdefault(path.stem, path)) is not path:
            raise UserError(f"{folder} holds both {twin.name} and {path.name}: keep one of them")
    return tuple(stems.values())


def folders_in(folder: Path) -> list[Path]:
    """List the folders of a folder."""
    return [Path(entry.path) for entry in visible(folder) if entry.is_dir()]


def visible(folder: Path) -> list["os.DirEntry[str]"]:
    """List what a folder holds, but for hidden files."""
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(shown, key=lambda entry: natural(entry.name))


def natural(name: str) -> tuple[list[str | int], str]:
    """Return a key that sorts "Frame 2" before "Frame 10", and "01" and "1" by name."""
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if part.isdecimal() else part for part in parts], name
