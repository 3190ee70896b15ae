"""Find the clips in a data set: Vimeo90K, Vid4, REDS, folders of frames, a packed file, videos.

No image is opened, and each clip folder is listed once, so that the 64,612 clips of Vimeo90K are
found in seconds. Videos are decoded once in a process, to find their scenes. Usable without torch.
"""

import codecs
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from stdpipe.cache.errors import UserError
from stdpipe.cache.schema import read_bytes
from stdpipe.data import given as lr_given, named, packed
from stdpipe.data.folders import (
    FRAME_SUFFIXES,
    VIDEO_SUFFIXES,
    folders_in,
    frames_in,
    is_video_file,
    natural,
    visible,
)
from stdpipe.data.frames import Clip
from stdpipe.data.scenes import scene_ranges
from stdpipe.data.video import open_video
from stdpipe.data.video_facts import DamagedVideoError, facts, refuse_short

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")

VIMEO_FRAMES = tuple(f"im{number}.png" for number in range(1, 8))
VIMEO_LISTS = {"train": "sep_trainlist.txt", "test": "sep_testlist.txt"}
MOTION_LISTS = {name: f"{name}_testset.txt" for name in ("slow", "medium", "fast")}
HOMES = ("GT", "train_sharp")  # where a data set of several folders has its HR
LOG = logging.getLogger(__name__)


def find_clips(
    data: Path, split: Split | None, length: int | None = None, given: bool = False
) -> list[Clip]:
    """Find the clips of what `data` names (named.py), in the order of their list, else sorted.

    Recognised, in this order: a file of pack-clips (as the folder it was made of), a video, whose
    scenes are clips, Vimeo90K septuplets (`split` picks the list; None takes every clip), a folder
    of folders of frames and of videos, a folder of frames, a folder that holds one of these as `GT`
    or `train_sharp`, and folders of folders of frames. Where there is no list, `split` picks the
    share that the name holds out. `length` cuts longer clips into runs of that many frames, keyed
    "calendar/000007" by their first frame, and drops the rest; what the name says of frames and
    clips that are too small is then noted in them.
    With `given`, clips have the LR frames of given.py, and those of LR alone, which are for
    training, come last.

    Raises FileNotFoundError for a missing folder, list, clip or frame; UserError for a folder
    without clips, a damaged file, a clip to exclude that is not there, LR that is missing or does
    not fit, and where no clip has `length` frames; shorter ones are named in a warning.
    """
    name = named.parse(data)
    clips = _chosen(_all_clips(name, split), name, split)
    if given:
        clips = _with_lr(clips, data, split)
    return clips if length is None else _runs(clips, length, name)


def split_lists(data: Path) -> dict[str, list[str]]:
    """Return the keys of each list of a data set: those of Vimeo90K (`vimeo_lists`), else those of
    the share that its name holds out; {} without either."""
    if (lists := vimeo_lists(data)) or not named.parse(data).test:
        return lists
    return {split: [clip.key for clip in find_clips(data, split)] for split in SPLITS}


def _chosen(clips: list[Clip], name: named.DataName, split: Split | None) -> list[Clip]:
    """Leave out what the name excludes, and what belongs to the other split."""
    unknown = set(name.exclude) - _names(clips)
    if unknown and name.lr:
        unknown -= _names(_lr_clips(name.lr))
    if unknown and (unknown := unknown - _names(_all_clips(name, None))):
        raise UserError(f"{min(unknown)!r}, which is to be left out, is no clip of {name.root}")
    left = [clip for clip in clips if not _is_excluded(clip, name)]
    if clips and not left:
        raise UserError(f"none of the {len(clips)} clips of {name.root} is left: exclude fewer")
    if not (name.test and split):
        return left
    if vimeo_lists(name.root):
        raise UserError(f"{name.root} has lists of its own: leave test={name.test:g}")
    test = named.tested((named.source(clip.key) for clip in left), name)
    return [clip for clip in left if (named.source(clip.key) in test) == (split == "test")]


