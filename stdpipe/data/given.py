"""Find LR frames that are given beside HR ones, or alone, and tell their phase.

They lie in a folder beside HR as people publish them, GT/ beside BIx4/ (BasicSR, mmagic) or
train_sharp/ beside train_sharp_bicubic/X4/ (REDS), or where the data's name says it (lr=DIR), by
the keys of their clips. A clip that lies there alone has no HR: a teacher's image stands in.
Axes: T frames, H W HR size, h w LR size.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from stdpipe.cache.errors import UserError
from stdpipe.data import named, packed
from stdpipe.data.folders import folders_in, frames_in, is_video_file, visible
from stdpipe.data.frames import Clip
from stdpipe.data.video import open_video
from stdpipe.data.video_facts import facts

BESIDE = re.compile(r"(B[ID]|LR)x\d|LR|X\d")  # names of folders that lie beside HR
Find = Callable[[Clip], Clip | None]
SHARP = re.compile(r"(train|val|test)_sharp")  # of REDS


def lr_folder(data: Path, asked: bool = True) -> Path | None:
    """Return where LR frames are given for a data set: as its name says, else as they lie beside
    HR; None where there are several, and nobody asked for them.

    Raises UserError for several, and for a place that the name says and that is not there.
    """
    name = named.parse(data)
    if name.lr:
        if not name.lr.exists():
            raise UserError(f"{data}: there is no {name.lr}, where LR should be given")
        return name.lr
    found = _beside(name.root) if name.root.is_dir() else []
    if len(found) > 1 and asked:
        told = ", ".join(folder.name for folder in found)
        raise UserError(f"{name.root} has several folders of LR ({told}): choose one by --lr")
    return found[0] if len(found) == 1 else None


def _beside(root: Path) -> list[Path]:
    """List the folders of LR beside HR's own."""
    if SHARP.fullmatch(root.name):
        bicubic = root.with_name(f"{root.name}_bicubic")
        return folders_in(bicubic) if bicubic.is_dir() else []
    if (root / "train_sharp").is_dir():
        return _beside(root / "train_sharp")
    if root.name == "GT":
        root = root.parent
    if not (root / "GT").is_dir():
        return []
    return [folder for folder in folders_in(root) if BESIDE.fullmatch(folder.name)]


def attach(clips: Iterable[Clip], folder: Path, some: bool = False) -> list[Clip]:
    """Give clips the LR frames of the same key; with `some`, return those alone that have any.

    Raises UserError where one has none, or others in number or name.
    """
    clips = list(clips)
    find = _in_file(folder, clips) if folder.is_file() else _in_folder(folder)
    pairs = [(clip, find(clip)) for clip in clips]
    return [replace(clip, lr=_checked(clip, lr, folder)) for clip, lr in pairs if lr or not some]


def _in_file(file: Path, clips: Sequence[Clip]) -> Find:
    """Return what finds the LR of a clip in a packed file or a video."""
    if not packed.is_hdf5(file):
        sources = {named.source(clip.key) for clip in clips}
        if len(sources) > 1:
            raise UserError(f"{file} is one video, and HR has {len(sources)}: give a folder of LR")
        return lambda clip: _of_video(clip, file)
    found = packed.opened(file)
    numbers, lengths = {key: n for n, key in enumerate(found.keys)}, found.shapes[:, 0].tolist()

    def find(clip: Clip) -> Clip | None:
        number = numbers.get(clip.key)
        if number is None:
            return None
        return Clip(clip.key, range(lengths[number]), packed.PackedPlace(file, number))

    return find


def _in_folder(folder: Path) -> Find:
    """Return what finds the LR of a clip in a folder: in one of its name, else in a video."""
    home = folder / "sequences" if (folder / "sequences").is_dir() else folder
    files = [Path(entry.path) for entry in visible(home)]
    videos = {file.stem: file for file in files if is_video_file(file)}

    def find(clip: Clip) -> Clip | None:
        if (home / clip.key).is_dir():
            return Clip(clip.key, frames_in(home / clip.key))
        video = videos.get(named.source(clip.key))
        return _of_video(clip, video) if video else None

    return find


def _of_video(clip: Clip, file: Path) -> Clip:
    """Take the same frames of a video of LR as the clip takes of HR's."""
    if isinstance(clip.place, packed.PackedPlace):
        raise UserError(f"HR of {clip.key} is packed, and its LR, {file}, is not: pack LR, too")
    of_hr = len(facts(clip.place.file).times) if clip.place else len(clip.frames)
    of_lr = len(facts(file).times)
    if of_hr != of_lr:
        raise UserError(f"{file} has {of_lr} frames, and the HR of {clip.key} {of_hr}")
    frames = clip.frames if isinstance(clip.frames, range) else range(of_lr)
    return Clip(clip.key, frames, open_video(file))


def _checked(clip: Clip, lr: Clip | None, folder: Path) -> Clip:
    if lr is None or not lr.frames:
        raise UserError(f"clip {clip.key} has no LR in {folder}: add it, or exclude the clip")
    if len(lr.frames) != len(clip.frames):
        raise UserError(
            f"clip {clip.key} has {len(clip.frames)} frames of HR, and {len(lr.frames)} of LR in "
            f"{folder}: take LR that was made of it"
        )
    for hr_name, lr_name in zip(clip.names, lr.names, strict=False):
        if re.sub(r"x\d$", "", lr_name) != hr_name:
            raise UserError(
                f"clip {clip.key}: HR has {hr_name}, where LR in {folder} has {lr_name}: name both "
                "alike"
            )
    return lr
