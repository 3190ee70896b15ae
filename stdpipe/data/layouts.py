"""What lies in a folder: finds the clips of Vimeo90K, Vid4, REDS or any folders of frames, or those
of the file that pack-clips made of one.

Nothing is opened while looking, and each clip folder is listed once, so that the 64,612 clips of
Vimeo90K are found in seconds. numpy, imageio and h5py only: usable without torch.
"""

import io
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stdpipe.cache.errors import UserError
from stdpipe.data import packed

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")

FRAME_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
VIMEO_FRAMES = tuple(f"im{number}.png" for number in range(1, 8))
VIMEO_LISTS = {"train": "sep_trainlist.txt", "test": "sep_testlist.txt"}
MOTION_LISTS = {name: f"{name}_testset.txt" for name in ("slow", "medium", "fast")}
# 8 bits a channel, and RGB after imageio has resolved the palette. CMYK would pass for RGBA.
READABLE_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})
PNG_START, PNG_END, PNG_DEPTH_AT = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82", 24


@dataclass(frozen=True)
class Clip:
    """T consecutive frames of one video, in order, under a key that names them in the data set.

    They are image files, or numbers of the frames of a clip in a packed file.
    """

    key: str
    frames: tuple[Path, ...] | range
    place: packed.Place | None = None


def find_clips(
    folder: str | os.PathLike[str], split: Split | None, length: int | None = None
) -> list[Clip]:
    """The clips in `folder`, in the order of their list, or sorted naturally where there is none.

    Recognised, in this order: a file of pack-clips (as the folder it was made of), Vimeo90K
    septuplets (`split` picks the list; None takes every clip there is), a folder of folders of
    frames, a folder of frames, and a folder that holds one of these as `GT`. `length` cuts longer
    clips into consecutive runs of that many frames, keyed "calendar/000007" by their first frame,
    and drops the shorter tail.

    Raises FileNotFoundError for what is missing (the folder, a list, a listed clip or a frame of
    it), UserError for a folder without clips, for a damaged file and for a clip shorter than
    `length`.
    """
    if split not in (None, *SPLITS):
        raise UserError(f"split {split!r} is not known: use 'train', 'test' or None")
    if length is not None and length < 1:
        raise UserError(f"length is {length}, but a clip has at least one frame")
    root = Path(folder)
    if packed.is_hdf5(root):
        clips = _packed_clips(root, split)
    elif root.is_dir():
        clips = _recognise(root, split)
    else:
        state = "is not a folder, nor a packed file" if root.exists() else "does not exist"
        raise FileNotFoundError(f"data folder {root} {state}: check the path")
    return clips if length is None else [run for clip in clips for run in _cut(clip, length)]


def vimeo_lists(folder: str | os.PathLike[str]) -> dict[str, list[str]]:
    """The lists of a Vimeo90K folder, or of a file packed from one, that are there (train, test,
    slow, medium, fast) and their keys; none for other data sets."""
    if packed.is_hdf5(Path(folder)):
        return packed.opened(Path(folder)).lists
    home = _vimeo_home(Path(folder))
    if home is None:
        return {}
    files = {**VIMEO_LISTS, **MOTION_LISTS}
    return {name: _keys_listed(home, f) for name, f in files.items() if (home / f).is_file()}


def read_clip(clip: Clip) -> NDArray[np.uint8]:
    """The frames of `clip` as uint8 RGB, (T, H, W, 3); grey is repeated, alpha dropped.

    Raises UserError, naming the clip and the frame, for an image that cannot be read in full,
    is not 8-bit RGB or grey, or differs in size from the clip's first; naming the clip, where a
    packed file is damaged.
    """
    return read_with_crc32(clip)[0]


def read_with_crc32(clip: Clip) -> tuple[NDArray[np.uint8], int]:
    """`read_clip` and its `source_crc32`, which a packed file knows already."""
    if isinstance(clip.frames, range):
        assert clip.place
        return packed.opened(clip.place.file).read(clip.key, clip.place.number, clip.frames)
    frames = _read_files(clip, clip.frames)
    return frames, source_crc32(frames)