def _with_lr(clips: list[Clip], data: Path, split: Split | None) -> list[Clip]:
    """Give clips their LR, and add those of LR alone; none of these is for testing."""
    name, folder = named.parse(data), lr_given.lr_folder(data)
    if name.pad or name.repeat:
        raise UserError(f"{data}: pad and repeat fill up HR of which LR is made, and LR is given")
    if folder is None:
        raise UserError(
            f"no LR is given beside {name.root}: name its folder by --lr, or a --degradation that "
            "makes it"
        )
    if not name.lr:
        return lr_given.attach(clips, folder)
    if folder.resolve() == name.root.resolve():
        if any((name.root / home).is_dir() for home in HOMES):
            raise UserError(f"{data}: {name.root} has HR; name the folder of LR in it")
        if split == "test":
            raise UserError(f"{name.root} has LR alone: there is no HR to measure against")
        return [replace(clip, lr=clip, has_hr=False) for clip in clips]
    clips = lr_given.attach(clips, folder)
    if split == "test":
        return clips
    clips_here = _all_clips(name, None)
    # scenes of two videos may differ, so that a source is here, or is not
    here = {clip.key for clip in clips_here} | {
        named.source(clip.key) for clip in clips_here if clip.place
    }
    alone = [
        clip
        for clip in _lr_clips(folder)
        if here.isdisjoint({clip.key, named.source(clip.key)}) and not _is_excluded(clip, name)
    ]
    return [*clips, *(replace(clip, lr=clip, has_hr=False) for clip in alone)]


def _lr_clips(folder: Path) -> list[Clip]:
    """List the clips of a folder of LR that are for training."""
    return _all_clips(named.DataName(folder), "train" if vimeo_lists(folder) else None)


def _is_excluded(clip: Clip, name: named.DataName) -> bool:
    return not {clip.key, named.source(clip.key)}.isdisjoint(name.exclude)


def _names(clips: list[Clip]) -> set[str]:
    """Return what clips and their sources are called."""
    return {name for clip in clips for name in (clip.key, named.source(clip.key))}


def _runs(clips: list[Clip], length: int, name: named.DataName) -> list[Clip]:
    """Cut clips into runs; warn of those that are too short, and refuse if all are, unless the name
    has their last frame repeated."""
    if name.repeat:
        clips = [replace(c, repeats=max(length - len(c.frames), 0)) for c in clips]
    short = [clip for clip in clips if len(clip.frames) + clip.repeats < length]
    told = f"fewer than {length} frames: " + ", ".join(
        f"{clip.key} ({len(clip.frames)})" for clip in short[:3]
    )
    if short and len(short) == len(clips):
        advice = "DATA:repeat=1 repeats their last frame"
        raise UserError(f"every clip has {told}{', ...' * (len(short) > 3)}; {advice}")
    if short:
        LOG.warning(
            f"stdpipe: {len(short)} of {len(clips)} clips are left out, which have "
            f"{told}{', ...' * (len(short) > 3)}"
        )
    long = [clip for clip in clips if len(clip.frames) + clip.repeats >= length]
    return [replace(run, pad=name.pad) for clip in long for run in _cut(clip, length)]


def _all_clips(name: named.DataName, split: Split | None) -> list[Clip]:
    """Find the clips at a place. Raises the errors of `find_clips`."""
    root = name.root
    if packed.is_hdf5(root):
        clips = _packed_clips(root, split)
    elif is_video_file(root):
        clips = _scene_clips(root, name)
    elif not root.is_dir():
        state = "is not a folder, nor a packed file" if root.exists() else "does not exist"
        raise FileNotFoundError(f"data folder {root} {state}: check the path")
    elif home := _vimeo_home(root):
        clips = _vimeo_clips(home, split)
    else:
        clips = _frame_clips(root, name)
        if not clips:
            inner = next((root / home for home in HOMES if (root / home).is_dir()), None)
            clips = _frame_clips(inner, name) if inner else []
            clips = clips or _grouped_clips(inner or root)
    if not clips:
        frames, videos = (
            ", ".join(sorted(s[1:] for s in suffixes))
            for suffixes in (FRAME_SUFFIXES, VIDEO_SUFFIXES)
        )
        raise UserError(
            f"no clips in {root}: looked for sequences/ (Vimeo90K), for videos ({videos}), for "
            f"folders of frames and for frames ({frames}), there, in GT/ and in train_sharp/"
        )
    return clips


