"""Extraction goes on with the clips that it began with: edited frames are refused by content."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stdpipe import cache
from stdpipe.features import same_frames

Command = Callable[..., Any]


@pytest.fixture
def data(tmp_path: Path, tiny: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "data"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The clips that were read to be compared."""
    keys: list[str] = []
    real = same_frames.whole_crc32

    def noted(clip: Any) -> Any:
        keys.append(clip.key)
        return real(clip)

    monkeypatch.setattr(same_frames, "whole_crc32", noted)
    return keys


def edit(clip: Path) -> None:
    shutil.copy(clip / "im1.png", clip / "im2.png")


@pytest.mark.parametrize("whole", [True, False])
def test_edited_frames_are_refused(
    tmp_path: Path, data: Path, extract: Command, stdpipe: Command, refused: Command, whole: bool
) -> None:
    """Of a finished cache, and of one that goes on."""
    part = () if whole else ("--part", "0/2")
    stdpipe(*extract(data, tmp_path / "c.zarr", *part))
    edit(data / "sequences/00001/0001")
    told = refused(*extract(data, tmp_path / "c.zarr", *part))
    assert "frames of clip 00001/0001" in told
    assert len({word for word in told.replace("(", " ").split() if word.isdigit()}) == 2  # crc32s


def test_equal_frames_with_other_times(
    tmp_path: Path, data: Path, extract: Command, stdpipe: Command, read: list[str]
) -> None:
    """Nothing is read again while times stay; a copy is read, and found equal."""
    stdpipe(*extract(data, tmp_path / "c.zarr", "--orientations", 2))
    stdpipe(*extract(data, tmp_path / "c.zarr", "--orientations", 2))
    assert read == []
    os.utime(data / "sequences/00001/0002/im3.png", (1, 1))
    stdpipe(*extract(data, tmp_path / "c.zarr", "--orientations", 2))
    assert read == ["00001/0002"]  # once for both views
    assert cache.verify(tmp_path / "c.zarr").broken == []


def test_a_cache_of_given_lr_knows_both(
    tmp_path: Path, data: Path, extract: Command, stdpipe: Command, refused: Command
) -> None:
    stdpipe("degrade", data, tmp_path / "lr", "--degradation", "bd")
    more = ("--lr", tmp_path / "lr", "--degradation", "given:phase=0")
    stdpipe(*extract(data, tmp_path / "c.zarr", *more))
    os.utime(tmp_path / "lr/sequences/00001/0003/im1.png", (1, 1))
    stdpipe(*extract(data, tmp_path / "c.zarr", *more))
    edit(tmp_path / "lr/sequences/00001/0003")
    assert "frames of clip 00001/0003" in refused(*extract(data, tmp_path / "c.zarr", *more))


def test_caches_that_say_no_times_are_compared(
    tmp_path: Path, data: Path, extract: Command, stdpipe: Command, refused: Command,
    read: list[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with monkeypatch.context() as older:
        older.setattr("stdpipe.extract.SIGN", "_other")
        stdpipe(*extract(data, tmp_path / "c.zarr"))
    stdpipe(*extract(data, tmp_path / "c.zarr"))
    assert sorted(read) == ["00001/0001", "00001/0002", "00001/0003"]
    # it may grow although the times have changed
    stdpipe(*extract(data, tmp_path / "c.zarr", "--targets", "sr,f_sr,attention,f_lr"))
    edit(data / "sequences/00001/0002")
    assert "00001/0002" in refused(*extract(data, tmp_path / "c.zarr"))