def frame_size(clip: Clip) -> tuple[int, int]:
    """Height and width of the first frame of a clip of files, from its header alone."""
    assert isinstance(clip.frames, tuple)
    try:
        with Image.open(io.BytesIO(_read_bytes(clip, clip.frames[0]))) as image:
            return image.height, image.width
    except (OSError, SyntaxError) as error:
        raise _unreadable(clip, clip.frames[0]) from error


def source_crc32(frames: NDArray[np.uint8]) -> int:
    """The crc32 of the frames' bytes: what a cache entry remembers of what it was made from."""
    return zlib.crc32(np.ascontiguousarray(frames).data)


def _packed_clips(file: Path, split: Split | None) -> list[Clip]:
    """In the order of the folder's own lists, or of its names."""
    found = packed.opened(file)
    keys = sorted(found.keys, key=_natural_path)
    if split and not found.lists.keys().isdisjoint(SPLITS):
        if split not in found.lists:
            raise UserError(
                f"{file} has no {split} clips: it was packed from {found.source} without that "
                "list; pack both"
            )
        keys = found.lists[split]
    places = {key: packed.Place(file, index) for index, key in enumerate(found.keys)}
    lengths = found.shapes[:, 0].tolist()
    return [Clip(key, range(lengths[places[key].number]), places[key]) for key in keys]


def _recognise(root: Path, split: Split | None) -> list[Clip]:
    home = _vimeo_home(root)
    if home:
        return _vimeo_clips(home, split)
    clips = _frame_clips(root)
    if not clips and (root / "GT").is_dir():
        clips = _frame_clips(root / "GT")
    if not clips:
        raise UserError(
            f"no clips in {root}: looked for sequences/ (Vimeo90K), for folders of frames and for "
            f"frames ({', '.join(sorted(s[1:] for s in FRAME_SUFFIXES))}), there and in GT/"
        )
    return clips


def _vimeo_home(root: Path) -> Path | None:
    homes = (root, root / "vimeo_septuplet")
    return next((home for home in homes if (home / "sequences").is_dir()), None)


def _vimeo_clips(home: Path, split: Split | None) -> list[Clip]:
    sequences = home / "sequences"
    keys = _keys_on_disk(sequences) if split is None else _keys_listed(home, VIMEO_LISTS[split])
    origin = str(sequences) if split is None else VIMEO_LISTS[split]
    if not keys:
        raise UserError(f"no clips: {origin} in {home} is empty")
    return [_vimeo_clip(sequences, key, origin) for key in keys]


def _keys_listed(home: Path, name: str) -> list[str]:
    path = home / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: it lists the clips of the split asked for")
    lines = path.read_text(encoding="utf-8").splitlines()
    # Some copies of the lists carry the clip's shape after its key. A key listed twice counts once.
    return list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))


def _keys_on_disk(sequences: Path) -> list[str]:
    return [
        f"{group.name}/{clip.name}" for group in _folders(sequences) for clip in _folders(group)
    ]


def _vimeo_clip(sequences: Path, key: str, origin: str) -> Clip:
    folder = sequences / key
    remedy = "the data set is incomplete; download it again or take the clip off the list"
    try:
        present = {path.name for path in folder.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"clip {key} of {origin} has no folder: {remedy}") from None
    for name in VIMEO_FRAMES:
        if name not in present:
            raise FileNotFoundError(f"clip {key} of {origin} lacks {name}: {remedy}")
    return Clip(key, tuple(folder / name for name in VIMEO_FRAMES))


def _frame_clips(root: Path) -> list[Clip]:
    """The folders of frames in `root`, else `root` itself as one clip, else nothing."""
    clips = [Clip(sub.name, _frames(sub)) for sub in _folders(root)]
    found = [clip for clip in clips if clip.frames]
    if not found:
        frames = _frames(root)
        return [Clip(root.resolve().name, frames)] if frames else []
    for clip in clips:
        # Folders with something else in them may be anything; an empty one is a clip gone missing.
        if not clip.frames and not any((root / clip.key).iterdir()):
            raise FileNotFoundError(
                f"clip {clip.key} in {root} has no frames: the data set is incomplete; fill the "
                "folder or remove it"
            )
    return found


