"""How far does training from a cache drift from training with the live teacher, by encoding?

python benchmarks/drift.py [--json] [--steps 20] [--patch 64] [--encodings NAME ...]
Bakes the embedded clips under the embedded teacher in every encoding, trains the quarter-size
FastDVDnet with STD from each and from the live teacher, on one CPU device, and gives the largest
relative difference of each loss over the steps. float32 should give none to speak of.
"""

import argparse
import json
import tempfile
from importlib.resources import files
from pathlib import Path

import torch
from timing import report

from stdpipe.cache import ENCODINGS
from stdpipe.extract import extract_teacher
from stdpipe.features.extraction import Extraction
from stdpipe.train import train_student
from stdpipe.training import config
from stdpipe.training.jobs import StudentRun

ASSETS = Path(str(files("stdpipe.assets")))
DATA, TEACHER = ASSETS / "sample", str(ASSETS / "teacher.pt")
PARTS = ("loss", "rec", "sd", "td")

Losses = list[dict[str, float]]


def train(out: Path, cache: str, steps: int, patch: int, live: str | None = None) -> Losses:
    """Every step's losses."""
    settings = {
        "scheme": "std",
        "steps": steps,
        "warmup_steps": 0,
        "patch": patch,
        "workers": 0,
        "log_every": 1,
        "save_every": steps,
    }
    options = config.from_mapping(config.StudentTraining, settings)
    run = StudentRun(DATA, "fastdvdnet-quarter", out, cache, live_teacher=live, device="cpu")
    train_student(run, options)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def extract(path: Path, encoding: str, patch: int) -> str:
    """A cache of two fixed crops a clip, which the teacher saw alone."""
    job = Extraction(
        DATA,
        str(path),
        weights=TEACHER,
        encoding=encoding,
        views="baked",
        baked=2,
        patch=patch,
        device="cpu",
    )
    extract_teacher(job)
    return str(path)


def drift(found: Losses, true: Losses) -> dict[str, float]:
    """Largest relative difference of each loss over all steps."""
    steps = list(zip(found, true, strict=True))
    return {
        part: max(abs(one[part] - other[part]) / abs(other[part]) for one, other in steps)
        for part in PARTS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--encodings", nargs="+", default=list(ENCODINGS), choices=ENCODINGS)
    arguments = parser.parse_args()
    steps, patch = arguments.steps, arguments.patch
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        caches = {}
        for name in arguments.encodings:
            caches[name] = extract(root / f"{name}.zarr", name, patch)
        views = caches[arguments.encodings[0]]  # all have the same
        live = train(root / "live", views, steps, patch, TEACHER)
        for name, cache in caches.items():
            rows[name] = drift(train(root / name, cache, steps, patch), live)
    if arguments.json:
        ratios = {f"{name}_{part}": row[part] for name, row in rows.items() for part in PARTS}
        threads = torch.get_num_threads()
        report("drift", {"steps": steps, "patch": patch, "threads": threads}, ratios, True)
        return
    print("| encoding | " + " | ".join(PARTS) + " |\n| --- |" + " ---: |" * len(PARTS))
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{row[part]:.1e}" for part in PARTS) + " |")


if __name__ == "__main__":
    main()
