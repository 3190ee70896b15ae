"""Symbolic links and files of the user's, in the places where stdpipe writes: refused or left."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest

Command = Callable[..., Any]
MINE = "all of my thesis"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file that somebody else's link names."""
    file = tmp_path / "thesis.tex"
    file.write_text(MINE)
    return file


@pytest.fixture
def commands(
    tmp_path: Path, tiny: Path, tiny_cache: Path, extract: Command, train: Command
) -> dict[str, list[object]]:
    """A command for each kind of lock."""
    bicubic = ["--model", "bicubic", "--out"]
    (tmp_path / "frames").mkdir()
    for number in range(2):
        iio.imwrite(tmp_path / "frames" / f"{number}.png", np.zeros((8, 8, 3), np.uint8))
    return {
        "extract": extract(tiny, tmp_path / "out", "--targets", "sr"),
        "train": train(tmp_path / "out", tiny, "--scheme", "none"),
        "evaluate": ["evaluate", "--data", tiny, *bicubic, tmp_path / "out"],
        "degrade": ["degrade", tiny, tmp_path / "out"],
        "pack": ["pack-clips", "--data", tiny, "--out", tmp_path / "out"],
        "upscale": ["upscale", tmp_path / "frames", tmp_path / "out", "--model", "bicubic"],
    }


@pytest.mark.parametrize(
    ("command", "link"),
    [
        ("extract", "out/journal/0-of-1.lock"),
        ("train", "out/.lock"),
        ("evaluate", "out/.lock"),
        ("evaluate", "out/unfinished"),
        ("degrade", "out/.lock"),
        ("pack", "out.lock"),
        ("pack", "out.partial"),
        ("upscale", ".out.partial"),
        ("upscale", ".out.partial/lock"),
    ],
)
def test_a_link_is_not_followed(
    tmp_path: Path, mine: Path, commands: dict[str, list[object]], refused: Command,
    command: str, link: str,
) -> None:  # fmt: skip
    """Neither to a file, nor to one that is not there, which would be made."""
    place = tmp_path / link
    place.parent.mkdir(parents=True, exist_ok=True)
    for target in (mine, tmp_path / "absent"):
        place.symlink_to(target)
        told = refused(*commands[command])
        assert str(place) in told
        assert mine.read_text() == MINE
        assert not (tmp_path / "absent").exists()
        place.unlink()


@pytest.mark.parametrize(
    ("command", "folder"),
    [
        ("evaluate", "out/unfinished"),
        ("evaluate", "out/pictures"),
        ("upscale", ".out.partial"),
        ("upscale", ".out.partial/frames"),
    ],
)
def test_a_folder_of_the_users_is_not_removed(
    tmp_path: Path, commands: dict[str, list[object]], refused: Command, command: str, folder: str
) -> None:
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "mine.txt").write_text(MINE)
    told = refused(*commands[command])
    assert str(tmp_path / folder) in told or str((tmp_path / folder).parent) in told
    assert (tmp_path / folder / "mine.txt").read_text() == MINE


def test_a_folder_that_looks_like_a_part_is_left_alone(
    tmp_path: Path, commands: dict[str, list[object]], stdpipe: Command
) -> None:
    for name in ("out.partial", ".out.old.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text(MINE)
    stdpipe(*commands["upscale"])
    stdpipe(*commands["upscale"], "--overwrite")
    for name in ("out.partial", ".out.old.partial"):
        assert (tmp_path / name / "mine.txt").read_text() == MINE
