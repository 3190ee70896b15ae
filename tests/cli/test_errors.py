"""How commands fail: one line, the exit code that says whose matter it is, and no traceback."""

import json
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from stdpipe.cache.errors import UserError

Command = Callable[..., Any]
# each command: the library's function behind it, and arguments with which it is reached
CALLS = {
    "stdpipe.extract.extract_teacher": ["extract-teacher", "--data", "d", "--cache", "c"],
    "stdpipe.plan.plan_extraction": ["extract-teacher", "--data", "d", "--plan"],
    "stdpipe.train.train_students": [
        "train-student", "--data", "d", "--student", "vdsr", "--out", "o"
    ],
    "stdpipe.train_teacher.train_teacher": [
        "train-teacher", "--data", "d", "--teacher", "vdsr", "--out", "o"
    ],
    "stdpipe.evaluate.evaluate": ["evaluate", "--data", "d", "--model", "bicubic"],
    "stdpipe.experiment.run_experiment": ["experiment", "table2", "--out", "o"],
    "stdpipe.report.write_report": ["report", "r", "--out", "o"],
    "stdpipe.upscale.upscale": ["upscale", "in.mp4", "out.mp4"],
    "stdpipe.export.export": ["export", "--out", "net.onnx"],
    "stdpipe.bench.bench": ["bench", "net.onnx"],
    "stdpipe.data.packing.pack_clips": ["pack-clips", "--data", "d", "--out", "o.h5"],
    "stdpipe.degrade.degrade_data": ["degrade", "d", "o"],
    "stdpipe.cache.open_reader": ["cache", "info", "c"],
    "stdpipe.cache.verify": ["cache", "verify", "c"],
    "stdpipe.cache.repair": ["cache", "repair", "c"],
    "stdpipe.check.check": ["cache", "check", "c", "--teacher-weights", "random:0"],
    "stdpipe.training.run_list.list_runs": ["runs", "."],
    "stdpipe.models.table.describe_network": ["models", "bicubic"],
    "stdpipe.demo.run_demo": ["demo"],
}  # fmt: skip
RUNS = "stdpipe.training.run_list.list_runs"


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """fail(function, error): have that function raise it; tracebacks go to tmp_path."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def put(function: str, error: BaseException) -> None:
        monkeypatch.setattr(function, Mock(side_effect=error))

    return put


def test_an_error_in_a_network_of_ones_own(
    refused: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told as what it is, with the file and the line, and not as a bug of stdpipe."""
    monkeypatch.chdir(tmp_path)
    body = "import torch\nfrom stdpipe.models.bicubic import Bicubic\n\nclass Own(Bicubic):\n"
    Path("own_errors.py").write_text(f"{body}    def fuse(self, window):\n        return 1 / 0\n")
    Path("own_layers.py").write_text(
        f"{body}    def fuse(self, window):\n        return torch.stack([])\n"
    )
    Path("own_syntax.py").write_text("class Own(:\n")
    assert "own_errors.py, line 6: ZeroDivisionError:" in refused("models", "own_errors:Own")
    assert "own_layers.py, line 6: RuntimeError:" in refused("models", "own_layers:Own")
    assert "own_syntax.py, line 1" in refused("models", "own_syntax:Own", code=2)


def test_every_command_is_looked_at() -> None:
    from stdpipe.cli.main import main

    names = {name for name in main.commands if name != "cache"}
    names |= {f"cache {name}" for name in main.commands["cache"].commands}  # type: ignore[attr-defined]
    reached = {" ".join(words[: 1 + (words[0] == "cache")]) for words in CALLS.values()}
    assert reached == names


@pytest.mark.parametrize("function", CALLS)
def test_a_fault_of_ours(fail: Command, refused: Command, tmp_path: Path, function: str) -> None:
    fail(function, KeyError("f_sr"))
    told = refused(*CALLS[function], code=70)
    assert "bug of stdpipe (KeyError: 'f_sr')" in told
    (file,) = tmp_path.glob("stdpipe-*.txt")
    assert str(file) in told
    assert "KeyError: 'f_sr'" in file.read_text()


@pytest.mark.parametrize(
    "error", [ValueError("torch's"), TypeError("x"), AssertionError(), RuntimeError("shape\nhere")]
)
def test_what_counts_as_a_fault(fail: Command, refused: Command, error: Exception) -> None:
    fail(RUNS, error)
    assert type(error).__name__ in refused("runs", ".", code=70)


@pytest.mark.parametrize(
    "function",
    [
        "stdpipe.extract.encoding_error",
        "stdpipe.plan.encoding_error",
        "stdpipe.cache.encode",
        "stdpipe.cache.writer.check_codes",
    ],
)
def test_a_value_error_that_is_not_the_users(
    fail: Command, refused: Command, extract: Command, tiny: Path, tmp_path: Path, function: str
) -> None:
    fail(function, ValueError("of numpy"))
    more = ["--plan"] if "plan" in function else ["--encoding", "int8"]
    assert "of numpy" in refused(*extract(tiny, tmp_path / "c", *more), code=70)


