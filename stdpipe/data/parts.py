"""Keep frames that are done beside an output until all are there, so that a killed run goes on.

The hidden folder of an output holds its frames, in parts of whole files, and a journal of the parts
that are complete, with what the next frame needs. What the journal does not name is done again.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from stdpipe.cache.errors import UserError
from stdpipe.cache.files import PARTIAL, crc32_of, fsync, locked, write_atomically
from stdpipe.cache.schema import read_bytes
from stdpipe.data.video_writer import Write

JOURNAL = "journal"  # a line of JSON for the job, then one for each part
# the names in the folder, and of files that were being written to it
OURS = re.compile(r"frames|old|lock.*|journal|state-\d+|\.(journal|state-\d+)\.\w+\.partial")
OLD = "old"  # the output that was there, while the new one takes its name


class Output(NamedTuple):
    """A way to write frames."""

    part: Callable[[Path, int], AbstractContextManager[Write]]
    """Opens a part of whole files in a folder, whose first frame has that number."""
    finish: Callable[[Path], list[str]]
    """Makes the output of a folder of parts, and says what it could not hold."""


class Parts:
    """The frames of an output that are done: `done` in number, and the `state` that the last part
    ended with. `job` says what they were made of: those of another job are not used."""

    def __init__(self, folder: Path, output: Output, job: Any) -> None:
        self.frames, self._folder, self._output = folder / "frames", folder, output
        self._job = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()
        self._files: dict[str, int] = {}  # crc32 of each file of a complete part
        self.done, self.state = 0, b""
        self._read()
        self.resumed = self.done

    @contextmanager
    def part(self) -> Iterator[Write]:
        """Write the next frames."""
        with self._output.part(self.frames, self.done) as write:
            yield write

    def commit(self, count: int, state: bytes) -> None:
        """Note a part of that many frames as done; the next begins with that state."""
        new = {f.name: crc32_of(f) for f in self.frames.iterdir() if f.name not in self._files}
        for name in new:
            fsync(self.frames / name)
        fsync(self.frames)
        self._files |= new
        self.done, self.state = self.done + count, state
        write_atomically(self._folder / f"state-{self.done}", state)
        part = {"done": self.done, "files": new, "state": crc32(state)}
        with (self._folder / JOURNAL).open("a") as journal:
            journal.write(json.dumps(part) + "\n")
        fsync(self._folder / JOURNAL)
        for old in self._folder.glob("state-*"):
            if old.name != f"state-{self.done}":
                old.unlink()

    def finish(self) -> list[str]:
        """Make the output; return what it could not hold."""
        return self._output.finish(self.frames)

    def _read(self) -> None:
        """Take up what the journal names, if all of it is there and whole, else nothing."""
        try:
            text = read_bytes(self._folder / JOURNAL).decode()
            lines = text.split("\n")[:-1]  # a torn line has no end
            job, *parts = map(json.loads, lines)
            state = (self._folder / f"state-{parts[-1]['done']}").read_bytes()
            files = {name: value for part in parts for name, value in part["files"].items()}
            whole = job == self._job and parts[-1]["state"] == crc32(state)
            whole = whole and all(crc32_of(self.frames / n) == value for n, value in files.items())
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            whole = False
        if not whole:
            shutil.rmtree(self.frames, ignore_errors=True)
            self.frames.mkdir(parents=True)
            write_atomically(self._folder / JOURNAL, json.dumps(self._job) + "\n")
            return
        self._files, self.done, self.state = files, parts[-1]["done"], state
        write_atomically(self._folder / JOURNAL, "".join(f"{line}\n" for line in lines))
        for file in self.frames.iterdir():
            if file.name not in self._files:
                file.unlink()


@contextmanager
def kept_parts(out: Path, output: Output, job: Any) -> Iterator[Parts]:
    """Yield the parts of an output that are done. They go when the body ends, or where it raises
    before any is; else they stay for the next run.

    Raises UserError where another process writes that output.
    """
    folder = out.with_name(f".{out.name}{PARTIAL}")
    if folder.is_symlink():
        raise UserError(f"{folder} is a symbolic link: remove it")
    folder.mkdir(parents=True, exist_ok=True)
    _refuse_foreign(folder)
    with locked(folder / "lock", f"{out} is being written by another process: wait for it"):
        parts = None
        _put_back(folder, out)
        try:
            parts = Parts(folder, output, job)
            yield parts
        except BaseException:
            _put_back(folder, out)
            if not (parts and parts.done):
                _remove(folder)
            raise
        _remove(folder)


def _put_back(folder: Path, out: Path) -> None:
    """Give an older output its name again, where a new one could not take it."""
    if (folder / OLD).exists() and not out.exists():
        (folder / OLD).replace(out)


def _refuse_foreign(folder: Path) -> None:
    """Raise UserError where a folder holds what no run has left there."""
    # a file manager or NFS may have left hidden files
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    # a journal is made before the first frame, and removed after the last
    has_frames = any((folder / "frames").glob("*"))
    odd = [name for name in names if not OURS.fullmatch(name)]
    if odd or (has_frames and JOURNAL not in names):
        raise UserError(
            f"{folder} holds {odd[0] if odd else 'frames'}, which stdpipe did not write: frames "
            "that are done are to lie there, so move it away"
        )


def _remove(folder: Path) -> None:
    """Remove a folder: frames, journal, and the lock last, since whoever finds none may begin."""
    for name in ("frames", OLD):
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in folder.iterdir():
        if not path.name.startswith("lock"):
            path.unlink()
    (folder / "lock").unlink(missing_ok=True)
    with suppress(OSError):  # another process has begun
        folder.rmdir()
