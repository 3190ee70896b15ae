"""The output of a training while it runs: metrics.jsonl, TensorBoard events, the progress bar.

The first rank alone writes and shows.
"""

import io
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from stdpipe import distributed
from stdpipe.cache.errors import DamagedError, UserError
from stdpipe.cache.files import write_atomically
from stdpipe.cache.schema import check, read_bytes
from stdpipe.cache.seal import parse_sealed, seal
from stdpipe.evaluation.pictures import heat

LOG = logging.getLogger(__name__)
MOST_LINES = 2_400_000  # of a metrics.jsonl


class Metrics:
    """Writes metrics.jsonl, and TensorBoard events beside it where tensorboard is installed.

    A line holds the means since the last one, steps per second and the share of time in which the
    training waited for data.
    """

    def __init__(self, out: Path, resume_step: int, saved: Mapping[str, Any] | None = None) -> None:
        self.path = out / "metrics.jsonl"
        self.board: Any = None
        self.last: dict[str, float] = {}
        if distributed.first():
            # the steps of later lines run again
            lines = _lines(self.path, warns=True)
            kept = [line for line, values in lines if values["step"] <= resume_step]
            write_atomically(self.path, b"".join(kept))
            self.board = _tensorboard(out)
        self._begin()
        if saved:
            self._sums |= saved["sums"]
            self._counts |= saved["counts"]
            self._resumed = max(self._counts.values(), default=0)

    def _begin(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._resumed = 0  # steps of the sums that an earlier process did
        self._waited, self._since = 0.0, time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums since the last line: a run that goes on between two lines needs them."""
        return {"sums": self._sums, "counts": self._counts}

    def add(self, values: Mapping[str, float], waited: float) -> None:
        """Add one step's loss parts, and the seconds in which it waited for data."""
        self._waited += waited
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def log(self, step: int, **others: float) -> dict[str, str]:
        """Write one line, for `step` finished steps; return the values for a progress bar."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        elapsed = time.perf_counter() - self._since
        speed = (max(self._counts.values()) - self._resumed) / elapsed
        self.last = means
        line = {**means, **others, "steps_per_s": speed, "wait": self._waited / elapsed}
        if distributed.first():
            with self.path.open("ab") as file:
                file.write(_as_line({"step": step, **line}))
        if self.board:
            for name, value in line.items():
                self.board.add_scalar(name, value, step)
        self._begin()
        shown = {name: f"{value:.4g}" for name, value in means.items() if name != "loss"}
        return {**shown, "wait": f"{line['wait']:.0%}"}


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read a metrics.jsonl: for each line its finite numbers by name, "step" among them.

    No line is returned where there is no file, or of one that a crash has torn. Raises DamagedError
    for one that does not fit its checksum; lines of older versions have none.
    """
    return [values for _, values in _lines(path)]


def _lines(path: Path, warns: bool = False) -> Iterator[tuple[bytes, dict[str, float]]]:
    """Yield each line of a metrics.jsonl, and its finite numbers. A damaged one raises, or, where
    this `warns`, is left out: a run whose checkpoint is whole goes on without it."""
    # a line for each of the paper's steps takes a third of that size, and of those lines
    content = read_bytes(path, most=2**30) if path.exists() else b""
    if content.count(b"\n") > MOST_LINES:
        raise UserError(f"{path} has more than {MOST_LINES:,} lines: check it")
    for number, line in enumerate(io.BytesIO(content), start=1):
        if not line.endswith(b"\n"):
            if b"}" not in line:  # a crash has torn it
                continue
            line += b"\n" * line.endswith(b"}")
        source = f"line {number} of {path}"
        try:
            values = check(dict[str, Any], parse_sealed(line, source), source)
        except DamagedError as error:
            if not warns:
                raise
            LOG.warning(f"stdpipe: {error}; it is left out")
            continue
        except UserError:
            continue
        finite = [k for k, v in values.items() if type(v) in (int, float) and abs(v) < 1e308]
        if "step" in finite:
            yield line, {k: values[k] for k in finite}


def _as_line(values: Mapping[str, float]) -> bytes:
    """Return a sealed line; null stands for what is not finite, which JSON does not have."""
    return seal({k: v if math.isfinite(v) else None for k, v in values.items()})


def _tensorboard(out: Path):  # type: ignore[no-untyped-def]
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out))


class Clock:
    """Measures how long a step waits for data; `lap` returns these seconds and begins anew."""

    def __init__(self) -> None:
        self._waited = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        asked = time.perf_counter()
        yield
        self._waited += time.perf_counter() - asked

    def lap(self) -> float:
        waited, self._waited = self._waited, 0.0
        return waited


def to_floats(slices: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Return loss parts as numbers, the mean over a step's slices and over ranks, with one
    synchronisation for all of them."""
    parts = [torch.stack([part.detach().float() for part in x.values()]) for x in slices]
    values = distributed.mean(torch.stack(parts).mean(0)).tolist()
    return dict(zip(slices[0], values, strict=True))


def panels(frames: Sequence[Tensor], maps: Sequence[Tensor]) -> NDArray[np.uint8]:
    """Return pictures side by side at the largest one's size: frames (3, h, w) in [0, 1], then maps
    (H, W) from black (0) to white (their own 99.5th percentile)."""
    levels = [frame.clamp(0, 1).mul(255).round().byte() for frame in frames]
    pictures = [frame.permute(1, 2, 0).cpu().numpy() for frame in levels]
    pictures += [heat(values.float().cpu().numpy()) for values in maps]
    height = max(len(picture) for picture in pictures)
    return np.hstack([x.repeat(height // len(x), 0).repeat(height // len(x), 1) for x in pictures])


def progress(name: str, start: int, steps: int) -> "tqdm[Any]":
    """Return a progress bar, quiet where stderr is no terminal and on all ranks but the first."""
    hidden = None if distributed.first() else True  # None: tqdm looks for a terminal
    return tqdm(total=steps, initial=start, unit="step", desc=name, disable=hidden)