def test_a_fault_while_an_error_is_handled(fail: Command, refused: Command) -> None:
    error = RuntimeError("ours")
    error.__context__ = FileNotFoundError("absent")
    fail(RUNS, error)
    assert "RuntimeError" in refused("runs", ".", code=70)


def test_a_fault_where_no_file_can_be_written(
    fail: Command, refused: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fail(RUNS, KeyError("x"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    assert "STDPIPE_TRACEBACK=1" in refused("runs", ".", code=70)


def test_the_traceback_is_shown_on_request(
    fail: Command, stdpipe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STDPIPE_TRACEBACK", "1")
    fail(RUNS, UserError("no such run"))
    lines = stdpipe("runs", ".", code=1).stderr.splitlines()
    assert "Traceback" in lines[0]
    assert lines[-1] == "stdpipe: no such run"


def test_a_users_matter_is_told_as_it_is(fail: Command, refused: Command, tmp_path: Path) -> None:
    for error in (UserError("this\n  and that"), OSError("this and that")):
        fail(RUNS, error)
        assert refused("runs", ".") == "stdpipe: this and that"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_warnings_take_a_line_each_and_the_error_comes_last(
    stdpipe: Command, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    def noisy(_: object) -> None:
        warnings.warn("of Python,\nin two lines", UserWarning, stacklevel=1)
        logging.getLogger("third.party").warning("stdpipe: of %s", "logging")
        raise UserError("the error itself")

    monkeypatch.setattr(RUNS, noisy)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        told = stdpipe("runs", ".", *more, code=1)
    assert told.stdout == ""
    assert told.stderr.splitlines() == [
        "stdpipe: warning: of Python, in two lines",
        "stdpipe: warning: of logging",
        "stdpipe: the error itself",
    ]


def test_warnings_leave_stdout_to_json(stdpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def noisy(_: object) -> list[object]:
        logging.getLogger().warning("look")
        return []

    monkeypatch.setattr(RUNS, noisy)
    told = stdpipe("runs", ".", "--json")
    assert json.loads(told.stdout) == {"runs": []}
    assert told.stderr == "stdpipe: warning: look\n"


@pytest.mark.parametrize(
    ("name", "code"), [("SIGTERM", 143), pytest.param("SIGINT", 130, marks=pytest.mark.slow)]
)
def test_a_signal_is_told_in_one_line(spawn: Command, name: str, code: int) -> None:
    before = f"""
import os, signal
from stdpipe.training import run_list
run_list.list_runs = lambda _: os.kill(os.getpid(), signal.{name}) or signal.pause()
"""
    told = spawn(["runs", "."], before)
    assert (told.returncode, told.stdout) == (code, "")
    assert told.stderr.startswith("stdpipe: ")
    assert told.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "code"), [("SIGTERM", 143), pytest.param("SIGINT", 130, marks=pytest.mark.slow)]
)
def test_a_signal_amid_a_callback_is_not_lost(spawn: Command, name: str, code: int) -> None:
    """Python drops what is raised in a finaliser."""
    before = f"""
import os, signal, time
from stdpipe.training import run_list
class Doomed:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        time.sleep(0.01)
def doom(_):
    Doomed()
    time.sleep(30)
run_list.list_runs = doom
"""
    told = spawn(["runs", "."], before)
    assert (told.returncode, told.stdout) == (code, "")
    assert told.stderr.startswith("stdpipe: ")
    assert told.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        ("stdpipe.upscale.upscale", "--tile"),
        ("stdpipe.evaluate.evaluate", "--amp bf16"),
        ("stdpipe.export.export", "smaller frames"),
        ("stdpipe.extract.extract_teacher", "batch"),
        ("stdpipe.train.train_students", "batch"),
    ],
)
def test_out_of_memory_names_options_that_the_command_has(
    fail: Command, refused: Command, function: str, advice: str
) -> None:
    for error in (RuntimeError("CUDA out of memory. Tried 2 GiB.\nMore of it"), MemoryError("no")):
        fail(function, error)
        told = refused(*CALLS[function])
        assert advice in told
        assert "More of it" not in told


@pytest.mark.parametrize(
    "message",
    [
        "[../gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:31415",
        "NCCL communicator was aborted on rank 1.",
    ],
)
def test_a_rank_that_lost_another_says_so(fail: Command, refused: Command, message: str) -> None:
    fail(RUNS, RuntimeError(message))
    assert "another process of this run has ended" in refused("runs", ".")
