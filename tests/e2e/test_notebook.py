"""examples/quickstart.ipynb runs from its first cell to its last, and what it shows is small."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"
RUN = """
import sys, nbformat
from nbclient import NotebookClient
notebook, folder, out = sys.argv[1:]
book = nbformat.read(notebook, 4)
where = {"metadata": {"path": folder}}
NotebookClient(book, timeout=300, kernel_name="python3", resources=where).execute()
nbformat.write(book, out)
"""


def shown(book: dict[str, Any]) -> list[list[str]]:
    """The kinds of what each cell shows."""
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    return [[one["output_type"] for one in cell["outputs"]] for cell in cells]


@pytest.mark.slow
def test_it_runs(tmp_path: Path) -> None:
    """With few steps; it shows the kinds of things that the committed one shows."""
    pytest.importorskip("nbclient")
    committed = NOTEBOOK.read_text()
    assert "STEPS = 200" in committed
    short, made = tmp_path / "short.ipynb", tmp_path / "made.ipynb"
    short.write_text(committed.replace("STEPS = 200", "STEPS = 3"))
    done = subprocess.run(
        [sys.executable, "-c", RUN, short, NOTEBOOK.parent, made], check=False, timeout=400,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert shown(json.loads(made.read_text())) == shown(json.loads(committed))


def test_it_is_committed_as_it_ran() -> None:
    """With its outputs, in order, without an error, under 200 KB."""
    book = json.loads(NOTEBOOK.read_text())
    counts = [cell["execution_count"] for cell in book["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert not any("error" in kinds for kinds in shown(book))
    assert any("display_data" in kinds for kinds in shown(book))
    assert NOTEBOOK.stat().st_size < 200_000