def vimeo_lists(data: Path) -> dict[str, list[str]]:
    """Read the lists of a Vimeo90K folder, or of a file packed from one: name (train, test, slow,
    medium, fast) -> keys; {} for other data sets."""
    folder = named.parse(data).root
    if packed.is_hdf5(folder):
        return packed.opened(folder).lists
    home = _vimeo_home(folder)
    files = {n: home / file for n, file in (VIMEO_LISTS | MOTION_LISTS).items()} if home else {}
    return {name: _keys_listed(file) for name, file in files.items() if file.is_file()}


def find_one_clip(path: Path, deep: bool = False, deinterlace: bool = False) -> Clip:
    """Find the only clip of a folder or a packed file, or open a video as open_video does.

    Raises FileNotFoundError for a missing path, UserError for several clips or for no video.
    """
    if path.is_dir() or packed.is_hdf5(path):
        if path.is_dir() and (video := _only_video(path)):
            return _video_clip(video, deep, deinterlace)
        first, *others = find_clips(path, None)
        if others:
            raise UserError(f"{path} holds {1 + len(others)} clips ({first.key}, ...): give one")
        return first
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give a video file or a folder of frames")
    return _video_clip(path, deep, deinterlace)


def _scene_clips(file: Path, name: named.DataName) -> list[Clip]:
    """Make a clip of each scene of a video, keyed by the video's name and the scene's first second
    where there are several. Raises UserError for one that is damaged, unless the name takes it."""
    video, times = open_video(file, deinterlace=name.deinterlace), facts(file)
    try:
        if not name.partial:
            refuse_short(file)
        scenes = scene_ranges(video, name.partial)
    except DamagedVideoError as error:
        raise UserError(f"{error}; DATA:partial=1 takes it as far as it goes") from error
    if not scenes:
        raise UserError(f"{file} has no frame before it is damaged")
    if len(scenes) == 1:
        return [Clip(file.stem, scenes[0], video)]
    return [Clip(f"{file.stem}/{times.seconds(s.start):09.3f}", s, video) for s in scenes]


def _only_video(folder: Path) -> Path | None:
    """Return the video that is all that a folder holds."""
    held = [Path(entry.path) for entry in visible(folder)]
    return held[0] if len(held) == 1 and is_video_file(held[0]) else None


def _video_clip(file: Path, deep: bool = False, deinterlace: bool = False) -> Clip:
    return Clip(file.stem, range(len(facts(file).times)), open_video(file, deep, deinterlace))


def _packed_clips(file: Path, split: Split | None) -> list[Clip]:
    """List the clips of a packed file in the order of the packed list, else of their names."""
    found = packed.opened(file)
    keys = sorted(found.keys, key=lambda key: [*map(natural, key.split("/"))])
    if split and not found.lists.keys().isdisjoint(SPLITS):
        if split not in found.lists:
            lacks = f"it was packed from {found.source} without that list; pack both"
            raise UserError(f"{file} has no {split} clips: {lacks}")
        keys = found.lists[split]
    places = {key: packed.PackedPlace(file, index) for index, key in enumerate(found.keys)}
    lengths = found.shapes[:, 0].tolist()
    return [Clip(key, range(lengths[places[key].number]), places[key]) for key in keys]


def _vimeo_home(root: Path) -> Path | None:
    homes = (root, root / "vimeo_septuplet")
    return next((home for home in homes if (home / "sequences").is_dir()), None)


