"""What an evaluation leaves: stopped, resumed, refused at once, in a folder that holds a result."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import pytest
import torch

from stdpipe import evaluate
from stdpipe.cache.files import locked
from stdpipe.cache.seal import unseal

Command = Callable[..., Any]

KILLED_AFTER_ONE_CLIP = """
import os, signal
from stdpipe.evaluation.frame_log import FrameLog
add = FrameLog.add
def add_and_die(self, *clip):
    add(self, *clip)
    os.kill(os.getpid(), signal.SIGKILL)
FrameLog.add = add_and_die
"""


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by one for each piece that a network super-resolves."""
    calls = []
    real = evaluate.super_resolve

    def counted(net: Any, piece: Any, *rest: Any) -> Any:
        calls.append(piece)
        return real(net, piece, *rest)

    monkeypatch.setattr(evaluate, "super_resolve", counted)
    return calls


def test_a_killed_evaluation_goes_on(
    tmp_path: Path, folders: Path, stdpipe: Command, spawn: Command, measured: list[Any]
) -> None:
    more = ("--model", "bicubic", "--model", "bicubic:phase=0", "--pictures", 0)
    command = ("evaluate", "--data", folders, *more, "--out", tmp_path / "parts")
    killed = spawn(command, KILLED_AFTER_ONE_CLIP)
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "parts" / "result.json").exists()
    stdpipe(*command)
    assert len(measured) == 2 * 2 * 2  # two clips left, two pieces, two networks
    stdpipe(*command[:-1], tmp_path / "whole")
    names = [".lock", "frames.csv", "result.json", "table.md"]
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == names
    for name in names:
        parts, whole = ((tmp_path / run / name).read_text() for run in ("parts", "whole"))
        assert parts == whole


def test_an_unfinished_evaluation_is_kept_from_another_one(
    tmp_path: Path, folders: Path, stdpipe: Command, refused: Command, spawn: Command,
    measured: list[Any],
) -> None:  # fmt: skip
    """Only --overwrite drops it. Why a protocol was chosen makes no other evaluation."""
    command = ("evaluate", "--data", folders, "--pictures", 0, "--out", tmp_path / "out")
    assert spawn((*command, "--model", "bicubic"), KILLED_AFTER_ONE_CLIP).returncode == -9
    frames = (tmp_path / "out" / "unfinished" / "frames.csv").read_bytes()
    told = refused(*command, "--model", "bicubic:phase=0")
    assert "bicubic:phase=0.0" in told
    assert "--overwrite" in told
    assert (tmp_path / "out" / "unfinished" / "frames.csv").read_bytes() == frames
    stdpipe(*command, "--model", "bicubic", "--protocol", "vid4")
    assert len(measured) == 2 * 2  # two clips left, two pieces
    other = (*command, "--model", "vdsr@random:0", "--overwrite")
    assert spawn(other, KILLED_AFTER_ONE_CLIP).returncode == -9
    stdpipe(*command, "--model", "bicubic:phase=0", "--overwrite")
    assert (
        json.loads((tmp_path / "out" / "result.json").read_text())["model"] == "bicubic:phase=0.0"
    )


def test_unequal_frames_are_told_before_anything_is_measured(
    tmp_path: Path, folders: Path, refused: Command, measured: list[Any]
) -> None:
    """The last of three clips has one frame of another size."""
    iio.imwrite(folders / "0003" / "im5.png", torch.zeros(32, 32, 3, dtype=torch.uint8).numpy())
    told = refused("evaluate", "--data", folders, "--model", "bicubic", "--out", tmp_path / "out")
    assert "0003" in told
    assert measured == []
    assert not (tmp_path / "out").exists()


def test_two_evaluations_into_one_folder(tmp_path: Path, tiny: Path, refused: Command) -> None:
    command = ("evaluate", "--data", tiny, "--model", "bicubic", "--out", tmp_path)
    with locked(tmp_path / ".lock", ""):
        assert str(tmp_path) in refused(*command)


