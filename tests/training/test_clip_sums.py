"""A run knows its clips by their content: frames made anew under the same names are refused."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from stdpipe import distributed
from stdpipe.cache.errors import UserError
from stdpipe.data.frames import Clip
from stdpipe.data.samples import Stream
from stdpipe.data.views import View
from stdpipe.training import run_folder
from stdpipe.training.clip_sums import ClipSums

Command = Callable[..., Any]
TEACHER = "vdsr:num_layer=3,num_feat=4"
ALL_CLIPS = {"steps": 4, "batch": 3}  # each step meets every clip


@pytest.fixture
def data(tmp_path: Path, tiny: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "data"))


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """A context in which the command stops behind the checkpoint of step 2."""

    @contextmanager
    def stop() -> Iterator[None]:
        save = run_folder.save_checkpoint

        def save_and_stop(out: Path, done: int, **parts: Any) -> None:
            save(out, done, **parts)
            if done == 2:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(run_folder, "save_checkpoint", save_and_stop)
            yield

    return stop


def edit(data: Path) -> None:
    clip = data / "sequences/00001/0001"
    shutil.copy(clip / "im1.png", clip / "im2.png")


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_a_resumed_run_and_other_frames(
    tmp_path: Path, data: Path, train: Command, stdpipe: Command, refused: Command,
    stops: Callable[[], Any], kind: str,
) -> None:  # fmt: skip
    run = tmp_path / "run"
    command = train(run, data, "--scheme", "none", **ALL_CLIPS, warmup_steps=0)
    if kind == "teacher":
        settings = {**ALL_CLIPS, "patch": 32, "workers": 0, "save_every": 1}
        sets = [word for k, v in settings.items() for word in ("--set", f"{k}={v}")]
        command = ["train-teacher", "--data", data, "--teacher", TEACHER, "--out", run, *sets]
    with stops():
        stdpipe(*command, code=130)
    whole = Path(shutil.copytree(data, tmp_path / "whole"))
    edit(data)
    told = refused(*command)
    assert "frames of clip 00001/0001" in told
    assert str(run) in told
    assert len({word for word in told.replace("(", " ").split() if word.isdigit()}) == 2  # crc32s
    command[command.index(data)] = whole  # the folder may move
    stdpipe(*command)


@pytest.mark.parametrize("scheme", ["none", "std"])
def test_frames_are_compared_with_a_cache_before_it_is_needed(
    tmp_path: Path, data: Path, tiny_cache: Path, train: Command, refused: Command, scheme: str
) -> None:
    """By a scheme that reads no target, and in warm-up."""
    edit(data)
    settings = ALL_CLIPS | {"warmup_steps": 3}
    more = ("--cache", tiny_cache, "--scheme", scheme)
    told = refused(*train(tmp_path / "run", data, *more, **settings))
    assert "frames of clip 00001/0001 are not those the cache was made from" in told


def test_given_lr_is_part_of_a_clip(
    tmp_path: Path, data: Path, train: Command, stdpipe: Command, refused: Command,
    stops: Callable[[], Any],
) -> None:  # fmt: skip
    stdpipe("degrade", data, tmp_path / "lr", "--degradation", "bd")
    command = train(
        tmp_path / "run", data, "--lr", tmp_path / "lr", "--scheme", "none", **ALL_CLIPS,
        warmup_steps=0,
    )  # fmt: skip
    command += ["--degradation", "given:phase=0"]
    with stops():
        stdpipe(*command, code=130)
    edit(tmp_path / "lr")
    assert "frames of clip 00001/0001" in refused(*command)


@pytest.mark.parametrize("edited", [True, False])
def test_a_run_that_has_ended(
    tmp_path: Path, data: Path, train: Command, stdpipe: Command, refused: Command, edited: bool
) -> None:
    """It reads nothing, but compares: new times alone are no other frames."""
    command = train(tmp_path / "run", data, "--scheme", "none", **ALL_CLIPS, warmup_steps=0)
    stdpipe(*command)
    if edited:
        edit(data)
        assert "frames of clip 00001/0001" in refused(*command)
        return
    os.utime(data / "sequences/00001/0001/im1.png", (1, 1))
    assert "steps already" in stdpipe(*command).stderr


def test_weights_of_a_run_that_has_ended(
    tmp_path: Path, data: Path, train: Command, stdpipe: Command
) -> None:
    """Damaged, cut or gone, they are written again from the checkpoint."""
    command = train(tmp_path / "run", data, "--scheme", "none", **ALL_CLIPS, warmup_steps=0)
    stdpipe(*command)
    file = tmp_path / "run/weights.pt"
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (bytes(flipped), whole[: len(whole) // 2], None):
        file.unlink()
        if damaged is not None:
            file.write_bytes(damaged)
        assert "written again" in stdpipe(*command).stderr
        assert file.read_bytes() == whole


def sums_of(out: Path, *keys: str) -> ClipSums:
    clips = {key: Clip(key, range(1)) for key in keys}
    return ClipSums(Stream(clips, [View(key, 0) for key in keys], "bd", 16, 0), out)


def read_now(clips: list[int], crc32: list[int]) -> dict[str, torch.Tensor]:
    made = {"clip": clips, "crc32": crc32, "sign": [0] * len(clips)}
    return {name: torch.tensor(values) for name, values in made.items()}


def test_frames_that_change_while_a_run_reads_them(tmp_path: Path) -> None:
    sums = sums_of(tmp_path, "a", "b")
    sums.take(read_now([1, 0], [2**32 - 1, 0]))
    sums.take(read_now([1, 0], [2**32 - 1, 0]))
    with pytest.raises(UserError, match=r"clip b .*\(crc32 7 here, 4294967295 there\)"):
        sums.take(read_now([0, 1], [0, 7]))


def test_ranks_that_read_different_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = sums_of(tmp_path, "a", "b", "c"), torch.tensor([-1, 5, 9])
    mine.take(read_now([0, 1], [4, 5]))
    monkeypatch.setattr(distributed, "largest", lambda x: torch.maximum(x, other))
    mine.share()
    assert mine.seen.tolist() == [4, 5, 9]
    other[1] = 6
    with pytest.raises(UserError, match=r"clip b .*5 here, 6 there"):
        mine.share()
