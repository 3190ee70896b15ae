"""The training loops in examples/, as anyone would run them: each in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import stdpipe as api

Command = Callable[..., Any]
EXAMPLES = Path(__file__).parents[2] / "examples"
LOOPS = ("plain_loop.py", "lightning_loop.py", "accelerate_loop.py", "foreign_student.py")
STEPS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_data: Command) -> Path:
    """Clips as large as the examples' crops."""
    return Path(make_data(tmp_path_factory.mktemp("loops") / "data", 3, 64, 80))


@pytest.fixture(scope="module")
def cache(data: Path, stdpipe: Command, extract: Command) -> Path:
    stdpipe(*extract(data, data.parent / "c.zarr"))
    return data.parent / "c.zarr"


def run(words: Sequence[object]) -> str:
    """Run an example, with nothing that a test has set but one thread, on a CPU."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=EXAMPLES, env=environment, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_this_process(data: Path, cache: Path, scheme: str) -> list[float]:
    """The plain loop's losses."""
    code = (
        "import sys, torch; from plain_loop import train; from foreign_student import PixelNet; "
        "torch.manual_seed(0); data, cache, scheme, steps = sys.argv[1:]; "
        "print(*train(PixelNet(), data, cache, scheme, int(steps)))"
    )
    return [float(x) for x in run(["-c", code, data, cache, scheme, STEPS]).split()]


def test_a_plain_loop(tmp_path: Path, data: Path, cache: Path) -> None:
    """Trains the student of someone who never heard of stdpipe, and measures it."""
    out = tmp_path / "student.pt"
    told = run(["plain_loop.py", data, cache, out, 50])
    assert "PSNR" in told
    weights = torch.load(out)
    assert not any(name.startswith("distillation") for name in weights)


ACCELERATE = [
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc_per_node",
    "2",
    "accelerate_loop.py",
]


@pytest.mark.parametrize(
    ("library", "scheme"),
    [
        ("accelerate", "output"),
        pytest.param("accelerate", "std", marks=pytest.mark.slow),
        pytest.param("lightning", "output", marks=pytest.mark.slow),
        pytest.param("lightning", "std", marks=pytest.mark.slow),
    ],
)
def test_two_processes_are_one(data: Path, cache: Path, library: str, scheme: str) -> None:
    """A loss each step within 1e-6 of one process with the same clips, relative to its size."""
    pytest.importorskip(library)
    launch = ACCELERATE if library == "accelerate" else ["lightning_loop.py"]
    losses = [float(x) for x in run([*launch, data, cache, scheme, STEPS]).splitlines()[-1].split()]
    assert losses == pytest.approx(in_this_process(data, cache, scheme), rel=1e-6)


@pytest.mark.parametrize("scheme", ["output", "sd"])
def test_a_foreign_student_from_python_alone(
    tmp_path: Path, data: Path, cache: Path, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained, measured and used; it learns, and its own file stays its own."""
    monkeypatch.syspath_prepend(EXAMPLES)
    from foreign_student import PixelNet
    from plain_loop import train

    torch.manual_seed(0)
    student = PixelNet()
    before = api.evaluate_network(student, data)["average"]["psnr_y"]
    losses = train(student, str(data), str(cache), scheme, 40, workers=0)
    assert sum(losses[-5:]) < sum(losses[:5])
    found = api.evaluate_network(student, data)
    assert found["average"]["psnr_y"] != before
    assert found["model"] == "PixelNet"
    made = api.upscale_video(data / "sequences/00001/0001", tmp_path / "out", student)
    assert (made["frames"], made["width"]) == (7, 320)


def test_examples_are_short() -> None:
    for name in LOOPS:
        assert len((EXAMPLES / name).read_text().splitlines()) < 60, name
