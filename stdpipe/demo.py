"""Run the main job on embedded data, in minutes on two cores: what `make demo` runs.

extract -> train without and with STD from one cache -> evaluate -> one table and a report.
"""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from stdpipe.assets import SAMPLE, TEACHER
from stdpipe.evaluate import evaluate
from stdpipe.evaluation.job import Evaluation
from stdpipe.extract import extract_teacher
from stdpipe.features.extraction import Extraction
from stdpipe.models.base import count_parameters
from stdpipe.models.checkpoints import load_network
from stdpipe.report import write_report
from stdpipe.templates import fill, markdown_table
from stdpipe.train import train_student
from stdpipe.training import config
from stdpipe.training.jobs import StudentRun

STUDENT = "rrn:head=f_sr"
DEGRADATION = "bd"
CHANGES = {"none": ("scheme=none",), "taught": ()}
TAUGHT = {"none": "student without a teacher", "taught": "student with a teacher"}


def run_demo(out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Run or resume the whole demo under `out`, and announce each step through `say`.

    Returns the table's `rows`, the paths of all outputs, and both as `text`.
    """
    cache, runs, results = str(out / "cache.zarr"), out / "runs", out / "results"
    out.mkdir(parents=True, exist_ok=True)
    say(f"1/3 the teacher runs once over 4 clips; its image, F^SR and attention go to {cache}")
    extract_teacher(
        Extraction(data=SAMPLE, cache=cache, weights=str(TEACHER), degradation=DEGRADATION)
    )
    demo = Path(str(files("stdpipe.configs"))) / "demo.yaml"
    networks = {"bicubic": "bicubic", "bicubic, true phase": "bicubic:phase=0"}
    for number, (scheme, name) in enumerate(TAUGHT.items(), start=1):
        options = config.load(config.StudentTraining, demo, CHANGES[scheme])
        run = runs / scheme
        say(f"2/3 student {number} of 2, {scheme}: {options.steps} steps, in {run}")
        trained = train_student(StudentRun(SAMPLE, STUDENT, run, cache), options)
        networks[name] = f"@{trained['weights']}"
    networks["teacher"] = f"@{TEACHER}"
    say(f"3/3 {len(networks)} networks on 3 held-out clips; results and pictures in {results}")
    model, *others = networks.values()
    rules: dict[str, Any] = {"degradation": DEGRADATION, "protocol": "vid4"}
    found = evaluate(Evaluation(SAMPLE, model, others=tuple(others), out=results, **rules))
    measured = dict(zip(networks, found["networks"], strict=True))
    labels = {each["name"]: name for name, each in measured.items()}
    labels |= {str(runs / scheme): name for scheme, name in TAUGHT.items()}
    folders = [results, *(runs / scheme for scheme in TAUGHT)]
    page = write_report(folders, out / "report", clips=1, labels=labels, title="stdpipe demo")
    rows = [
        {
            "name": name,
            "parameters": count_parameters(load_network(each["model"], each["weights"])[0]),
            **each["average"],
        }
        for name, each in measured.items()
    ]
    where = {"cache": cache, "runs": str(runs), "results": str(results), "report": page["report"]}
    head = ["network", "parameters", "PSNR Y (dB)", "SSIM Y"]
    forms = {"name": "", "parameters": ",", "psnr_y": ".2f", "ssim_y": ".4f"}
    cells = [[format(row[key], form) for key, form in forms.items()] for row in rows]
    psnr = {row["name"]: row["psnr_y"] for row in rows}
    line, without, taught = (psnr[name] for name in ("bicubic, true phase", *TAUGHT.values()))
    facts = {"psnr": psnr, "line": line, "without": without, "taught": taught, "where": where}
    facts |= {"degradation": DEGRADATION, "steps": options.steps}
    text = fill("stdpipe", "demo.md", {"table": markdown_table(head, cells), **facts})
    return {**where, "rows": rows, "text": text}
