"""Write the LR frames of a data set, as every command makes them of HR.

clips -> LR of each, a folder of PNG files under its key -> the data set's lists. The same command
goes on where it was stopped. LR that lies so can be given to every command by --lr.
"""

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import imageio.v3 as iio
from tqdm import tqdm

from stdpipe.cache.errors import UserError
from stdpipe.cache.files import PARTIAL, fsync, locked, write_atomically
from stdpipe.cache.schema import read_json
from stdpipe.data import named
from stdpipe.data.camera import encoder
from stdpipe.data.degrade import degradation
from stdpipe.data.frames import Clip
from stdpipe.data.layouts import MOTION_LISTS, VIMEO_FRAMES, VIMEO_LISTS, vimeo_lists
from stdpipe.data.pairs import find_pairs, lr_frames
from stdpipe.data.sizes import check_sizes

MADE_BY = "degraded.json"  # in OUT: of what, and by what, its LR was made
SEQUENCES = "sequences"
SEPTUPLET = tuple(Path(frame).stem for frame in VIMEO_FRAMES)


def degrade_data(data: Path, out: Path, how: str = "bd") -> dict[str, Any]:
    """Write the LR of all clips of a data set into the folder `out`; return a summary.

    A clip lies under its key, in Vimeo90K's layout where HR does, its frames under the names of
    HR's, else numbered. Raises UserError where `out` holds other LR, or no LR at all,
    for LR that is given already, and for frames that cannot be read.
    """
    made = degradation(how)
    if made.is_given:
        raise UserError(f"{how} is LR that is there already: name a degradation that makes it")
    if named.parse(data).lr:
        raise UserError(f"{data} has LR that is given: leave lr= out to make LR of HR")
    clips = find_pairs(data, None, how)
    check_sizes(clips, scale=made.scale)
    lists = vimeo_lists(data)
    is_vimeo = bool(lists) and all(clip.names == SEPTUPLET for clip in clips)
    facts = {"data": str(data.absolute()), "degradation": how}
    facts |= {"encoder": encoder()} if made.camera else {}
    busy = f"another process degrades into {out}: wait for it, or choose another folder"
    _refuse_other(out, facts)
    with locked(out / ".lock", busy):
        write_atomically(out / MADE_BY, json.dumps(facts, indent=2) + "\n")
        home = out / SEQUENCES if is_vimeo else out
        with tqdm(clips, unit="clip", desc="degrade", disable=None) as bar:
            for clip in bar:
                _write(clip, home / clip.key, how)
        for name, keys in lists.items() if is_vimeo else ():
            file = (VIMEO_LISTS | MOTION_LISTS)[name]
            write_atomically(out / file, "".join(f"{key}\n" for key in keys))
        (out / ".lock").unlink()
    frames = sum(len(clip.frames) for clip in clips)
    return {"out": str(out), "clips": len(clips), "frames": frames, **facts}


def _refuse_other(out: Path, facts: dict[str, str]) -> None:
    """Refuse a folder that holds something else than a part of this LR."""
    if not out.exists():
        return
    if not (out / MADE_BY).is_file():
        if not out.is_dir() or any(
            p.name[0] != "." for p in out.iterdir()
        ):  # locks, and torn files
            raise UserError(f"{out} is there, and none of degrade's: choose another folder")
        return
    there = read_json(out / MADE_BY)
    if there != facts:
        odd = next(k for k in {**there, **facts} if there.get(k) != facts.get(k))
        raise UserError(
            f"{out} holds LR of {odd} {there.get(odd)}, and {facts.get(odd)} is asked for: choose "
            "another folder, or remove it"
        )


def _write(clip: Clip, folder: Path, how: str) -> None:
    """Write the LR of a clip, unless it is there."""
    if folder.exists():
        return
    aside = folder.with_name(f".{folder.name}{PARTIAL}")
    if aside.is_symlink():
        raise UserError(f"{aside} is a symbolic link: remove it")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    count = len(clip.frames)
    names = clip.names or tuple(f"{number:08d}" for number in range(count))
    with closing(lr_frames(clip, how, 0, count)) as frames:
        for name, lr in zip(names, frames, strict=True):
            levels = (lr[0] * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
            file = aside / f"{name}.png"
            iio.imwrite(file, levels)
            fsync(file)
    fsync(aside)
    aside.replace(folder)
    fsync(folder.parent)
