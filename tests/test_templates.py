"""Cells of tables: whatever a clip or a network is called, a table stays a table."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given, strategies as st

from stdpipe.evaluation.frame_log import FrameLog, read_frames
from stdpipe.templates import csv_cell, from_csv_cell, markdown_cell, markdown_table

Command = Callable[..., Any]
NAMES = ("a|b", "a\nb", "a\rb", "=1+1", "+1", "-1", "@a", " =1", "'=1", "''+1", "'a", '"q",', "<b>")
SIGNS = st.text(st.sampled_from("'=+-@ \t\r\n|,\"ab"), max_size=6)


@given(SIGNS)
def test_a_csv_cell_comes_back(text: str) -> None:
    """Through the file, too; and no spreadsheet computes it."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow([csv_cell(text), "x"])
    ((cell, last),) = csv.reader(io.StringIO(file.getvalue()))
    assert last == "x"
    assert from_csv_cell(cell) == text
    assert cell.lstrip()[:1] not in ("=", "+", "-", "@") or not cell


@given(st.text(st.sampled_from("abc'_./:0"), max_size=6))
def test_a_plain_name_is_written_as_before(text: str) -> None:
    """So that older files come back as they are."""
    assert csv_cell(text) == from_csv_cell(text) == markdown_cell(text) == text


def rows(table: str) -> list[int]:
    """The number of cells in each line of a Markdown table."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [len(re.findall(r"(?<!\\)\|", line)) - 1 for line in lines]


def test_a_markdown_table_has_its_cells() -> None:
    table = markdown_table(["name|s", "n"], [[name, "1"] for name in NAMES])
    assert rows(table) == [2] * (len(NAMES) + 2)
    assert len(table.splitlines()) == len(NAMES) + 2
    assert "<" not in table


def test_a_log_goes_on_with_any_name(tmp_path: Path) -> None:
    """What was scored of such clips, by such networks, is found again."""

    def log() -> FrameLog:
        lengths = dict.fromkeys(NAMES, 1)
        names, now = ["=n|et", "-n"], lambda _key, there: there
        return FrameLog(tmp_path, {"is": "x"}, names, lengths, ("psnr_y",), now)

    first = log()
    for name in NAMES:
        row = [{"frame": 0, "psnr_y": -1.5}]
        first.add(name, {"=n|et": row, "-n": row}, {"start": 0, "stop": 1, "crc32": [0]})
    again = log()
    assert again.done == set(NAMES)
    assert again.networks == first.networks


def test_a_result_of_any_names(tmp_path: Path, folders: Path, stdpipe: Command) -> None:
    """Its tables, its frames and a report of it."""
    data = tmp_path / "data"
    for name in NAMES:
        shutil.copytree(folders / "0001", data / name)
    out = tmp_path / "r"
    run = ("--model", "bicubic", "--model", "bicubic:phase=0", "--pictures", 1)
    shown = stdpipe("evaluate", "--data", data, *run, "--out", out).output
    assert len(set(rows(shown))) <= 2  # the summary's, and those of the clips
    assert rows((out / "table.md").read_text()) == rows(shown)
    result = json.loads((out / "result.json").read_text())
    assert set(result["networks"][0]["clips"]) == set(NAMES)
    found = read_frames(out / "frames.csv")
    assert all(set(clips) == set(NAMES) for clips in found.values())
    with (out / "frames.csv").open(newline="") as file:
        cells = [cell for line in csv.reader(file) for cell in line[:2]]
    assert not [cell for cell in cells if cell.lstrip()[:1] in ("=", "+", "-", "@")]
    stdpipe("report", out, "--out", tmp_path / "page")
