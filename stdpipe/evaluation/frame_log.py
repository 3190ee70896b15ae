"""The files of an evaluation while it runs, and how they replace those of an older one.

OUT/unfinished/  while the evaluation runs: definition.json says what is measured, frames.csv has a
                 line for each network, clip and scored frame, pictures/ holds the pictures
OUT/             the same without definition.json, and with result.json and table.md

The files in OUT stay until the new result is complete. The same command resumes after a stop.
"""

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from stdpipe.cache.errors import UserError
from stdpipe.cache.files import fsync, write_atomically
from stdpipe.cache.schema import check, read_bytes, read_json

Row = dict[str, float]  # a frame's figures by name, and its number as `frame`
Clips = dict[str, list[Row]]  # a clip's key -> a row for each scored frame

UNFINISHED = "unfinished"


class FrameLog:
    """The frames scored so far; with a folder `out`, written to disk clip by clip.

    `definition` is all that the figures depend on: the log of another definition is deleted.
    `lengths`: clip -> number of its scored frames.
    """

    def __init__(
        self,
        out: Path | None,
        definition: Mapping[str, Any],
        networks: Sequence[str],
        lengths: Mapping[str, int],
        figures: Iterable[str],
    ) -> None:
        self.columns = ("network", "clip", "frame", *figures)
        self.networks: dict[str, Clips] = {name: {} for name in networks}
        self.folder = out and out / UNFINISHED
        if self.folder:
            self._go_on(self.folder, dict(definition), lengths)

    @property
    def done(self) -> set[str]:
        """Return the clips that are complete for all networks."""
        return set.intersection(*(set(clips) for clips in self.networks.values()))

    def add(self, clip: str, rows: Mapping[str, list[Row]]) -> None:
        """Add one clip's scored frames, by network; they are on disk when this returns."""
        for network, frames in rows.items():
            self.networks[network][clip] = frames
        if self.folder:
            with (self.folder / "frames.csv").open("a", newline="") as file:
                file.write(self._lines([clip]))
                file.flush()
                os.fsync(file.fileno())

    def finish(self, out: Path, result: Mapping[str, Any], table: str) -> None:
        """Write result.json and table.md, and move all files into `out`."""
        made, text = out / UNFINISHED, json.dumps(result, indent=2, allow_nan=False)
        write_atomically(made / "table.md", table + "\n")
        write_atomically(made / "result.json", text + "\n")
        publish(out)

    def _go_on(self, folder: Path, definition: dict[str, Any], lengths: Mapping[str, int]) -> None:
        mark, frames = folder / "definition.json", folder / "frames.csv"
        head = ",".join(self.columns) + "\n"
        if unfinished(folder.parent) != definition:
            shutil.rmtree(folder, ignore_errors=True)
        elif frames.is_file() and read_bytes(frames).startswith(head.encode()):
            found = read_frames(frames, whole=False)
            for name in self.networks:  # a clip that lacks a frame is measured again
                clips = found.get(name, {}).items()
                self.networks[name] = {k: rows for k, rows in clips if len(rows) == lengths.get(k)}
        kept = [clip for clip in lengths if clip in self.done]
        write_atomically(frames, head + self._lines(kept))
        write_atomically(mark, json.dumps(definition, indent=2) + "\n")

    def _lines(self, clips: Iterable[str]) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, restval="", lineterminator="\n")
        for clip in clips:
            for network, of_network in self.networks.items():
                writer.writerows({"network": network, "clip": clip, **r} for r in of_network[clip])
        return text.getvalue()


def read_frames(file: Path, *, whole: bool = True) -> dict[str, Clips]:
    """Read a frames.csv: network -> clip -> rows; nothing where the file is gone.

    Raises UserError at a damaged line; without `whole`, that line and all after it are left out.
    """
    found: dict[str, Clips] = {}
    text = read_bytes(file).decode(errors="replace").replace("\0", "") if file.is_file() else ""
    text = text if whole else text[: text.rfind("\n") + 1]
    try:
        for line in csv.DictReader(io.StringIO(text)):
            figures = {k: float(v) for k, v in line.items() if k not in ("network", "clip") and v}
            row = {**figures, "psnr_y": figures["psnr_y"], "frame": int(line["frame"])}
            found.setdefault(line["network"], {}).setdefault(line["clip"], []).append(row)
    except (KeyError, TypeError, ValueError, csv.Error):
        if whole:
            raise UserError(f"{file} is damaged: remove it, or evaluate again") from None
    return found


def unfinished(out: Path) -> dict[str, Any] | None:
    """Return the definition of the evaluation that is unfinished in OUT, None if none can go on."""
    mark = out / UNFINISHED / "definition.json"
    with suppress(UserError, FileNotFoundError):
        return check(dict[str, Any], read_json(mark), str(mark))
    return None


def publish(out: Path) -> None:
    """Move a complete evaluation, if there is one, from OUT/unfinished to OUT, result.json last.

    If the process dies on the way, the next call resumes.
    """
    made = out / UNFINISHED
    if not (made / "result.json").is_file():
        return
    if (made / "pictures").is_dir():
        shutil.rmtree(out / "pictures", ignore_errors=True)
    for name in ("pictures", "frames.csv", "table.md", "result.json"):
        if (made / name).exists():
            (made / name).replace(out / name)
    fsync(out)
    shutil.rmtree(made)
    (out / "unfinished.json").unlink(missing_ok=True)  # written by stdpipe 0.1.0
