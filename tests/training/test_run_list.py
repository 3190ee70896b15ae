"""`stdpipe runs`: what lies in a folder of runs, beside what never was one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Command = Callable[..., Any]


def make_run(root: Path, name: str, step: int = 3, **config: object) -> Path:
    run = root / name
    run.mkdir(parents=True)
    known = {"network": "fastdvdnet", "batch": 2, "steps": 3, "scheme": "std", "seed": 0}
    (run / "config.yaml").write_text(yaml.safe_dump(known | config))
    lines = [{"step": s, "loss": 1 / s, "steps_per_s": 2.5} for s in range(1, step + 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def make_result(folder: Path, psnr: float | None, sha256: str | None) -> None:
    folder.mkdir(parents=True)
    network = {"average": {"psnr_y": psnr, "ssim_y": 0.5}, "weights_sha256": sha256}
    rules = {"protocol": {"name": "vid4"}, "data": "/data/Vid4"}
    (folder / "result.json").write_text(json.dumps(rules | network))


def test_a_trained_run_and_its_evaluation(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command
) -> None:
    """The score is found by the weights, though the result lies in another folder."""
    run = tmp_path / "runs" / "std"
    stdpipe(*train(run, tiny, "--cache", tiny_cache))
    (row,) = json.loads(stdpipe("runs", tmp_path / "runs", "--json").stdout)["runs"]
    assert row["best"] is None
    out = tmp_path / "results" / "std"
    stdpipe("evaluate", "--data", tiny, "--weights", run / "weights.pt", "--out", out)
    measured = json.loads((out / "result.json").read_text())
    listed = stdpipe("runs", tmp_path / "runs", tmp_path / "results", "--json").stdout
    (row,) = json.loads(listed)["runs"]
    assert row["best"].pop("weights_sha256") == measured["weights_sha256"]
    assert row["best"] == {
        "psnr_y": measured["average"]["psnr_y"],
        "ssim_y": measured["average"]["ssim_y"],
        "protocol": measured["protocol"]["name"],
        "data": str(tiny),
        "result": str(out / "result.json"),
    }
    assert (row["run"], row["scheme"], row["seed"]) == (str(run), "std", 0)
    assert (row["step"], row["steps"]) == (3, 3)
    assert row["loss"] > 0
    assert row["steps_per_s"] > 0


def test_the_best_of_several_results(tmp_path: Path, stdpipe: Command) -> None:
    run = make_run(tmp_path, "a")
    for number, psnr in enumerate((30.0, 31.5, None, 31.0)):
        make_result(run / "evaluation" / str(number), psnr, f"{number}")
    make_result(tmp_path / "elsewhere", 40.0, "of another network")
    (row,) = json.loads(stdpipe("runs", tmp_path, "--json").stdout)["runs"]
    assert row["best"]["psnr_y"] == 31.5


def test_the_table(tmp_path: Path, stdpipe: Command) -> None:
    make_run(tmp_path, "b", step=2, network="edvr", scheme="none", seed=4)
    make_result(make_run(tmp_path, "a") / "results", 31.5, "x")
    head, first, second = stdpipe("runs", tmp_path).stdout.splitlines()
    assert head.split() == [
        "run", "network", "scheme", "seed", "step", "loss", "steps/s", "best", "PSNR", "Y",
    ]  # fmt: skip
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert first.split() == [
        a, "fastdvdnet", "std", "0", "3/3", "0.33333", "2.5", "31.500", "(vid4", "on", "Vid4)",
    ]  # fmt: skip
    assert second.split() == [b, "edvr", "none", "4", "2/3", "0.5", "2.5", "-"]


def test_what_is_no_run_is_passed_over(tmp_path: Path, stdpipe: Command) -> None:
    """Other configs, torn lines and results, and caches, which may hold millions of files."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("steps: [1")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "config.yaml").write_text("- 1\n")
    make_run(tmp_path / "cache.zarr", "hidden")
    (tmp_path / "other" / "result.json").write_text('{"average"')
    (tmp_path / "list" / "result.json").write_text('{"networks": [{"average": 3}]}')
    assert stdpipe("runs", tmp_path).stdout == "no runs here\n"
    run = make_run(tmp_path, "torn")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    (row,) = json.loads(stdpipe("runs", tmp_path, "--json").stdout)["runs"]
    assert row["step"] == 3
    (run / "metrics.jsonl").unlink()
    (row,) = json.loads(stdpipe("runs", tmp_path, "--json").stdout)["runs"]
    assert (row["step"], row["loss"]) == (0, None)


def test_no_such_folder(tmp_path: Path, refused: Command) -> None:
    assert refused("runs", tmp_path / "no") == f"stdpipe: no folder {tmp_path / 'no'}"


@pytest.mark.parametrize("times", [1, 2])
def test_a_folder_named_twice_is_listed_once(tmp_path: Path, stdpipe: Command, times: int) -> None:
    make_run(tmp_path, "a")
    listed = stdpipe("runs", *[tmp_path] * times, tmp_path / "a", "--json").stdout
    assert len(json.loads(listed)["runs"]) == 1
