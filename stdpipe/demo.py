"""The main job on embedded data, in minutes on two cores: what `make demo` runs.

extract -> train without and with STD from one cache -> evaluate -> one table and a report.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from stdpipe.evaluate import evaluate
from stdpipe.evaluation.job import Evaluation
from stdpipe.extract import extract_teacher
from stdpipe.features.extraction import Extraction
from stdpipe.models.base import count_parameters
from stdpipe.models.checkpoints import load_network
from stdpipe.report import write_report
from stdpipe.train import train_student
from stdpipe.training import config
from stdpipe.training.jobs import StudentRun

STUDENT = "fastdvdnet-quarter"
DEGRADATION = "bd"

NOTE = """\
A few hundred steps on four clips show the machinery, not the paper's gain: the two students may
come out in either order.
Under `bd`, LR samples sit 1.5 HR pixels off where bicubic interpolation puts them. Papers score it
so (first row); the second row samples at the true phase, and is the line to beat."""


def run_demo(out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Run it all under `out` (or resume), telling each step through `say`; returns the table."""
    assets = Path(str(files("stdpipe.assets")))
    data, teacher = assets / "sample", str(assets / "teacher.pt")
    cache = str(out / "cache.zarr")
    out.mkdir(parents=True, exist_ok=True)
    say(f"1/3 the teacher runs once over 4 clips; F^SR and attention go to {cache}")
    extract_teacher(Extraction(data=data, cache=cache, weights=teacher, degradation=DEGRADATION))
    students = {}
    for number, scheme in enumerate(("none", "std")):
        options = config.load(
            config.StudentTraining,
            Path(str(files("stdpipe.configs"))) / "demo.yaml",
            [f"scheme={scheme}"],
        )
        run = out / "runs" / scheme
        say(f"2/3 student {number + 1} of 2, scheme {scheme}: {options.steps} steps, in {run}")
        students[scheme] = train_student(StudentRun(data, STUDENT, run, cache), options)["weights"]
    say(f"3/3 five networks on 3 held-out clips; results and pictures in {out / 'results'}")
    networks = {
        "bicubic": ("bicubic", None),
        "bicubic, true phase": ("bicubic:phase=0", None),
        "student without distillation": (None, students["none"]),
        "student with STD": (None, students["std"]),
        "teacher": (None, teacher),
    }
    rows = [_row(name, *net, data, out, teacher) for name, net in networks.items()]
    page = _report(out, networks, [Path(weights).parent for weights in students.values()])
    return {
        "cache": cache,
        "runs": str(out / "runs"),
        "results": str(out / "results"),
        "report": page,
        "rows": rows,
        "text": _text(rows, out, cache, page),
    }


def _row(
    name: str, model: str | None, weights: str | None, data: Path, out: Path, teacher: str
) -> dict[str, Any]:
    folder = _folder(out, name)
    result = evaluate(
        Evaluation(
            data=data,
            model=model,
            weights=weights,
            degradation=DEGRADATION,
            protocol="vid4",
            out=folder,
            teacher_weights=teacher,
        )
    )
    parameters = count_parameters(load_network(model, weights)[0])
    return {"name": name, "parameters": parameters, **result["average"]}


def _folder(out: Path, name: str) -> Path:
    return out / "results" / name.replace(" ", "-").replace(",", "")


def _report(
    out: Path, networks: Mapping[str, tuple[str | None, str | None]], trained: Sequence[Path]
) -> str:
    """The page of all of it; networks go by their names here, and so do their runs."""
    # results call a network by its options in full, and weights by their file
    names = {"bicubic:phase=0.0": "bicubic, true phase"}
    names |= {weights: name for name, (_, weights) in networks.items() if weights}
    names |= {str(run): names[str(run / "weights.pt")] for run in trained}
    folders = [_folder(out, name) for name in networks]
    page = write_report([*folders, *trained], out / "report", labels=names, title="stdpipe demo")
    return str(page["report"])


def _above(rows: list[dict[str, Any]], name: str) -> float:
    """By how many dB the teacher, the last row, beats that one."""
    psnr = {row["name"]: float(row["psnr_y"]) for row in rows}
    return psnr["teacher"] - psnr[name]


def _text(rows: list[dict[str, Any]], out: Path, cache: str, page: str) -> str:
    lines = [
        f"Held-out clips, degradation {DEGRADATION}, protocol vid4 (every frame, no crop, 8 bits)",
        "",
        "| network | parameters | PSNR Y (dB) | SSIM Y |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {r['name']} | {r['parameters']:,} | {r['psnr_y']:.2f} | {r['ssim_y']:.4f} |"
            for r in rows
        ),
        "",
        f"The teacher is {_above(rows, 'bicubic'):.2f} dB above bicubic, and "
        f"{_above(rows, 'bicubic, true phase'):.2f} dB above bicubic at the true phase.",
        NOTE,
        "",
        f"cache:    {cache}",
        f"runs:     {out / 'runs'}",
        f"pictures: {out / 'results'}/*/pictures/*.png",
        f"report:   {page}",
    ]
    return "\n".join(lines)
