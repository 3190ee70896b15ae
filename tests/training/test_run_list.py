"""`stdpipe runs`: what lies in a folder of runs, beside what never was one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from stdpipe.evaluation.protocols import protocol
from stdpipe.evaluation.results import definition

Command = Callable[..., Any]


def make_run(root: Path, name: str, step: int = 3, **config: object) -> Path:
    run = root / name
    run.mkdir(parents=True)
    known = {"network": "fastdvdnet", "batch": 2, "steps": 3, "scheme": "std", "seed": 0}
    (run / "config.yaml").write_text(yaml.safe_dump(known | config))
    lines = [{"step": s, "loss": 1 / s, "steps_per_s": 2.5} for s in range(1, step + 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def make_result(folder: Path, psnr: float | None, sha256: str | None, **changes: object) -> None:
    """A result.json as evaluate writes it, but for its figures."""
    folder.mkdir(parents=True)
    figures = dict.fromkeys(("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb"), psnr)
    names = {"name": "n", "model": "n", "weights": "w", "trained_for": None, "excluded": []}
    network = {**names, "weights_sha256": sha256, "average": figures, "clips": {}}
    rules = definition(Path("/data/Vid4"), "bd", protocol("vid4"), "asked for", (), "none")
    (folder / "result.json").write_text(json.dumps({**rules, **network, **changes}))


def test_a_trained_run_and_its_evaluation(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command
) -> None:
    """The score is found by the weights, though the result lies in another folder."""
    run = tmp_path / "runs" / "std"
    stdpipe(*train(run, tiny, "--cache", tiny_cache))
    (row,) = json.loads(stdpipe("runs", tmp_path / "runs", "--json").stdout)["runs"]
    assert row["best"] == []
    out = tmp_path / "results" / "std"
    stdpipe("evaluate", "--data", tiny, "--weights", run / "weights.pt", "--out", out)
    measured = json.loads((out / "result.json").read_text())
    listed = stdpipe("runs", tmp_path / "runs", tmp_path / "results", "--json").stdout
    (row,) = json.loads(listed)["runs"]
    assert row["best"] == [
        {
            "data": str(tiny),
            "degradation": "bd",
            "protocol": measured["protocol"]["name"],
            "amp": "none",
            "psnr_y": measured["average"]["psnr_y"],
            "ssim_y": measured["average"]["ssim_y"],
            "result": str(out / "result.json"),
            "weights_sha256": measured["weights_sha256"],
        }
    ]
    assert (row["run"], row["scheme"], row["seed"]) == (str(run), "std", 0)
    assert (row["step"], row["steps"]) == (3, 3)
    assert row["loss"] > 0
    assert row["steps_per_s"] > 0


def test_the_best_of_each_data_set_and_rules(tmp_path: Path, stdpipe: Command) -> None:
    """A clip on which every network scores high says nothing of another run."""
    a, b = make_run(tmp_path, "a"), make_run(tmp_path, "b", network="edvr", seed=4)
    for number, psnr in enumerate((30.0, 31.5, None, 31.0)):
        make_result(a / "evaluation" / str(number), psnr, f"{number}")
    make_result(a / "easy", 45.0, "x", data="/data/black")
    make_result(a / "bf16", 31.4, "x", amp="bf16")
    make_result(b / "results", 32.5, "x")
    make_result(tmp_path / "elsewhere", 40.0, "of another network")
    rows = json.loads(stdpipe("runs", tmp_path, "--json").stdout)["runs"]
    best = [{(s["data"], s["amp"]): s["psnr_y"] for s in row["best"]} for row in rows]
    vid4 = ("/data/Vid4", "none")
    assert best[0] == {vid4: 31.5, ("/data/black", "none"): 45.0, ("/data/Vid4", "bf16"): 31.4}
    assert best[1] == {vid4: 32.5}
    head, _, first, second = stdpipe("runs", tmp_path).stdout.splitlines()
    assert "PSNR Y, Vid4 bd vid4 bf16" in head
    assert first.split()[:-3] == [str(a), "fastdvdnet", "std", "0", "3/3", "0.33333", "2.5"]
    assert sorted(first.split()[-3:]) == ["31.400", "31.500", "45.000"]
    assert sorted(second.split()[-3:]) == ["-", "-", "32.500"]


def test_a_run_on_its_way_and_data_of_one_name(tmp_path: Path, stdpipe: Command) -> None:
    run = make_run(tmp_path, "b", step=2)
    make_result(run / "1", 30.0, "x")
    make_result(run / "2", 31.0, "x", data="/other/Vid4")
    head, _, line = stdpipe("runs", tmp_path).stdout.splitlines()
    assert "2/3" in line
    assert "/data/Vid4" in head
    assert "/other/Vid4" in head


def test_what_is_no_run_is_passed_over(tmp_path: Path, stdpipe: Command) -> None:
    """Other configs, torn lines and results, and caches, which may hold millions of files."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("steps: [1")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "config.yaml").write_text("- 1\n")
    make_run(tmp_path / "cache.zarr", "hidden")
    make_run(tmp_path / "bytes", "run", network=b"edvr")
    (tmp_path / "other" / "result.json").write_text('{"average"')
    (tmp_path / "list" / "result.json").write_text('{"networks": [{"average": 3}]}')
    assert stdpipe("runs", tmp_path).stdout == "no runs here\n"
    assert json.loads(stdpipe("runs", tmp_path, "--json").stdout)["runs"] == []
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


def test_a_folder_named_twice_is_listed_once(tmp_path: Path, stdpipe: Command) -> None:
    make_run(tmp_path, "a")
    listed = stdpipe("runs", tmp_path, tmp_path, tmp_path / "a", "--json").stdout
    assert len(json.loads(listed)["runs"]) == 1
