"""The front of quality against cost, from a real evaluation."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "front.py"


def test_table_and_picture(tmp_path: Path, tiny: Path, stdpipe: Callable[..., Any]) -> None:
    """A network is on the front where none is better at its cost; the picture names all."""
    names = ("bicubic", "bicubic:phase=0")
    models = [word for name in names for word in ("--model", name)]
    found = stdpipe("evaluate", "--data", tiny, *models, "--metrics", "quality", "--json").stdout
    result = json.loads(found)
    good, bad = (dict(result["networks"][0]) for _ in range(2))
    good |= {"name": "a @ w.pt", "model": "rrn-8"}
    bad |= {"name": "b", "model": "rrn-32", "average": {**bad["average"], "psnr_y": 1.0}}
    (tmp_path / "r.json").write_text(json.dumps({**result, "networks": [good, bad]}))
    picture = tmp_path / "front.svg"
    main = runpy.run_path(str(SCRIPT))["main"]

    def run(*words: object) -> str:
        ran = CliRunner().invoke(main, [str(word) for word in words])
        assert ran.exit_code == 0, ran.output
        return ran.stdout

    rows = json.loads(run(tmp_path / "r.json", "--json", "--svg", picture))["rows"]
    assert [(row["network"], row["front"]) for row in rows] == [("rrn-8", True), ("rrn-32", False)]
    assert rows[0]["weights"] == "w.pt"
    assert abs(rows[0]["gmac"] - 0.2333) < 1e-3
    assert all(name in picture.read_text() for name in ("rrn-8", "rrn-32"))
    (tmp_path / "real.json").write_text(found)
    assert "bicubic:phase=0" in run(tmp_path / "real.json")
