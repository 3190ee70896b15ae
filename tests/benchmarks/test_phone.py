"""The table of files for phones, of a tiny network on tiny clips."""

import importlib.util
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "phone.py"


def run(out: Path, data: Path, *more: str) -> str:
    main = runpy.run_path(str(SCRIPT))["main"]
    words = ["rrn-8@random:0", "--data", data, "--out", out, "--size", "24x16", *more]
    ran = CliRunner().invoke(main, [str(word) for word in words])
    assert ran.exit_code == 0, ran.output
    return ran.stdout


@pytest.fixture
def data(tmp_path: Path, make_data: Callable[..., Any]) -> Path:
    made: Path = make_data(tmp_path / "data", clips=2, height=48, width=64)
    (made / "sep_trainlist.txt").write_text("00001/0001\n")
    (made / "sep_testlist.txt").write_text("00001/0002\n")
    return made


def test_one_format_of_a_network(tmp_path: Path, data: Path) -> None:
    """Half precision differs more; the figures of the table are those of the rows."""
    words = (tmp_path / "out", data, "--frames", "1", "--format", "torch")
    rows = json.loads(run(*words, "--json"))["rows"]
    assert [row["precision"] for row in rows] == ["fp32", "fp16"]
    assert rows[0]["largest"] < 1e-4 < rows[1]["largest"]
    table = runpy.run_path(str(SCRIPT))["table"](rows)
    assert f"{rows[1]['largest']:.1e}" in table


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxscript", "onnxruntime")),
    reason="pip install 'stdpipe[export]'",
)
def test_every_form_of_a_network(tmp_path: Path, data: Path) -> None:
    """ONNX has three precisions; the second call exports nothing again."""
    out = tmp_path / "out"
    rows = json.loads(run(out, data, "--frames", "1", "--json"))["rows"]
    found = {row["precision"]: row for row in rows if row["format"] == "onnx"}
    assert set(found) == {"fp32", "fp16", "int8"}
    assert found["fp32"]["largest"] < found["fp16"]["largest"] < found["int8"]["largest"]
    assert found["fp32"]["largest"] < 1e-4
    assert found["int8"]["bytes"] < found["fp32"]["bytes"]
    assert all(row["ms"] > 0 for row in rows)
    times = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    lines = run(out, data, "--frames", "1").splitlines()
    assert sum("rrn-8" in line for line in lines) == len(rows)
    assert times == {file: file.stat().st_mtime_ns for file in out.iterdir()}
