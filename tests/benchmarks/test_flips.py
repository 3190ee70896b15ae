"""benchmarks/flips.py: no file is used when a bit of it has flipped, or when it is cut.

The script itself takes ten times as many.
"""

import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def flips() -> Any:
    """benchmarks/flips.py."""
    sys.path.insert(0, str(FOLDER))
    try:
        import flips
    finally:
        sys.path.remove(str(FOLDER))
    return flips


def test_no_damaged_file_is_used(flips: Any, tmp_path: Path) -> None:
    """Most damages are refused: a reader that gives the same whatever it reads would show."""
    for name, kind in flips.kinds(tmp_path):
        for damage, times in ((flips.flipped, 20), (flips.cut, 6)):
            found = flips.damaged(kind, damage, times)
            assert found["served wrong"] == 0, (name, found)
            if name != "metrics.jsonl":  # of which a cut leaves what a stopped run has
                assert found["refused"] > times // 2, (name, found)
