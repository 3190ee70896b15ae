"""stdpipe bench: exported files side by side, from export's own output."""

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stdpipe.models.checkpoints import load_network, save_network

Command = Callable[..., Any]
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxscript", "onnxruntime")),
    reason="pip install 'stdpipe[export]'",
)


@pytest.fixture
def exported(tmp_path: Path, stdpipe: Command) -> Callable[..., Path]:
    def export(name: str, *more: object, size: str = "32x24", model: str = "rrn-8") -> Path:
        out = tmp_path / name
        given = ("--model", model, "--weights", "random:0", "--out", out)
        given += ("--size", size) * bool(size)
        stdpipe("export", *given, *more)
        return out

    return export


@needs_onnx
def test_files_of_two_formats(exported: Command, stdpipe: Command) -> None:
    """Each has its time, size and memory; the fastest stands first in the table."""
    files = [exported("a.onnx"), exported("b.pt2", "--format", "torch")]
    files.append(exported("c.pt2", "--format", "torch", "--precision", "fp16"))
    found = json.loads(stdpipe("bench", *files, "--frames", 3, "--json").stdout)
    assert (found["threads"], found["frames"]) == (1, 3)
    assert [each["format"] for each in found["files"]] == ["onnx", "torch", "torch"]
    for each, file in zip(found["files"], files, strict=True):
        assert 0 < each["ms"] <= each["ms_90"]
        assert each["bytes"] == file.stat().st_size
        assert each["peak_bytes"] > 0
        assert each["delegated"] is None
    text = stdpipe("bench", *files, "--frames", 1, "--size", "32x24").stdout
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    times = [float(row[4]) for row in rows[1:]]
    assert times == sorted(times)
    assert len(times) == 3


@needs_onnx
def test_files_of_any_size(exported: Command, stdpipe: Command, refused: Command) -> None:
    """One whose state is as large as the frames, and one whose frames and state are padded."""
    files = [exported("a.onnx", size=""), exported("b.onnx", size="", model="fastdvdnet-eighth")]
    found = json.loads(stdpipe("bench", *files, "--size", "33x26", "--frames", 1, "--json").stdout)
    assert [each["size"] for each in found["files"]] == [[33, 26], [33, 26]]
    assert "--size" in refused("bench", *files)


def test_bad_input(tmp_path: Path, exported: Command, refused: Command) -> None:
    """One line each: no exported file, one of another size, one without what lies beside it."""
    file = exported("b.pt2", "--format", "torch")
    other = tmp_path / "weights.pt"
    other.write_bytes(b"")
    assert ".onnx" in refused("bench", other)
    assert "no.onnx" in refused("bench", tmp_path / "no.onnx")
    told = refused("bench", file, "--size", "64x24")
    assert "32x24" in told
    assert "64x24" in told
    larger = exported("c.pt2", "--format", "torch", size="36x24")
    told = refused("bench", file, larger)
    assert "32x24, 36x24" in told
    beside = tmp_path / "b.pt2.json"
    text = beside.read_text()
    beside.write_text(text.replace('"torch"', '"onnx"'))
    assert "export it again" in refused("bench", file)
    beside.unlink()
    assert "b.pt2.json" in refused("bench", file)


@needs_onnx
def test_the_report_plots_quality_over_milliseconds(
    tmp_path: Path, tiny: Path, stdpipe: Command, refused: Command
) -> None:
    """Of the network whose weights a measured file holds, and of no other."""
    net, facts = load_network("rrn-8", "random:0")
    save_network(tmp_path / "w.pt", net, facts["network"], "bd")
    networks = ("--model", f"@{tmp_path / 'w.pt'}", "--model", "rrn-8@random:1")
    rules = ("--protocol", "vid4", "--crop", 8)
    stdpipe("evaluate", "--data", tiny, *networks, *rules, "--out", tmp_path / "e")
    files = [tmp_path / "s.onnx", tmp_path / "s.pt2"]
    for file, kind in zip(files, ("onnx", "torch"), strict=True):
        given = ("--weights", tmp_path / "w.pt", "--size", "16x12", "--format", kind)
        stdpipe("export", *given, "--out", file)
    told = stdpipe("bench", *files, "--frames", 2, "--json").stdout
    (tmp_path / "bench.json").write_text(told)
    fastest = min(row["ms"] for row in json.loads(told)["files"])
    out = tmp_path / "page"
    stdpipe("report", tmp_path / "e", "--bench", tmp_path / "bench.json", "--out", out)
    page = (out / "index.html").read_text()
    charts = [
        json.loads(x) for x in re.findall(r'<script type="application/json">(.*?)</script>', page)
    ]
    (chart,) = (x for x in charts if x.get("kind") == "points")
    assert [point["x"].get("ms_as_file") for point in chart["points"]] == [fastest, None]
    assert chart["marks"]["ms_as_file"][0] == 33
    assert f"{fastest:.1f}</td>" in page
    (tmp_path / "bench.json").write_text("{}")
    again = ("report", tmp_path / "e", "--bench", tmp_path / "bench.json", "--out", out)
    assert "bench.json" in refused(*again)
