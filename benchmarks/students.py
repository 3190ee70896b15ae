"""Three students in one process against three runs, one after the other: wall time and memory.

python benchmarks/students.py [--json] [--data DIR --cache PATH] [--steps 10] [--patch 128]
[--workers 1]
The quarter-size FastDVDnet with STD, plain, and with STD from another seed; each a process of its
own or all in one, start and end included. Without --data and --cache, the embedded clips under the
embedded teacher as trunk-int8. Memory is the largest resident set of a training process, without
its workers.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import yaml
from timing import report

STUDENTS = {"std": {}, "none": {"scheme": "none"}, "seed-1": {"seed": 1, "data_seed": 0}}


def measure(arguments: Sequence[object]) -> tuple[float, int]:
    """Seconds and peak bytes of one command."""
    command = [sys.executable, "-m", "stdpipe.cli.main", *map(str, arguments)]
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"exit {child.returncode}: {arguments}")
    return time.perf_counter() - began, usage.ru_maxrss * 1024


def embedded(root: Path) -> tuple[Path, Path]:
    """The embedded clips, and their cache."""
    assets = Path(str(files("stdpipe.assets")))
    cache, teacher = root / "cache.zarr", str(assets / "teacher.pt")
    teaching = ["--weights", teacher, "--encoding", "trunk-int8", "--cache", cache]
    # not in this process: Linux hands a parent's peak memory on to what it starts
    measure(["extract-teacher", "--data", assets / "sample", *teaching])
    return assets / "sample", cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data, cache = (asked.data, asked.cache) if asked.data else embedded(root)
        settings = {"steps": asked.steps, "patch": asked.patch, "workers": asked.workers}
        settings |= {"warmup_steps": 0, "save_every": asked.steps}
        words = [word for k, v in settings.items() for word in ("--set", f"{k}={v}")]
        where = ["--data", data, "--cache", cache, "--student", "fastdvdnet-quarter"]
        command = ["train-student", *where, *words]
        apart = {}
        for name, own in STUDENTS.items():
            changed = [word for k, v in own.items() for word in ("--set", f"{k}={v}")]
            apart[name] = measure([*command, *changed, "--out", root / name])
        file = root / "students.yaml"
        file.write_text(yaml.safe_dump(STUDENTS))
        seconds, peak = measure([*command, "--students", file, "--out", root / "together"])
    peaks = [used for _, used in apart.values()]
    measured = {
        "seconds_apart": {name: took for name, (took, _) in apart.items()},
        "seconds_together": seconds,
        "peak_bytes_apart": dict(zip(apart, peaks, strict=True)),
        "peak_bytes_together": peak,
    }
    ratios = {
        "together_over_apart_time": seconds / sum(took for took, _ in apart.values()),
        "together_over_largest_memory": peak / max(peaks),
        "together_over_sum_memory": peak / sum(peaks),
    }
    report("students", settings | {"batch": 2}, ratios, asked.json, measured)


if __name__ == "__main__":
    main()
