"""The files of an evaluation while it runs, and how they replace those of an older one.

OUT/unfinished/  while the evaluation runs: definition.json says what is measured, frames.csv has a
                 line for each network, clip and scored frame, clips.jsonl says which clips are
                 done, of which frames of the data, pictures/ holds the pictures
OUT/             frames.csv, pictures/, table.md, and result.json with a sum of each of them

The files in OUT stay until the new result is complete. The same command resumes after a stop.
"""

import csv
import hashlib
import io
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12 on only

from stdpipe.cache.checksum import crc32c
from stdpipe.cache.errors import DamagedError, UserError
from stdpipe.cache.files import PARTIAL, fsync, write_atomically
from stdpipe.cache.schema import check, check_json, read_bytes, read_json
from stdpipe.cache.seal import seal, unseal
from stdpipe.data.pieces import Origin
from stdpipe.models.checkpoints import file_sha256
from stdpipe.templates import csv_cell, from_csv_cell

Row = dict[str, float]  # a frame's figures by name, and its number as `frame`
Clips = dict[str, list[Row]]  # a clip's key -> a row for each scored frame

UNFINISHED, FRAMES, CLIPS = "unfinished", "frames.csv", "clips.jsonl"
OURS = {"definition.json", FRAMES, CLIPS, "pictures", "table.md", "result.json"}  # in UNFINISHED
MOST_ROWS = 2**20  # of a frames.csv; of all of Vimeo90K, 130 networks make as many
LOG = logging.getLogger(__name__)


class FrameLog:
    """The frames scored so far; with a folder `out`, written to disk clip by clip.

    `definition` is all that the figures depend on, but for the frames: the log of another
    definition is deleted. `lengths`: clip -> number of its scored frames. `now` returns what the
    frames behind a clip's figures are now: where they have changed, the clip is measured again.
    """

    def __init__(
        self,
        out: Path | None,
        definition: Mapping[str, Any],
        networks: Sequence[str],
        lengths: Mapping[str, int],
        figures: Iterable[str],
        now: Callable[[str, Origin], Origin],
    ) -> None:
        self.columns = ("network", "clip", "frame", *figures)
        self.networks: dict[str, Clips] = {name: {} for name in networks}
        self.origins: dict[str, Origin] = {}  # of the clips that are complete for all networks
        self.folder = out and out / UNFINISHED
        if self.folder:
            self._go_on(self.folder, dict(definition), lengths, now)

    @property
    def done(self) -> set[str]:
        """Return the clips that are complete for all networks."""
        return {*self.origins}

    def add(self, clip: str, rows: Mapping[str, list[Row]], origin: Origin) -> None:
        """Add one clip's scored frames, by network; they are on disk when this returns."""
        for network, frames in rows.items():
            self.networks[network][clip] = frames
        self.origins[clip] = origin
        if self.folder:
            lines = self._lines(clip)
            _append(self.folder / FRAMES, lines)
            _append(self.folder / CLIPS, self._mark(clip, lines))

    def finish(self, out: Path, result: Mapping[str, Any], table: str) -> dict[str, Any]:
        """Write result.json and table.md, and move all files into `out`; return the result with the
        SHA-256 of each file beside it."""
        made = out / UNFINISHED
        write_atomically(made / "table.md", table + "\n")
        names = [FRAMES, "table.md", *sorted(f"pictures/{x.name}" for x in made.glob("pictures/*"))]
        whole = {**result, "files": {name: file_sha256(made / name) for name in names}}
        write_atomically(made / "result.json", seal(whole, indent=2))
        publish(out)
        return whole

    def _go_on(
        self,
        folder: Path,
        definition: dict[str, Any],
        lengths: Mapping[str, int],
        now: Callable[[str, Origin], Origin],
    ) -> None:
        _refuse_foreign(folder.parent)
        if unfinished(folder.parent) != definition:
            shutil.rmtree(folder, ignore_errors=True)
        for clip, mark, rows in self._written(folder):
            if any(len(rows.get(name, {}).get(clip, ())) != lengths.get(clip) for name in rows):
                continue
            if now(clip, mark["origin"]) != mark["origin"]:
                told = "stdpipe: clip %s has other frames now than when it was measured: once more"
                LOG.warning(told, clip)
                continue
            self.origins[clip] = mark["origin"]
            for name, clips in self.networks.items():
                clips[clip] = rows[name][clip]
        kept = {clip: self._lines(clip) for clip in lengths if clip in self.origins}
        marks = b"".join(self._mark(clip, lines) for clip, lines in kept.items())
        write_atomically(folder / FRAMES, self._head + b"".join(kept.values()))
        write_atomically(folder / CLIPS, marks)
        write_atomically(folder / "definition.json", json.dumps(definition, indent=2) + "\n")

    def _written(self, folder: Path) -> Iterator[tuple[str, "_Mark", dict[str, Clips]]]:
        """Yield each clip that is done, with its rows by network; up to the first damage."""
        with suppress(UserError, FileNotFoundError):
            content, marks = read_bytes(folder / FRAMES), read_bytes(folder / CLIPS)
            at = len(head := self._head)
            for line in io.BytesIO(marks) if content.startswith(head) else ():
                mark = check_json(_Mark, unseal(line), str(folder / CLIPS))
                lines = content[at : at + mark["bytes"]]
                if crc32c(lines) != mark["lines"]:
                    return
                at += len(lines)
                rows = _rows((head + lines).decode(), folder / FRAMES)
                yield mark["clip"], mark, rows

    @property
    def _head(self) -> bytes:
        return (",".join(self.columns) + "\n").encode()

    def _mark(self, clip: str, lines: bytes) -> bytes:
        """Return the line of clips.jsonl that says that a clip's lines are in frames.csv."""
        of_lines = {"bytes": len(lines), "lines": crc32c(lines)}
        return seal({"clip": clip, **of_lines, "origin": self.origins[clip]})

    def _lines(self, clip: str) -> bytes:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, restval="", lineterminator="\n")
        for network, of_network in self.networks.items():
            names = {"network": csv_cell(network), "clip": csv_cell(clip)}
            writer.writerows({**names, **row} for row in of_network[clip])
        return text.getvalue().encode()


