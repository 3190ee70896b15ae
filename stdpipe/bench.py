"""Measure exported files side by side, each in its own runtime on one thread of this machine.

setup -> a frame of each in turn, A B A B, so that noise hits all alike -> peak memory, each in a
process of its own -> report.
"""

import multiprocessing
import re
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stdpipe.cache.errors import DamagedError, UserError
from stdpipe.cache.seal import read_sealed
from stdpipe.deploy.formats import files_of, format_of, load, runs_here, use_beside
from stdpipe.deploy.graph import Run
from stdpipe.deploy.quiet import quiet
from stdpipe.models.checkpoints import file_sha256
from stdpipe.models.table import Size
from stdpipe.templates import markdown_table

NEEDED = {"size", "frames", "state", "multiple", "precision", "model", "weights_sha256"}
FIRST = 3  # frames before any is timed
HEAD = ("file", "format", "precision", "ms", "90 %", "MB", "peak MB", "delegated")


@dataclass(frozen=True)
class Bench:
    """One call of bench: exported files, the LR size of all, and how many frames each runs. A file
    of any size needs one."""

    files: tuple[Path, ...]
    size: Size | None = None
    frames: int = 30


def bench(job: Bench) -> dict[str, Any]:
    """Return what each file takes: milliseconds a frame, bytes, peak memory, share of operators
    that its delegate took.

    Raises UserError for what is no exported file, or is of another size.
    """
    torch.set_num_threads(1)
    told = {file: read_use(file, job.size) for file in job.files}
    if len(sizes := sorted({tuple(use["size"]) for use in told.values()})) > 1:
        known = ", ".join(f"{width}x{height}" for width, height in sizes)
        raise UserError(f"these files have several frame sizes ({known}): measure at one")
    files = list(told)
    running = [(_opened(file, use), inputs(use)) for file, use in told.items()]
    times: list[list[float]] = [[] for _ in running]
    for frame in range(FIRST + job.frames):
        for number, (run, given) in enumerate(running):
            began = time.perf_counter()
            found = run(*given)
            taken = time.perf_counter() - began
            if states := len(told[files[number]]["state"]):  # it goes on, as it does over a clip
                running[number] = run, [*given[:-states], *found[-states:]]
            if frame >= FIRST:
                times[number].append(1000 * taken)
    measured = [
        _report(file, use, taken, _peak(file, use))
        for (file, use), taken in zip(told.items(), times, strict=True)
    ]
    return {"threads": 1, "frames": job.frames, "files": measured}


def read_use(file: Path, size: Size | None = None) -> dict[str, Any]:
    """Read what lies beside an exported file, with the size to run it at. Raises UserError for
    another size and for none, and FileNotFoundError where there is no such file."""
    name = format_of(file)
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}")
    if not runs_here(name):
        raise UserError(f"{file} does not run on this system: leave it out, and run it on macOS")
    beside = use_beside(file)
    if not beside.is_file():
        raise UserError(f"{beside} is not there: export {file.name} again, which writes it")
    try:
        use = read_sealed(beside)
    except DamagedError as error:
        raise DamagedError(f"{error}, or export it again") from None
    if not isinstance(use, dict) or use.get("format") != name or not use.keys() >= NEEDED:
        raise UserError(f"{beside} does not say how to use {file.name}: export it again")
    if isinstance(sums := use.get("sha256"), dict):  # files of older versions have none
        _refuse_changed(files_of(name, file), sums, beside)
    if not (size or use["size"]):
        raise UserError(f"{file} is for frames of any size: say by --size which to measure")
    use["size"] = use["size"] or list(size or ())
    if size and list(size) != use["size"]:
        width, height = use["size"]
        raise UserError(
            f"{file} is for frames of {width}x{height}, and {size.width}x{size.height} was asked "
            "for: export it at that size"
        )
    return use


def _refuse_changed(files: Sequence[Path], sums: dict[str, str], beside: Path) -> None:
    for part in files:
        if (now := file_sha256(part)) not in sums.values():
            known = ", ".join(f"{value:.12}" for value in sums.values())
            raise DamagedError(
                f"{part} has the SHA-256 {now:.12}, and {beside} is of {known}: it is damaged or "
                "another file; export it again"
            )


def _opened(file: Path, use: dict[str, Any]) -> Run:
    """Open a file in its runtime. Raises UserError for one that it cannot read."""
    try:
        with quiet():
            return load(use["format"], files_of(use["format"], file))
    except (UserError, OSError):
        raise
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(f"{file} cannot be opened ({first}): export it again") from error


def inputs(use: dict[str, Any]) -> list[Tensor]:
    """Return random frames, and a state of zeros."""
    width, height = use["size"]
    draw = torch.Generator().manual_seed(0)
    frames = [torch.rand(1, 3, height, width, generator=draw) for _ in use["frames"]]
    sides = [side + -side % use["multiple"] for side in (height, width)]
    shapes = [shape if shape[-1] else [shape[0], *sides] for shape in use["state"]]
    return [*frames, *(torch.zeros(1, *shape) for shape in shapes)]


def _report(file: Path, use: dict[str, Any], times: list[float], peak: int) -> dict[str, Any]:
    taken, operators = use.get("delegated"), use.get("operators")
    return {
        "file": str(file),
        "format": use["format"],
        "precision": use["precision"],
        "model": use["model"],
        "weights_sha256": use["weights_sha256"],
        "size": use["size"],
        "ms": statistics.median(times),
        "ms_90": sorted(times)[max(round(0.9 * len(times)) - 1, 0)],
        "bytes": sum(part.stat().st_size for part in files_of(use["format"], file)),
        "peak_bytes": peak,
        "delegated": taken / operators if taken is not None and operators else None,
    }


def _peak(file: Path, use: dict[str, Any]) -> int:
    """Return the memory that loading a file and running it takes, in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    receive, send = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_measure_peak, args=(send, file, use))
    process.start()
    send.close()
    try:
        return int(receive.recv())
    except EOFError:
        raise UserError(f"{file} cannot be run in a process of its own") from None
    finally:
        process.join()


def _measure_peak(send: Any, file: Path, use: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    given = inputs(use)
    before = _most_memory()
    with quiet():
        run = load(use["format"], files_of(use["format"], file))
        for _ in range(FIRST):
            run(*given)
    send.send(_most_memory() - before)


def _most_memory() -> int:
    """Return the most memory that this process has had, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts what the parent had before exec, too
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if found:
            return 1024 * int(found[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def table(files: Sequence[dict[str, Any]]) -> str:
    """Return the files as Markdown, the fastest first."""
    rows = [
        (
            *(Path(each["file"]).name, each["format"], each["precision"]),
            *(f"{each['ms']:.1f}", f"{each['ms_90']:.1f}"),
            *(f"{each['bytes'] / 1e6:.2f}", f"{each['peak_bytes'] / 1e6:.0f}"),
            "" if each["delegated"] is None else f"{each['delegated']:.0%}",
        )
        for each in sorted(files, key=lambda each: float(each["ms"]))
    ]
    return markdown_table(HEAD, rows, 3)


def as_text(result: dict[str, Any]) -> str:
    """Return the table with what was measured."""
    what = f"median and 90th percentile of {result['frames']} frames on one thread"
    return f"{table(result['files'])}\n\nms, 90 %: {what}; files in turn"
