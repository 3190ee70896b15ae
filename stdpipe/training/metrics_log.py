"""Watching a training: metrics.jsonl, TensorBoard events, the progress bar.

Of several ranks, the first one alone writes and shows.
"""

import json
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
from stdpipe.evaluation.pictures import heat


class Metrics:
    """metrics.jsonl, and TensorBoard events beside it where tensorboard is installed.

    A line holds the means since the last one, steps per second and the share of time spent
    waiting for data.
    """

    def __init__(self, out: Path, resume_step: int) -> None:
        self.path = out / "metrics.jsonl"
        self.board: Any = None
        self.last: dict[str, float] = {}
        if distributed.first():
            self._forget_after(resume_step)
            self.board = _tensorboard(out)
        self._begin()

    def _forget_after(self, step: int) -> None:
        """Later steps are run again."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        aside = self.path.with_name("metrics.jsonl.partial")
        aside.write_text("".join(line + "\n" for line in kept))
        aside.replace(self.path)

    def _begin(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._waited, self._since = 0.0, time.perf_counter()

    def add(self, values: Mapping[str, float], waited: float) -> None:
        """One step's loss parts, and the seconds in which it waited for data."""
        self._waited += waited
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def show(self, step: int, picture: NDArray[np.uint8]) -> None:
        """One picture (H, W, 3), where TensorBoard is."""
        if self.board:
            self.board.add_image("sample", picture, step, dataformats="HWC")

    def log(self, step: int, **others: float) -> dict[str, str]:
        """Write one line; `step` counts finished steps. Returns what a progress bar shows."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        elapsed = time.perf_counter() - self._since
        speed = max(self._counts.values()) / elapsed
        self.last = means
        line = {**means, **others, "steps_per_s": speed, "wait": self._waited / elapsed}
        if distributed.first():
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **line}) + "\n")
        if self.board:
            for name, value in line.items():
                self.board.add_scalar(name, value, step)
        self._begin()
        shown = {name: f"{value:.4g}" for name, value in means.items() if name != "loss"}
        return {**shown, "wait": f"{line['wait']:.0%}"}


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # a line torn by a crash


def _tensorboard(out: Path):  # type: ignore[no-untyped-def]
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out))


class Clock:
    """Seconds spent waiting for data; `lap` returns them and begins anew."""

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
    """Loss parts on the host, the mean over a step's slices and over ranks, with one
    synchronisation for all of them."""
    parts = [torch.stack([part.detach().float() for part in x.values()]) for x in slices]
    values = distributed.mean(torch.stack(parts).mean(0)).tolist()
    return dict(zip(slices[0], values, strict=True))


def panels(frames: Sequence[Tensor], maps: Sequence[Tensor]) -> NDArray[np.uint8]:
    """Side by side at the largest one's size: frames (3, h, w) in [0, 1], then maps (H, W) from
    black (0) to white (their own 99.5th percentile)."""
    pictures = [_as_picture(frame.clamp(0, 1).mul(255).round().byte()) for frame in frames]
    pictures += [heat(values.float().cpu().numpy()) for values in maps]
    height = max(len(picture) for picture in pictures)
    return np.hstack([x.repeat(height // len(x), 0).repeat(height // len(x), 1) for x in pictures])


def _as_picture(frame: Tensor) -> NDArray[np.uint8]:
    picture: NDArray[np.uint8] = frame.permute(1, 2, 0).cpu().numpy()
    return picture


def progress(name: str, start: int, steps: int) -> "tqdm[Any]":
    """A progress bar, quiet where stderr is no terminal, and on other ranks than the first."""
    quiet = None if distributed.first() else True
    return tqdm(total=steps, initial=start, unit="step", desc=name, disable=quiet)
