"""Files that stdpipe 0.1.0 wrote still open and give the same numbers; golden/README.md says how
they were made."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
GOLDEN = Path(__file__).parents[1] / "golden"
STUDENT = ("--student", "vdsr:num_layer=3,num_feat=4", "--scheme", "sd", "--device", "cpu")
SETTINGS = {
    "steps": 6, "patch": 16, "batch": 1, "log_every": 1, "save_every": 2, "warmup_steps": 1,
    "workers": 0,
}  # fmt: skip
TRAIN = ("train-student", "--data", "data", "--cache", "c.zarr", *STUDENT, "--config", "paper")
TRAIN += tuple(word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}"))
LAST = {
    "loss": [37.90277099609375, 37.63591384887695],
    "sd": [37.83562469482422, 37.56877899169922],
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, make_data: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the files of 0.1.0, beside the clips, in the current folder."""
    shutil.copytree(GOLDEN / "v0.1.0", tmp_path, dirs_exist_ok=True)
    data = make_data(tmp_path / "data", clips=2, height=32, width=32)
    (data / "sep_trainlist.txt").write_text("00001/0001\n")
    monkeypatch.chdir(tmp_path)


def logged(run: str, part: str) -> list[float]:
    steps = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return [step[part] for step in steps if part in step]


def test_the_cache_is_whole(stdpipe: Command) -> None:
    assert json.loads(stdpipe("cache", "verify", "c.zarr", "--json").stdout)["ok"] == 1
    info = json.loads(stdpipe("cache", "info", "c.zarr", "--json").stdout)
    assert info["encoding"] == "int8"
    assert info["cache_id"] == json.loads(Path("c.zarr/manifest.json").read_text())["cache_id"]


def test_a_student_learns_from_the_cache_as_it_did(stdpipe: Command) -> None:
    before = {part: logged("run", part) + LAST[part] for part in LAST}
    stdpipe(*TRAIN, "--out", "new")
    assert {part: logged("new", part) for part in LAST} == {
        part: pytest.approx(values, rel=1e-5) for part, values in before.items()
    }


def test_the_run_goes_on_where_it_stopped(stdpipe: Command) -> None:
    stdpipe(*TRAIN, "--out", "run")
    for part, values in LAST.items():
        assert logged("run", part)[-2:] == pytest.approx(values, rel=1e-5)
    (row,) = json.loads(stdpipe("runs", "run", "--json").stdout)["runs"]
    assert row["step"] == 6


def test_the_weights_measure_what_they_did(stdpipe: Command) -> None:
    """PSNR to a thousandth of a decibel."""
    stdpipe("evaluate", "--data", "data", "--weights", "weights.pt", "--out", "new")
    before, now = (json.loads(Path(out, "result.json").read_text()) for out in ("result", "new"))
    assert now["average"] == pytest.approx(before["average"], abs=1e-3)


def test_the_report_shows_run_and_result(stdpipe: Command) -> None:
    stdpipe("report", "result", "run", "--out", "report")
    (page,) = Path("report").glob("*.html")
    assert "25.06" in page.read_text()  # the result's PSNR
