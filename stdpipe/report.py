"""Show evaluations and training runs on one self-contained HTML page.

read -> run each network again on a few frames -> render -> write.

OUT/index.html is the page; OUT/parts keeps the networks' output, so that the same command resumes.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from stdpipe.cache.errors import UserError
from stdpipe.cache.files import write_atomically
from stdpipe.data.frames import Clip
from stdpipe.data.pairs import find_pairs
from stdpipe.device import keep_memory, pick_device
from stdpipe.models.base import Network
from stdpipe.reporting.clip_pictures import Detail, Gallery
from stdpipe.reporting.inputs import Labels, Measured, ResultGroup, read_folders, read_times
from stdpipe.reporting.page import Content, render
from stdpipe.reporting.shots import load_again, load_or_make, take_shot
from stdpipe.reporting.tables import Table

# tried in turn until the page is small enough
DETAILS = (Detail(960, 480, 4, 82), Detail(720, 360, 3, 75), Detail(560, 280, 2, 65))


def write_report(
    folders: Sequence[Path],
    out: Path,
    *,
    clips: int | str = 3,
    frames: int = 15,
    labels: Labels | None = None,
    bench: Path | None = None,
    tables: Sequence[Table] = (),
    title: str = "stdpipe report",
    device: str = "auto",
    limit: int = 20_000_000,
) -> dict[str, Any]:
    """Write OUT/index.html, at most `limit` bytes; return its path, size and what is missing.

    folders: those of `evaluate --out` and of training runs, in any order. Pictures also need the
    data and weights that were measured; the page lists those that are gone.
    clips: how many clips of each data set to show, or as text their keys with commas between; a
    number as text is a key if a clip has it. frames: the most frames of a clip to run networks on.
    labels: see read_folders. bench: what `stdpipe bench --json` printed. tables: more tables, which
    come first.
    Raises UserError or OSError for a folder that is neither an evaluation nor a training run.
    """
    times = read_times(bench) if bench else {}
    groups, runs, missing = read_folders(folders, labels, times)
    if not (groups or runs or tables):
        raise UserError(f"nothing to report: {' '.join(missing) or 'no folder was given'}")
    on = pick_device(device)
    keep_memory(on)
    galleries = [
        _galleries(group, wanted, frames, out / "parts", on, missing)
        for group, wanted in zip(groups, _wanted(clips, groups), strict=True)
    ]
    made = f"Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by stdpipe {version('stdpipe')}."
    content = Content(title, made, tables, groups, galleries, runs, missing)
    page, shown = _fitted(content, limit)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "index.html", page)
    return {
        "report": str(out / "index.html"),
        "bytes": len(page.encode()),
        "networks": list(dict.fromkeys(e.label for group in groups for e in group.entries)),
        "runs": [run.label for run in runs],
        "clips": [gallery.shot.clip for some in galleries for gallery in some],
        "missing": shown.missing,
    }


def _wanted(clips: int | str, groups: Sequence[ResultGroup]) -> list[list[str]]:
    """Return the keys of each group's clips to show. A number in text may be one of them."""
    is_count = isinstance(clips, int) or re.fullmatch("0|[1-9][0-9]{0,8}", clips)
    if is_count and not any(clips in group.clips for group in groups):
        return [list(group.clips)[: int(clips)] for group in groups]
    return [[key.strip() for key in str(clips).split(",")] for _ in groups]


def _galleries(
    group: ResultGroup,
    wanted: list[str],
    frames: int,
    parts: Path,
    on: torch.device,
    missing: list[str],
) -> list[Gallery]:
    """Make the pictures of a group's clips; add what is gone to `missing`."""
    chosen = _clips(group, wanted, missing)
    nets = _networks(group, missing) if chosen else []
    lr = group.degradation["name"], group.protocol["lr_8bit"]
    found = []
    with tqdm(total=len(chosen) * len(nets), unit="network", desc=group.title, disable=None) as bar:
        for clip in chosen:
            with _noting(missing, f"clip {clip.key}"):
                shot, pieces = take_shot(clip, *lr, frames, [net for _, net in nets])
                gallery = Gallery(shot, {}, {}, [])
                for entry, net in nets:
                    with _noting(gallery.gone, entry.label):
                        made = load_or_make(parts, entry.facts, net, shot, pieces, on)
                        gallery.made[entry.label] = made
                    for row in entry.frames.get(clip.key, ()):
                        if row["frame"] == shot.frame:
                            gallery.psnr[entry.label] = row["psnr_y"]
                    bar.update()
                found.append(gallery)
    return found


@contextmanager
def _noting(missing: list[str], what: str) -> Iterator[None]:
    """Note in `missing` why there are no pictures of something, and continue."""
    try:
        yield
    except (UserError, OSError) as error:
        missing.append(f"No pictures of {what}: {error}.")


def _clips(group: ResultGroup, wanted: Sequence[str], missing: list[str]) -> list[Clip]:
    """Return the wanted clips that still exist."""
    there: dict[str, Clip] = {}
    how = group.degradation["name"]
    with _noting(missing, group.title):
        there = {c.key: c for c in find_pairs(Path(group.data), "test", how)} if wanted else {}
        gone = [key for key in wanted if key not in there]
        missing += [f"No pictures of clip {key}: it is not in {group.data}." for key in gone]
    return [there[key] for key in wanted if key in there]


def _networks(group: ResultGroup, missing: list[str]) -> list[tuple[Measured, Network]]:
    """Load the networks that can be run again, each only once."""
    found: dict[tuple[str, str | None], tuple[Measured, Network]] = {}
    for entry in group.entries:
        key = (str(entry.facts["model"]), entry.facts["weights_sha256"])
        if key not in found:
            with _noting(missing, entry.label):
                found[key] = entry, load_again(entry.facts)
    return list(found.values())


def _fitted(content: Content, limit: int) -> tuple[str, Content]:
    """Render as many and as large pictures as the limit allows; return the page and its content."""
    most = max(map(len, content.galleries), default=0)
    attempts = [(detail, most) for detail in DETAILS]
    attempts += [(DETAILS[-1], kept) for kept in reversed(range(most))]
    for detail, kept in attempts:
        wide = f"whole frames are at most {detail.frame_width} pixels wide"
        gone = [gallery.shot.clip for some in content.galleries for gallery in some[kept:]]
        left_out = f", and clips are left out: {', '.join(gone)}" if gone else ""
        told = f"To stay under {limit / 1e6:g} MB, {wide}{left_out}."
        shown = content._replace(
            galleries=[some[:kept] for some in content.galleries],
            missing=[*content.missing, *([told] if detail != DETAILS[0] else [])],
        )
        page = render(shown, detail)
        if len(page.encode()) <= limit:
            return page, shown
    size = f"{len(page.encode()):,} bytes without any picture, more than {limit:,}"
    raise UserError(f"the page is {size}: give fewer folders")
