"""Every script of benchmarks/ can be loaded: what it imports is there, under that name.

The other tests of this folder run them; most of those are slow.
"""

import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))
SCRIPTS = [script for script in SCRIPTS if script.stem != "one_reader"]  # has arguments, no main()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_it_can_be_loaded(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a module, so that it measures nothing; its neighbours are found as when it is run."""
    monkeypatch.syspath_prepend(str(script.parent))
    before = set(sys.modules)
    assert runpy.run_path(str(script), run_name=script.stem)
    for name in set(sys.modules) - before:  # a neighbour, which must not shadow another module
        if getattr(sys.modules[name], "__file__", None) in map(str, SCRIPTS):
            del sys.modules[name]
