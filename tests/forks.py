"""Commands in processes of their own that start at once: forks of one that has imported everything.

A fork may die at its n-th file operation, or after some seconds, and its file system may lack
something, by tests/faults/file_system.c.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

DRIVER = """
import json, multiprocessing.util, os, signal, sys
import stdpipe.cli.main, torch
from stdpipe import experiment, export, extract, degrade, upscale  # noqa: all that is heavy
from stdpipe.data import packing

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}

def dies(below, at, number, note):
    process, done = os.getpid(), 0

    def count(what, where):
        nonlocal done
        if os.getpid() != process or not os.fspath(where).startswith(below):
            return
        done += 1
        if done == at:
            os.kill(process, number)
        if note:
            os.pwrite_(note, b"%9d" % done, 0)

    def hook(event, args):
        if event == "open" and isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR):
            count(event, args[0])
        elif event in CHANGES and isinstance(args[0], (str, os.PathLike)):
            count(event, args[0])

    def counted(call):
        def counting(fd, *args):
            try:
                where = os.readlink(f"/proc/self/fd/{fd}")
            except OSError:
                where = ""
            count(call.__name__, where)
            return call(fd, *args)
        return counting

    os.pwrite_ = os.pwrite
    for name in ("fsync", "pwrite", "write"):
        setattr(os, name, counted(getattr(os, name)))
    sys.addaudithook(hook)

def run(job):
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(job["env"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for fd, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), fd)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    exec(job["before"], {})
    if job["below"]:
        dies(job["below"], job["at"], job["signal"], os.open(job["note"], os.O_RDWR | os.O_CREAT))
    code = 70
    try:
        stdpipe.cli.main.main(job["words"], prog_name="stdpipe")
    except SystemExit as end:
        code = end.code or 0
    multiprocessing.util._exit_function()  # as at the end of a process that is no fork
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

for line in sys.stdin:
    job = json.loads(line)
    if not (pid := os.fork()):
        run(job)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str
    operations: int


class Forks:
    """The process that forks."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self._process, self._folder = process, folder

    def run(
        self,
        words: Sequence[object],
        env: Mapping[str, str] | None = None,
        before: str = "",
        below: Path | None = None,
        at: int = 0,
        after: float | None = None,
        number: int = signal.SIGKILL,
    ) -> Ended:
        """Run a command. It gets the signal `number` at its file operation `at` among those below
        a folder, which are counted, or after some seconds."""
        out, err, note = (self._folder / name for name in ("stdout", "stderr", "note"))
        note.unlink(missing_ok=True)
        job = {
            "words": [str(word) for word in words],
            "env": dict(env or {}),
            "before": before,
            "below": str(below or ""),
            "at": at,
            "signal": int(number),
            "stdout": str(out),
            "stderr": str(err),
            "note": str(note),
        }
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline())
        late = threading.Timer(after or 0, _send, (pid, number))
        if after is not None:
            late.start()
        code = int(self._process.stdout.readline())
        late.cancel()
        done = int(note.read_text() or 0) if note.exists() else 0
        return Ended(code, out.read_text(), err.read_text(), done)


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@contextmanager
def forks(folder: Path, env: Mapping[str, str] | None = None) -> Iterator[Forks]:
    """Start the process; what its forks say lies in a folder."""
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **(env or {})},
    ) as process:
        yield Forks(process, folder)
        assert process.stdin
        process.stdin.close()


# what a run's log, a result and a page say of the time that they took, or were made at
TIMES = {"steps_per_s", "wait"}
MADE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC")
SHORT = {"steps": 4, "patch": 16, "batch": 2, "workers": 0, "log_every": 2, "save_every": 1}
TEACHER = (
    "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1,num_reconstruct_block=1"
)
GRID = {
    "name": "small",
    "teachers": {"small": {"weights": "random:0", "network": TEACHER}},
    "encoding": "float32",
    "students": ["vespcn"],
    "schemes": ["none", "output"],
    "seeds": [0],
    "training": {**SHORT, "warmup_steps": 0},
    "tests": {"own": {"data": "own", "protocol": "vid4"}},
    "baselines": ["bicubic"],
}


def writers(
    data: Path, inputs: Path, stdpipe: Any, extract: Any, train: Any
) -> dict[str, Callable[[Path], list[object]]]:
    """Make what the commands read, in the folder `inputs`; return the commands."""
    measured, cache, grid = inputs / "measured", inputs / "c.zarr", inputs / "grid.yaml"
    frames, students = data / "sequences" / "00001" / "0001", inputs / "students.yaml"
    stdpipe("evaluate", "--data", data, "--model", "bicubic", "--out", measured)
    stdpipe(*extract(data, cache, "--targets", "sr"))
    grid.write_text(json.dumps(GRID))
    students.write_text(json.dumps({n: {"student": n} for n in ("vespcn", "swrn")}))
    sets = [word for key, value in SHORT.items() for word in ("--set", f"{key}={value}")]

    def train_students(out: Path) -> list[object]:
        words = train(out / "runs", data, "--cache", cache, "--scheme", "output", **SHORT)
        at = words.index("--student")
        return [*words[:at], "--students", students, *words[at + 2 :]]

    return {
        "extract-teacher": lambda out: extract(data, out / "c.zarr"),
        "train-student": train_students,
        "train-teacher": lambda out: [
            "train-teacher", "--data", data, "--teacher", "vespcn", *sets, "--out", out / "run"
        ],
        "evaluate": lambda out: [
            "evaluate", "--data", data, "--model", "bicubic", "--out", out / "result"
        ],
        "experiment": lambda out: ["experiment", grid, "--data", data, "--out", out / "grid"],
        "experiment-jobs": lambda out: [
            "experiment", grid, "--data", data, "--out", out / "grid", "--jobs", 2
        ],
        "report": lambda out: ["report", measured, "--out", out / "report"],
        "pack-clips": lambda out: ["pack-clips", "--data", data, "--out", out / "clips.h5"],
        "degrade": lambda out: ["degrade", data, out / "lr"],
        "upscale": lambda out: ["upscale", frames, out / "sr", "--model", "bicubic", "--overwrite"],
        "upscale-video": lambda out: [
            "upscale", frames, out / "sr.mp4", "--model", "bicubic", "--overwrite"
        ],
        "export": lambda out: [
            "export", "--model", "vespcn", "--weights", "random:0", "--format", "torch",
            "--out", out / "net.pt2",
        ],
    }  # fmt: skip


def made(root: Path) -> dict[str, object]:
    """What lies below a folder, by file, but for the folder's own name and for times."""
    return {
        str(file.relative_to(root)): _content(file, str(root))
        for file in sorted(root.rglob("*"))
        if file.is_file() and "tfevents" not in file.name and file.name != "trainings.log"
    }


def _content(file: Path, root: str) -> object:
    if file.suffix == ".pt":
        return _plain(torch.load(file, weights_only=True))
    if file.suffix == ".pt2":  # its records carry the names of files that torch made on the way
        return file.stat().st_size > 0
    data = file.read_bytes()
    if b"\0" in data:
        return data
    text = MADE.sub("then", data.decode(errors="replace").replace(root, "ROOT"))
    if file.name == "metrics.jsonl":
        lines = [json.loads(line) for line in text.splitlines()]
        return [{key: line[key] for key in line if key not in TIMES} for line in lines]
    return text


def _plain(values: Any) -> object:
    """Tensors as bytes, so that == compares them."""
    if isinstance(values, torch.Tensor):
        return str(values.dtype), tuple(values.shape), values.numpy().tobytes()
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items()}
    return [_plain(value) for value in values] if isinstance(values, list | tuple) else values
