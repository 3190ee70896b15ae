"""Tests test the code that lies beside them, or nothing."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "mixed",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["another checkout", "half of another"],
)
def test_the_tests_of_another_checkout_do_not_run(tmp_path: Path, mixed: bool) -> None:
    """A second checkout, whose stdpipe/ is found first (`mixed`) or not at all; what is installed
    is this one. One line names both folders, and no test of the second one has run."""
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "tests" / "test_it.py").write_text("def test_it(): open('it-ran', 'w')\n")
    if mixed:
        (tmp_path / "stdpipe").mkdir()
        shutil.copy(ROOT / "stdpipe" / "__init__.py", tmp_path / "stdpipe")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    mine, other = ("cache", "stdpipe.cache") if mixed else ("stdpipe", "stdpipe")
    (line,) = [text for text in (done.stdout + done.stderr).splitlines() if other in text]
    assert str(ROOT / mine) in line
    assert str(tmp_path / mine) in line
    assert not (tmp_path / "it-ran").exists()
