"""The whole pipeline through the installed script, as a user runs it, in processes of its own."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
SCRIPT = Path(sys.executable).with_name("stdpipe")
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="stdpipe is not installed here")


def script(*arguments: object, cwd: Path) -> dict[str, Any]:
    """One command with --json: exit 0, one JSON document on stdout, silence on stderr."""
    command = [str(SCRIPT), *map(str, arguments), "--json"]
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.slow  # four processes import torch; tests/cli/test_help.py runs the same chain in one
def test_from_clips_to_numbers(
    tmp_path: Path, tiny: Path, extract: Command, train: Command
) -> None:
    """One cache, a trained teacher, a distilled student and its score; relative paths, moved."""
    shutil.copytree(tiny, tmp_path / "a" / "data")
    here, data = tmp_path / "a", Path("data")
    settings = [x for s in ("steps=2", "batch=1", "patch=32") for x in ("--set", s)]
    net = "edvr:num_feat=8,deformable_groups=2,num_frame=3"
    teacher = script(
        "train-teacher", "--data", data, "--teacher", net, "--out", "t", *settings, cwd=here
    )
    made = script(
        "extract-teacher", "--data", data, "--weights", teacher["weights"], "--cache", "c", cwd=here
    )
    assert made["teacher"] == teacher["network"]
    (tmp_path / "a").rename(tmp_path / "b")
    here = tmp_path / "b"
    student = script(*train("run", data, "--cache", "c", workers=1), cwd=here)
    assert student.keys() >= {"weights", "scheme", "loss", "rec", "sd", "td"}
    found = script(
        "evaluate", "--data", data, "--weights", student["weights"], "--out", "r", cwd=here
    )
    assert found["model"] == student["network"]
    assert found["trained_for"] == found["degradation"]["name"] == "bd"
    assert 5 < found["average"]["psnr_y"] < 60


@pytest.mark.slow
def test_a_users_own_network(tmp_path: Path, tiny: Path, extract: Command, train: Command) -> None:
    """A class in a file beside the command learns from the cache, and is found again by name."""
    (tmp_path / "mine.py").write_text(
        "from stdpipe.models.fastdvdnet import FastDVDnet\n"
        "class Small(FastDVDnet):\n"
        "    def __init__(self, num_feat: int = 4, phase: float = 1.5) -> None:\n"
        "        super().__init__(num_feat, phase=phase)\n"
    )
    (tmp_path / "pack").mkdir()
    shutil.move(tmp_path / "mine.py", tmp_path / "pack" / "mine.py")
    name = "pack.mine:Small"
    student = script(*train("run", tiny, "--scheme", "none", "--student", name), cwd=tmp_path)
    assert student["network"] == f"{name}:phase=0.0"
    measure = ("evaluate", "--data", tiny, "--weights", "run/weights.pt")
    found = script(*measure, "--model", name, cwd=tmp_path)  # a file's word alone imports nothing
    assert found["model"] == student["network"]
