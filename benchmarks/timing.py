"""How every script here measures: baselines in turn, A B A B, and medians: drift hits all alike."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


def medians(
    baselines: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each baseline by `clock`, after one warm-up of all."""
    times: dict[str, list[float]] = {name: [] for name in baselines}
    for turn in range(repeats + 1):
        for name, run in baselines.items():
            began = clock()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                times[name].append(clock() - began)
    return {name: statistics.median(values) for name, values in times.items()}


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this thread, and those it starts meanwhile, on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            return next(line.split(":")[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def report(
    name: str,
    settings: Mapping[str, Any],
    ratios: Mapping[str, float],
    as_json: bool,
    measured: Mapping[str, Any] | None = None,
) -> None:
    """Print one JSON document, or the ratios for people; measured: the figures behind them."""
    if as_json:
        result = {"name": name, "machine": machine(), "settings": settings, "ratios": ratios}
        print(json.dumps(result | ({"measured": measured} if measured else {}), indent=2))
        return
    print(name, machine(), dict(settings))
    for what, ratio in ratios.items():
        print(f"  {what}: {ratio:.2f}")
