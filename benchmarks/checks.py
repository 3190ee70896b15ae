"""What do the checks of files, caches and data cost, against a version without them?

    python benchmarks/checks.py --before FOLDER [--repeats 7] [--json]

FOLDER holds another version of stdpipe, as `pip install --target FOLDER` lays it out. Both versions
work in turn, each in processes of its own, on the embedded clips: they extract a cache, then time
a training step, reads of random windows, loading weights, and commands that find their work done.
Prints median seconds of both and their ratio.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
from timing import machine

STEPS = 60  # of a training, the first third not counted
READS = 300
COMMANDS = ("extract-teacher", "train-student", "evaluate")


@click.command()
@click.option("--before", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--repeats", default=7, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True)
def main(before: Path, repeats: int, as_json: bool) -> None:
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats + 1):  # the first warms up
            for name, path in (("before", str(before.resolve())), ("now", "")):
                out = Path(folder) / name
                env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
                command = [sys.executable, "-W", "ignore", __file__, "--measure", str(out)]
                done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
                times = json.loads(done.stdout) | _commands(out, env)
                for what, seconds in times.items() if turn else ():
                    found.setdefault(what, {}).setdefault(name, []).append(seconds)
    rows = {
        what: {
            **{name: statistics.median(values) for name, values in by.items()},
            "now_over_before": statistics.median(
                now / then for now, then in zip(by["now"], by["before"], strict=True)
            ),
        }
        for what, by in found.items()
    }
    if as_json:
        print(json.dumps({"machine": machine(), "repeats": repeats, "seconds": rows}, indent=2))
        return
    for what, row in rows.items():
        print(what, {name: float(f"{value:.4g}") for name, value in row.items()})


def _commands(out: Path, env: dict[str, str]) -> dict[str, float]:
    """Time the commands of which all is done, as whole processes."""
    data, weights, cache = _sample(), str(out / "run/weights.pt"), str(out / "c")
    given: dict[str, list[str]] = {
        "extract-teacher": ["--weights", "embedded", "--cache", cache, "--encoding", "int8"],
        "train-student": ["--student", "rrn-8", "--cache", cache, "--scheme", "output",
                          "--out", str(out / "run"), *_set(_settings())],
        "evaluate": ["--weights", weights, "--pictures", "0", "--out", str(out / "result")],
    }  # fmt: skip
    times = {}
    for name in COMMANDS:
        command = [sys.executable, "-W", "ignore", "-m", "stdpipe.cli.main", name, "--data", data]
        for is_done in (False, True):
            began = time.perf_counter()
            subprocess.run([*command, *given[name]], env=env, capture_output=True, check=True)
            if is_done:
                times[f"{name}, done"] = time.perf_counter() - began
    return times


def _sample() -> str:
    return str(files("stdpipe.assets") / "sample")


def _settings() -> dict[str, Any]:
    fixed = {"steps": STEPS, "warmup_steps": 0, "log_every": 1}
    return {**fixed, "batch": 2, "patch": 64, "workers": 0}


def _set(settings: dict[str, Any]) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def measure(out: Path) -> dict[str, float]:
    """Time what one process does; the first one of a folder makes its cache."""
    import numpy as np

    from stdpipe.cache import open_reader
    from stdpipe.extract import extract_teacher
    from stdpipe.features.extraction import Extraction
    from stdpipe.models.checkpoints import load_network
    from stdpipe.train import train_student
    from stdpipe.training import config
    from stdpipe.training.jobs import StudentRun

    data, cache = Path(_sample()), str(out / "c")
    teacher = str(files("stdpipe.assets") / "teacher.pt")
    extract_teacher(Extraction(data, cache, weights=teacher, encoding="int8", device="cpu"))
    times = {}
    for scheme in ("none", "output"):
        where = out / f"{scheme}-{os.getpid()}"
        options = config.from_mapping(config.StudentTraining, {**_settings(), "scheme": scheme})
        train_student(StudentRun(data, "rrn-8", where, cache, device="cpu"), options)
        lines = (where / "metrics.jsonl").read_text().splitlines()[STEPS // 3 :]
        speeds = [json.loads(line)["steps_per_s"] for line in lines]
        times[f"step, {scheme}"] = 1 / statistics.median(speeds)
    reader, rng = open_reader(cache), np.random.default_rng(0)
    keys = list(reader.entries)
    windows = [(keys[i % len(keys)], *rng.integers(0, 192, 2).tolist()) for i in range(READS)]

    def read() -> None:
        for key, y, x in windows:
            reader.read(key, "f_sr", y=y, x=x, h=64, w=64)

    times["300 reads"] = _seconds(read)
    times["first reads"] = _seconds(lambda: open_reader(cache).read(keys[0], "f_sr", h=64, w=64))
    times["load weights"] = _seconds(lambda: load_network(None, teacher))
    return times


def _seconds(run: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


if __name__ == "__main__":
    if "--measure" in sys.argv:
        sys.stdout, shown = sys.stderr, sys.stdout
        print(json.dumps(measure(Path(sys.argv[-1]))), file=shown)
    else:
        main()
