"""Show what evaluations and training runs found: one self-contained HTML page.

read -> run each network again on a few frames -> render -> write. From other code:

    write_report([Path("results/all"), Path("runs/std"), ...], Path("report"), labels={...},
                 tables=[Table(...)]) -> {"report": "report/index.html", "bytes": ..., ...}

Folders of `evaluate --out` and of training, in any order. Figures need those alone; pictures need
the data and weights that were measured, too: what is gone is told on the page, not an error.
OUT/index.html is the page; OUT/parts keeps what networks made, so that the same command goes on.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from stdpipe.cache.errors import UserError
from stdpipe.cache.files import write_atomically
from stdpipe.data.frames import Clip
from stdpipe.data.layouts import find_test_clips
from stdpipe.data.pieces import Piece
from stdpipe.device import keep_memory, pick_device, settle
from stdpipe.models import zoo
from stdpipe.models.base import Network, count_parameters
from stdpipe.models.macs import count_macs
from stdpipe.reporting.clip_pictures import Detail, Gallery
from stdpipe.reporting.inputs import Group, Labels, Measured, read_folders
from stdpipe.reporting.page import Content, render
from stdpipe.reporting.shots import (
    load_again,
    load_made,
    made_file,
    make,
    save_made,
    take_shot,
)
from stdpipe.reporting.tables import Table

__all__ = ["Table", "write_report"]

CLIPS, FRAMES = 3, 15  # shown of each data set; of the span of a temporal profile
LIMIT = 20 * 10**6  # bytes of the page
# tried in turn until the page is small enough
DETAILS = (Detail(960, 480, 4, 82), Detail(720, 360, 3, 75), Detail(560, 280, 2, 65))


def write_report(
    folders: Sequence[Path],
    out: Path,
    *,
    clips: int | str | Sequence[str] = CLIPS,
    frames: int = FRAMES,
    labels: Labels | None = None,
    tables: Sequence[Table] = (),
    title: str = "stdpipe report",
    device: str = "auto",
    limit: int = LIMIT,
) -> dict[str, Any]:
    """Write OUT/index.html, at most `limit` bytes; returns where, its size and what is missing.

    clips: how many of each data set are shown, the first ones; or their keys, a sequence of them or
    text with commas between (text that is a number and no clip's key is a count). frames: how many
    frames of a clip networks are run on, at most. labels: what the page calls a network, by its
    name in results, its weights file or the folder of that; or a training run, by its folder.
    tables: more tables, which come first. Raises UserError or OSError for a folder that is neither
    an evaluation nor a training run.
    """
    inputs = read_folders(folders, labels)
    if not (inputs.groups or inputs.runs or tables):
        raise UserError(f"nothing to report: {' '.join(inputs.missing) or 'no folder was given'}")
    missing = list(inputs.missing)
    groups = [_counted(group) for group in inputs.groups]
    on = pick_device(device)
    keep_memory(on)
    asked = _asked(clips, groups) if isinstance(clips, str) else clips
    galleries = {
        number: _galleries(group, asked, frames, out / "parts", on, missing)
        for number, group in enumerate(groups)
    }
    made = f"Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by stdpipe {version('stdpipe')}."
    content = Content(title, made, tables, groups, galleries, inputs.runs, missing)
    page, missing = _rendered(content, limit)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "index.html", page)
    return {
        "report": str(out / "index.html"),
        "bytes": len(page.encode()),
        "networks": list(dict.fromkeys(e.label for group in groups for e in group.entries)),
        "runs": [run.label for run in inputs.runs],
        "clips": [g.shot.clip for some in galleries.values() for g in some],
        "missing": missing,
    }


def _asked(clips: str, groups: Sequence[Group]) -> int | list[str]:
    """Read "3" or "walk,foliage". A clip that is called by a number wins over the count."""
    is_count = re.fullmatch("0|[1-9][0-9]{0,8}", clips)
    if is_count and not any(clips in group.clips for group in groups):
        return int(clips)
    return [key.strip() for key in clips.split(",")]


def _counted(group: Group) -> Group:
    """Add parameters and MACs of the networks whose evaluation did not count them."""
    costs = [
        entry.facts.get("cost") or _count(str(entry.facts["model"])) for entry in group.entries
    ]
    entries = [
        dataclasses.replace(entry, facts={**entry.facts, "cost": cost})
        for entry, cost in zip(group.entries, costs, strict=True)
    ]
    return dataclasses.replace(group, entries=entries)


def _count(name: str) -> dict[str, int] | None:
    try:
        net = zoo.parse_trusted(name, "the result").build()
    except UserError:
        return None  # a user's own network: a file must not have us import it
    return {"parameters": count_parameters(net), "macs": count_macs(net).total}


def _galleries(
    group: Group,
    clips: int | Sequence[str],
    frames: int,
    parts: Path,
    device: torch.device,
    missing: list[str],
) -> list[Gallery]:
    """Make the pictures of a group's clips; what cannot be had is added to `missing`."""
    chosen = _chosen(group, clips, missing)
    nets = _networks(group, missing) if chosen else []
    k = max((net.num_frame // 2 for _, net in nets), default=0)
    lr = group.degradation["name"], group.protocol["lr_8bit"]
    found = []
    with tqdm(total=len(chosen) * len(nets), unit="network", desc=group.title, disable=None) as bar:
        for clip in chosen:
            try:
                shot, pieces = take_shot(clip, *lr, frames, k)
            except (UserError, OSError) as error:
                missing.append(f"No pictures of clip {clip.key}: {error}.")
                continue
            gallery = Gallery(shot, {}, {}, [])
            for entry, net in nets:
                _show(gallery, entry, net, pieces, parts, device)
                bar.update()
            found.append(gallery)
    return found


def _show(
    gallery: Gallery,
    entry: Measured,
    net: Network,
    pieces: Sequence[Piece],
    parts: Path,
    device: torch.device,
) -> None:
    """Add a network to a clip's gallery, from an earlier report's file or made now and kept."""
    shot = gallery.shot
    psnr = entry.frames.get(shot.clip, {}).get(shot.frame)
    if psnr is not None:
        gallery.psnr[entry.label] = psnr
    file = made_file(parts, entry.facts, shot)
    made = load_made(file)
    if made is None:
        try:
            made = make(settle(net, device), shot, pieces, device)
        except UserError as error:
            gallery.gone.append(f"No pictures of {entry.label}: {error}.")
            return
        save_made(file, made)
    gallery.made[entry.label] = made


def _chosen(group: Group, clips: int | Sequence[str], missing: list[str]) -> list[Clip]:
    """Return the clips to show that are still there."""
    wanted = list(group.clips)[:clips] if isinstance(clips, int) else list(clips)
    try:
        there = {c.key: c for c in find_test_clips(Path(group.data))} if wanted else {}
    except (UserError, OSError) as error:
        missing.append(f"No pictures of {group.title}: {error}.")
        return []
    for key in wanted:
        if key not in there:
            missing.append(f"No pictures of clip {key}: it is not in {group.data}.")
    return [there[key] for key in wanted if key in there]


def _networks(group: Group, missing: list[str]) -> list[tuple[Measured, Network]]:
    """Load the networks that can be run again, each once."""
    found: dict[tuple[str, str | None], tuple[Measured, Network]] = {}
    for entry in group.entries:
        key = (str(entry.facts["model"]), entry.facts["weights_sha256"])
        if key in found:
            continue
        try:
            found[key] = entry, load_again(entry.facts)
        except (UserError, OSError) as error:
            missing.append(f"No pictures of {entry.label}: {error}.")
    return list(found.values())


def _rendered(content: Content, limit: int) -> tuple[str, list[str]]:
    """Render with as many and as large pictures as the limit allows.

    Returns the page, and what it says is missing.
    """
    for detail, kept in _attempts(content.galleries):
        galleries = {number: some[:kept] for number, some in content.galleries.items()}
        missing = [*content.missing, *_trimmed(content.galleries, detail, kept, limit)]
        page = render(content._replace(galleries=galleries, missing=missing), detail)
        if len(page.encode()) <= limit:
            return page, missing
    raise UserError(
        f"the page is {len(page.encode()):,} bytes without any picture, more than {limit:,}: give "
        "fewer folders"
    )


def _attempts(galleries: Mapping[int, Sequence[Gallery]]) -> Iterator[tuple[Detail, int]]:
    most = max(map(len, galleries.values()), default=0)
    yield from ((detail, most) for detail in DETAILS)
    yield from ((DETAILS[-1], kept) for kept in reversed(range(most)))


def _trimmed(
    galleries: Mapping[int, Sequence[Gallery]], detail: Detail, kept: int, limit: int
) -> list[str]:
    if detail == DETAILS[0]:
        return []
    gone = ", ".join(g.shot.clip for some in galleries.values() for g in some[kept:])
    left_out = f", and clips are left out: {gone}" if gone else ""
    wide = f"whole frames are at most {detail.frame_width} pixels wide"
    return [f"To stay under {limit / 1e6:g} MB, {wide}{left_out}."]