@pytest.mark.parametrize(("kept", "told"), [(True, "the same command"), (False, "without --out")])
def test_ctrl_c_says_what_is_kept(
    tmp_path: Path, folders: Path, stdpipe: Command, monkeypatch: pytest.MonkeyPatch,
    kept: bool, told: str,
) -> None:  # fmt: skip
    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate.FrameLog, "add", interrupt)
    where = ("--out", tmp_path / "out") if kept else ()
    result = stdpipe("evaluate", "--data", folders, "--model", "bicubic", *where, code=130)
    assert told in result.stderr


def files(folder: Path) -> dict[str, bytes]:
    """Every file in the folder but those of an unfinished evaluation."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path): path.read_bytes()
        for path in found
        if "unfinished" not in path.relative_to(folder).parts
    }


def test_a_finished_evaluation_is_not_measured_again(
    tmp_path: Path, tiny: Path, stdpipe: Command, measured: list[Any]
) -> None:
    more = ("--model", "bicubic", "--protocol", "vid4", "--out", tmp_path)
    command = ("evaluate", "--data", tiny, *more, "--json")
    first = json.loads(stdpipe(*command).stdout)
    done, there = len(measured), files(tmp_path)
    assert json.loads(stdpipe(*command).stdout) == first
    assert (len(measured), files(tmp_path)) == (done, there)
    assert json.loads(stdpipe(*command, "--overwrite").stdout) == first
    assert len(measured) == 2 * done


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (("--model", "bicubic:phase=0"), ["network bicubic:", "network bicubic:phase=0.0:"]),
        (("--model", "bicubic", "--crop", 4), ["protocol: vid4 there, vid4-crop4 now"]),
        (("--model", "bicubic", "--degradation", "bi"), ["degradation: bd there, bi now"]),
        (("--model", "bicubic", "--amp", "bf16"), ["amp: none there, bf16 now"]),
        (("--model", "bicubic", "--metrics", "cost"), ["cost on: none there, cpu now"]),
    ],
)
def test_another_evaluation_is_refused_or_overwrites_at_its_end(
    tmp_path: Path, tiny: Path, stdpipe: Command, refused: Command,
    monkeypatch: pytest.MonkeyPatch, changes: tuple[object, ...], named: list[str],
) -> None:  # fmt: skip
    rules = ("--data", tiny, "--protocol", "vid4", "--out", tmp_path)
    stdpipe("evaluate", *rules, "--model", "bicubic")
    there = files(tmp_path)
    told = refused("evaluate", *rules, *changes)
    assert str(tmp_path) in told
    assert "--overwrite" in told
    assert all(each in told for each in named), told
    assert files(tmp_path) == there

    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(evaluate.FrameLog, "finish", interrupt)
        stdpipe("evaluate", *rules, *changes, "--overwrite", code=130)
    assert files(tmp_path) == there
    found = json.loads(stdpipe("evaluate", *rules, *changes, "--overwrite", "--json").stdout)
    assert unseal((tmp_path / "result.json").read_bytes()) == found
    assert files(tmp_path) != there
    assert not (tmp_path / "unfinished").exists()


def test_data_that_has_grown_is_another_evaluation(
    tmp_path: Path, folders: Path, stdpipe: Command, refused: Command
) -> None:
    command = ("evaluate", "--data", folders, "--model", "bicubic", "--out", tmp_path / "out")
    stdpipe(*command)
    shutil.copytree(folders / "0001", folders / "0009")
    assert "0009's frames: none there, 7 now" in refused(*command)


def replace_frames(clip: Path) -> None:
    for file in clip.iterdir():
        iio.imwrite(file, 255 - iio.imread(file))


def test_frames_that_were_replaced_meanwhile_are_measured_anew(
    tmp_path: Path, folders: Path, stdpipe: Command, spawn: Command, measured: list[Any]
) -> None:
    """Under the same names, between a kill and the next run."""
    command = ("evaluate", "--data", folders, "--model", "bicubic", "--out", tmp_path / "parts")
    assert spawn(command, KILLED_AFTER_ONE_CLIP).returncode == -9
    replace_frames(folders / "0001")
    assert "0001 has other frames" in stdpipe(*command).stderr
    assert len(measured) == 3 * 2  # three clips, two pieces
    stdpipe(*command[:-1], tmp_path / "whole")
    parts, whole = ((tmp_path / x / "result.json").read_bytes() for x in ("parts", "whole"))
    assert parts == whole


def test_a_result_of_frames_that_were_replaced_is_not_served(
    tmp_path: Path, folders: Path, stdpipe: Command, refused: Command
) -> None:
    command = ("evaluate", "--data", folders, "--model", "bicubic", "--out", tmp_path / "out")
    stdpipe(*command)
    there = files(tmp_path / "out")
    replace_frames(folders / "0002")
    told = refused(*command)
    assert "clip 0002" in told
    assert "--overwrite" in told
    assert files(tmp_path / "out") == there
    stdpipe(*command, "--overwrite")
    stdpipe(*command)


def test_lr_that_was_replaced_is_other_data(
    tmp_path: Path, folders: Path, stdpipe: Command, refused: Command
) -> None:
    """LR that is given counts as HR does."""
    stdpipe("degrade", folders, tmp_path / "lr", "--degradation", "bi")
    given = ("--data", f"{folders}", "--degradation", "given:phase=1.5")
    command = ("evaluate", *given, "--lr", tmp_path / "lr", "--model", "bicubic:phase=1.5")
    stdpipe(*command, "--out", tmp_path / "out")
    stdpipe(*command, "--out", tmp_path / "out")
    (clip,) = (tmp_path / "lr").rglob("0003")
    replace_frames(clip)
    assert "clip 0003" in refused(*command, "--out", tmp_path / "out")


@pytest.mark.parametrize("name", ["frames.csv", "clips.jsonl"])
def test_a_damaged_log_is_measured_anew(
    tmp_path: Path, folders: Path, stdpipe: Command, spawn: Command, measured: list[Any], name: str
) -> None:
    """A digit of a figure, or of what says that the clip is done."""
    command = ("evaluate", "--data", folders, "--model", "bicubic", "--out", tmp_path / "out")
    assert spawn(command, KILLED_AFTER_ONE_CLIP).returncode == -9
    change_a_digit(tmp_path / "out" / "unfinished" / name)
    stdpipe(*command)
    assert len(measured) == 3 * 2


def change_a_digit(file: Path) -> None:
    """The last but five, which is within a figure or a checksum."""
    content = bytearray(file.read_bytes())
    at = [n for n, byte in enumerate(content) if chr(byte).isdigit()][-5]
    content[at] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["result.json", "frames.csv", "table.md", "pictures/0001.png"])
def test_a_damaged_result_is_not_served(
    tmp_path: Path, folders: Path, stdpipe: Command, refused: Command, name: str
) -> None:
    """Not by evaluate, nor by the report where it reads that file, nor in silence by runs."""
    command = ("evaluate", "--data", folders, "--model", "bicubic", "--out", tmp_path / "out")
    stdpipe(*command)
    change_a_digit(tmp_path / "out" / name)
    assert str(tmp_path / "out" / name) in refused(*command)
    if name in ("result.json", "frames.csv"):
        assert name in refused("report", tmp_path / "out", "--out", tmp_path / "page")
    warned = "result.json" in stdpipe("runs", tmp_path).stderr
    assert warned == (name == "result.json")
    stdpipe(*command, "--overwrite")
    stdpipe(*command)


def test_data_may_move(tmp_path: Path, tiny: Path, stdpipe: Command, refused: Command) -> None:
    """A result belongs to frames, wherever they lie; other frames there are told as such."""
    data = Path(shutil.copytree(tiny, tmp_path / "data"))
    rest = ("--model", "bicubic", "--pictures", 0, "--out", tmp_path / "out", "--json")
    first = stdpipe("evaluate", "--data", data, *rest)
    data = data.rename(tmp_path / "moved")
    again = stdpipe("evaluate", "--data", data, *rest)
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert "already" in again.stderr
    clip = data / "sequences/00001/0003"
    shutil.copy(clip / "im1.png", clip / "im4.png")
    assert "clip 00001/0003 has other frames" in refused("evaluate", "--data", data, *rest)