def _frames(folder: Path) -> tuple[Path, ...]:
    paths = [path for path in _visible(folder) if path.suffix.lower() in FRAME_SUFFIXES]
    stems: dict[str, Path] = {}
    for path in paths:
        if (twin := stems.setdefault(path.stem, path)) is not path:
            raise UserError(
                f"{folder} holds both {twin.name} and {path.name}: which is the frame? Keep one"
            )
    return tuple(paths)


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if not e.name.startswith(".") and e.is_dir()]
    return [folder / name for name in sorted(names, key=_natural)]


def _visible(folder: Path) -> list[Path]:
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(paths, key=lambda path: _natural(path.name))


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sorts "Frame 2" before "Frame 10"; the name itself settles "01" against "1"."""
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if part.isdecimal() else part for part in parts], name


def _natural_path(key: str) -> list[tuple[list[str | int], str]]:
    """Sorts the keys of clips in folders as the folders themselves are sorted."""
    return [_natural(name) for name in key.split("/")]


def _cut(clip: Clip, length: int) -> Iterator[Clip]:
    num_frames = len(clip.frames)
    if num_frames < length:
        raise UserError(
            f"clip {clip.key} has {num_frames} frames, but {length} are asked for: use a smaller "
            "length or remove the clip"
        )
    if num_frames == length:
        yield clip
        return
    for start in range(0, num_frames - length + 1, length):
        yield Clip(f"{clip.key}/{start:06d}", clip.frames[start : start + length], clip.place)


def _read_files(clip: Clip, paths: tuple[Path, ...]) -> NDArray[np.uint8]:
    first = _read_frame(clip, paths[0])
    frames = np.empty((len(paths), *first.shape), np.uint8)
    frames[0] = first
    for index, path in enumerate(paths[1:], start=1):
        frame = _read_frame(clip, path)
        if frame.shape != first.shape:
            raise UserError(
                f"clip {clip.key}: {paths[0].name} is {_size(first)}, but {path.name} is "
                f"{_size(frame)}: frames of one clip must have one size"
            )
        frames[index] = frame
    return frames


def _read_frame(clip: Clip, path: Path) -> NDArray[np.uint8]:
    """One frame, (H, W, 3) uint8."""
    data = _read_bytes(clip, path)
    try:
        # From bytes, through one plugin: given a path, imageio tries a dozen, and leaves it open.
        with iio.imopen(io.BytesIO(data), "r", plugin="pillow") as image:
            mode = str(image.metadata(index=0, exclude_applied=False)["mode"])
            pixels = image.read(index=0)
    except Exception as error:  # Pillow reports damage as OSError, SyntaxError, ValueError and more
        raise _unreadable(clip, path) from error
    if mode not in READABLE_MODES or _is_deep_png(data):
        deep = "16-bit " if _is_deep_png(data) else ""
        raise UserError(
            f"clip {clip.key}: {path.name} is a {deep}{mode} image: convert it to 8-bit RGB or grey"
        )
    return _to_rgb(pixels)


def _read_bytes(clip: Clip, path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"clip {clip.key}: {path} cannot be read ({reason})") from error
    # A decoder stops at the last pixel it needs; a PNG without its last chunk was cut off.
    if not data or (data.startswith(PNG_START) and PNG_END not in data):
        raise _unreadable(clip, path)
    return data


def _is_deep_png(data: bytes) -> bool:
    """Whether a PNG has 16 bits a channel: Pillow would drop the lower eight of RGB in silence."""
    return data.startswith(PNG_START) and data[PNG_DEPTH_AT] == 16


def _to_rgb(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    levels = pixels.astype(np.uint8) * (255 if pixels.dtype == np.bool_ else 1)
    channels = levels[..., None] if levels.ndim == 2 else levels
    colour = channels[..., :1] if channels.shape[-1] < 3 else channels[..., :3]
    return np.ascontiguousarray(np.broadcast_to(colour, (*colour.shape[:2], 3)), np.uint8)


def _unreadable(clip: Clip, path: Path) -> ValueError:
    return ValueError(f"clip {clip.key}: {path} cannot be read (truncated download?)")


def _size(frame: NDArray[np.uint8]) -> str:
    return f"{frame.shape[1]}x{frame.shape[0]}"