class _Mark(TypedDict):
    """A line of clips.jsonl, which commits a clip's lines in frames.csv."""

    clip: str
    bytes: int
    lines: int  # the CRC-32C of those bytes
    origin: Origin


def _append(file: Path, content: bytes) -> None:
    with file.open("ab") as stream:
        stream.write(content)
        stream.flush()
        fsync(stream.fileno())


def read_frames(file: Path, sha256: str | None = None) -> dict[str, Clips]:
    """Read a frames.csv: network -> clip -> rows; nothing where the file is gone.

    Raises DamagedError where it has not the SHA-256 that its result gives, and UserError at a
    damaged line.
    """
    if not file.is_file():
        return {}
    refuse_changed(file, sha256)
    return _rows(read_bytes(file).decode(errors="replace").replace("\0", ""), file)


def refuse_changed(file: Path, sha256: str | None) -> None:
    """Raise DamagedError where a file has not the SHA-256 of its result, if that gives one, and
    UserError for one that is far too large to be it."""
    if sha256 and hashlib.sha256(read_bytes(file)).hexdigest() != sha256:
        told = "is not the file that was written with the result beside it: restore it, or evaluate"
        raise DamagedError(f"{file} {told} again with --overwrite")


def _rows(text: str, file: Path) -> dict[str, Clips]:
    found: dict[str, Clips] = {}
    if text.count("\n") > MOST_ROWS:
        raise UserError(f"{file} has more than {MOST_ROWS:,} lines: check it")
    try:
        for line in csv.DictReader(io.StringIO(text)):
            figures = {k: float(v) for k, v in line.items() if k not in ("network", "clip") and v}
            row = {**figures, "psnr_y": figures["psnr_y"], "frame": int(line["frame"])}
            network, clip = map(from_csv_cell, (line["network"], line["clip"]))
            found.setdefault(network, {}).setdefault(clip, []).append(row)
    except (KeyError, TypeError, ValueError, csv.Error):
        raise UserError(f"{file} is damaged: remove it, or evaluate again") from None
    return found


def _refuse_foreign(out: Path) -> None:
    """Raise UserError where OUT has files that this evaluation would remove, and none has written.

    Pictures come with a result.
    """
    made, pictures = out / UNFINISHED, out / "pictures"
    odd = [made] if made.is_symlink() else []
    odd += [p for p in made.glob("[!.]*") if p.name not in OURS and PARTIAL not in p.name]
    odd += [pictures] if pictures.exists() and not (out / "result.json").exists() else []
    if odd:
        raise UserError(
            f"{odd[0]} is none of this evaluation's, which would remove it: move it away, or "
            "choose another --out"
        )


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
        with suppress(OSError):  # what a process left that died at the very end
            made.rmdir()
        return
    for name in ("definition.json", CLIPS):  # nothing is left to go on with
        (made / name).unlink(missing_ok=True)
    if (made / "pictures").is_dir():
        shutil.rmtree(out / "pictures", ignore_errors=True)
    for name in ("pictures", FRAMES, "table.md", "result.json"):
        if (made / name).exists():
            (made / name).replace(out / name)
    fsync(out)
    shutil.rmtree(made)
    (out / "unfinished.json").unlink(missing_ok=True)  # written by stdpipe 0.1.0