def _vimeo_clips(home: Path, split: Split | None) -> list[Clip]:
    origin = home / (VIMEO_LISTS[split] if split else "sequences")
    if split:
        keys = _keys_listed(origin)
    else:
        keys = [
            f"{group.name}/{sub.name}" for group in folders_in(origin) for sub in folders_in(group)
        ]
    if not keys:
        raise UserError(f"no clips: {origin} is empty")
    return [_vimeo_clip(home / "sequences" / key, key, origin.name) for key in keys]


def _keys_listed(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: it lists the clips of the split asked for")
    # Some copies of the lists carry the clip's shape after its key. A key listed twice counts once.
    lines = [line.split()[0] for line in _text(path).splitlines() if line.strip()]
    return list(dict.fromkeys(_key(path, line) for line in lines))


def _text(path: Path) -> str:
    """Read a list as UTF-8, or as UTF-16 where it has such a byte-order mark (as from Windows)."""
    data = read_bytes(path)
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UserError(f"{path} is no text in UTF-8: save it again as such, one clip a line")
    return text


def _key(path: Path, listed: str) -> str:
    """Turn a listed key into one with forward slashes."""
    parts = [part for part in listed.replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise UserError(f"{path}: {listed!r} is no clip of sequences/, such as 00001/0001")
    return "/".join(parts)


def _vimeo_clip(folder: Path, key: str, origin: str) -> Clip:
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if missing := [name for name in VIMEO_FRAMES if name not in present]:
        raise FileNotFoundError(
            f"clip {key} of {origin} lacks {missing[0]}: the data set is incomplete; download it "
            "again or take the clip off the list"
        )
    return Clip(key, tuple(folder / name for name in VIMEO_FRAMES))


def _frame_clips(root: Path, name: named.DataName) -> list[Clip]:
    """List the folders of frames and the videos in `root`, else `root` itself as one clip, else
    nothing."""
    clips = [Clip(sub.name, frames_in(sub)) for sub in folders_in(root)]
    videos = [Path(entry.path) for entry in visible(root) if is_video_file(Path(entry.path))]
    stems = Counter([clip.key for clip in clips] + [video.stem for video in videos])
    if twice := next((stem for stem, count in stems.items() if count > 1), None):
        raise UserError(f"{root} holds {twice!r} more than once: rename one of them")
    if videos and frames_in(root):
        raise UserError(f"{root} holds both frames and videos ({videos[0].name}): keep one kind")
    found = [clip for clip in clips if clip.frames]
    found += [clip for video in videos for clip in _scene_clips(video, name)]
    if not found:
        frames = frames_in(root)
        return [Clip(root.resolve().name, frames)] if frames else []
    for clip in clips:
        # A folder with other files may be anything; in an empty one, the frames are missing.
        if not clip.frames and not any((root / clip.key).iterdir()):
            raise FileNotFoundError(
                f"clip {clip.key} in {root} has no frames: the data set is incomplete; fill the "
                "folder or remove it"
            )
    return found


def _grouped_clips(root: Path) -> list[Clip]:
    """List the folders of frames in the folders of `root`, as 00001/0266: mmagic's Vimeo90K."""
    subs = [(group.name, sub) for group in folders_in(root) for sub in folders_in(group)]
    clips = [Clip(f"{group}/{sub.name}", frames_in(sub)) for group, sub in subs]
    return [clip for clip in clips if clip.frames]


def _cut(clip: Clip, length: int) -> Iterator[Clip]:
    if clip.repeats:
        yield clip
    count = len(clip.frames)
    for start in range(0, count - length + 1, length):
        key = clip.key if count == length else f"{clip.key}/{start:06d}"
        lr = clip.lr and _part(clip.lr, start, length)
        yield replace(_part(clip, start, length), key=key, lr=lr)


def _part(clip: Clip, start: int, length: int) -> Clip:
    return replace(clip, frames=clip.frames[start : start + length], before=clip.frames[:start])
