"""stdpipe bench: exported files side by side, from export's own output."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxscript", "onnxruntime")),
    reason="pip install 'stdpipe[export]'",
)


@pytest.fixture
def exported(tmp_path: Path, stdpipe: Command) -> Callable[..., Path]:
    def export(name: str, *more: object, size: str = "32x24", model: str = "rrn-8") -> Path:
        out = tmp_path / name
        given = ("--model", model, "--weights", "random:0", "--size", size, "--out", out)
        stdpipe("export", *given, *more)
        return out

    return export


@needs_onnx
def test_files_of_two_formats(exported: Command, stdpipe: Command) -> None:
    """Each has its time, size and memory; the fastest stands first in the table."""
    files = [exported("a.onnx"), exported("b.pt2", "--format", "torch")]
    files.append(exported("c.pt2", "--format", "torch", model="fastdvdnet-eighth"))
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
    times = [float(row[3]) for row in rows[1:]]
    assert times == sorted(times)
    assert len(times) == 3


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
    beside = tmp_path / "b.pt2.json"
    text = beside.read_text()
    beside.write_text(text.replace('"torch"', '"onnx"'))
    assert "export it again" in refused("bench", file)
    beside.unlink()
    assert "b.pt2.json" in refused("bench", file)
