"""What do none, sd, td, std, or the schemes named, give one student, at the same seed and steps,
from one cache?

python benchmarks/schemes.py --data FOOTAGE --vid4 VID4/GT --out DIR [--steps N] [--json]
Extracts every training clip, trains the quarter-size FastDVDnet once a scheme, and evaluates all of
them and bicubic on the data's test list and on Vid4, degradation bd. Give the same
command again to resume. The figures are PSNR in dB on luma, protocol vid4.
"""

import argparse
import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from timing import machine

from stdpipe import config
from stdpipe.distill.schemes import needs, parse_scheme
from stdpipe.evaluate import Evaluation, evaluate
from stdpipe.extract import Extraction, extract_teacher
from stdpipe.train import StudentRun, train_student

STUDENT = "fastdvdnet-quarter"
SCHEMES = ("none", "sd", "td", "std")


def scores(out: Path, model: str | None, weights: str | None, sets: dict[str, Path]) -> Any:
    """Average PSNR by data set; a result that is there already is not measured again."""
    found = {}
    for name, data in sets.items():
        file = out / name / "result.json"
        if not file.exists():
            rules = {"degradation": "bd", "protocol": "vid4"}
            evaluate(Evaluation(data, model, weights, **rules, out=out / name))
        found[name] = json.loads(file.read_text())["average"]["psnr_y"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--vid4", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--schemes", nargs="*", default=SCHEMES, help="names or sums")
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--teacher", action="store_true", help="score the teacher, too")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    out: Path = arguments.out
    teacher = str(files("stdpipe.assets") / "teacher.pt")
    cache = str(out / "cache.zarr")
    f_lr = any("f_lr" in needs(parse_scheme(scheme)) for scheme in arguments.schemes)
    targets = ("f_sr", "attention", "f_lr") if f_lr else ("f_sr", "attention")
    job = Extraction(arguments.data, cache, weights=teacher, degradation="bd", targets=targets)
    print(extract_teacher(job), file=sys.stderr)
    sets = {"footage": arguments.data, "vid4": arguments.vid4}
    rows = {
        "bicubic": scores(out / "bicubic", "bicubic", None, sets),
        "bicubic, true phase": scores(out / "bicubic-phase", "bicubic:phase=0", None, sets),
    }
    settings: dict[str, Any] = {
        "steps": arguments.steps,
        "warmup_steps": arguments.warmup,
        "batch": 2,
        "patch": arguments.patch,
        "lr": 5e-4,
        "schedule": "cosine",
        "seed": 0,
    }
    for scheme in arguments.schemes:
        options = config.from_mapping(config.StudentTraining, {**settings, "scheme": scheme})
        run = StudentRun(arguments.data, STUDENT, out / "runs" / scheme, cache)
        weights = train_student(run, options)["weights"]
        rows[f"{STUDENT}, {scheme}"] = scores(out / scheme, None, weights, sets)
        print(scheme, rows[f"{STUDENT}, {scheme}"], file=sys.stderr, flush=True)
    if arguments.teacher:
        rows["teacher"] = scores(out / "teacher", None, teacher, sets)
    if arguments.json:
        result = {"name": "schemes", "machine": machine(), "settings": settings, "psnr_y": rows}
        print(json.dumps(result, indent=2))
        return
    print("| network | footage test list | Vid4 |\n| --- | ---: | ---: |")
    for name, row in rows.items():
        print(f"| {name} | {row['footage']:.3f} | {row['vid4']:.3f} |")


if __name__ == "__main__":
    main()
