"""Files that people stumble over, each through pack-clips and evaluate, as they stand and with what
makes them usable. Through upscale: tests/test_upscale_videos.py."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stdpipe.data.frames import read_clip
from stdpipe.data.layouts import find_clips
from stdpipe.data.video import decoded, open_video
from stdpipe.data.video_facts import facts

Command = Callable[..., Any]

RULES = ("--model", "bicubic", "--degradation", "bi")
REST = {"pack-clips": (), "evaluate": RULES}  # what a command needs beside its data and --out
# name -> frames, height and width, upright, in its own pixels
WHOLE = {
    "alpha.mov": (12, 64, 96),
    "anamorphic.mp4": (12, 64, 96),
    "full_red.mp4": (3, 240, 320),
    "hd_tagged_red.mp4": (3, 720, 1280),
    "hd_untagged_red.mp4": (3, 720, 1280),
    "hdr10.mp4": (6, 64, 96),
    "late.mkv": (24, 64, 96),
    "rot90.mp4": (6, 96, 64),
    "screen.mkv": (24, 64, 96),
    "tracks.mkv": (24, 64, 96),
    "vfr.mp4": (24, 64, 96),
    "whole.mp4": (24, 64, 96),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file(tmp_path: Path, cases: Path, stdpipe: Command, name: str) -> None:
    """Every frame is packed as it is decoded, and scored, upright and once."""
    file, (count, height, width) = cases / name, WHOLE[name]
    packed = tmp_path / "clips.h5"
    told = json.loads(stdpipe("pack-clips", "--data", file, "--out", packed, "--json").stdout)
    assert told["frames"] == count
    clips = find_clips(packed, None)
    frames = np.concatenate([read_clip(clip) for clip in clips])
    assert frames.shape == (count, height, width, 3)
    assert np.array_equal(frames, np.stack(list(decoded(open_video(file)))))
    scored = [
        json.loads(stdpipe("evaluate", "--data", data, *RULES, "--json").stdout)
        for data in (file, packed)
    ]
    assert scored[0]["clips"] == scored[1]["clips"]
    assert sum(clip["frames"] for clip in scored[0]["clips"].values()) == count
    assert len(facts(file).times) == count


@pytest.mark.parametrize("command", REST)
def test_a_cut_file(
    tmp_path: Path, cases: Path, stdpipe: Command, refused: Command, command: str
) -> None:
    """Refused with where it ends, and nothing stays; taken as far as it goes when asked."""
    rest = (*REST[command], "--out", tmp_path / "out")
    told = refused(command, "--data", cases / "cut.mp4", *rest)
    assert "0.67 s" in told
    assert "24 frames" in told
    assert "partial=1" in told
    assert list(tmp_path.iterdir()) == []
    taken = json.loads(
        stdpipe(command, "--data", f"{cases / 'cut.mp4'}:partial=1", *rest, "--json").stdout
    )
    frames = taken["frames"] if command == "pack-clips" else sum(
        clip["frames"] for clip in taken["clips"].values()
    )  # fmt: skip
    assert frames == 16


@pytest.mark.parametrize("command", REST)
def test_an_interlaced_file(
    tmp_path: Path, cases: Path, stdpipe: Command, refused: Command, command: str
) -> None:
    """Refused, never combed without a word; deinterlaced when asked."""
    rest = (*REST[command], "--out", tmp_path / "out")
    assert "deinterlace=1" in refused(command, "--data", cases / "interlaced.mpg", *rest)
    assert list(tmp_path.iterdir()) == []
    stdpipe(command, "--data", f"{cases / 'interlaced.mpg'}:deinterlace=1", *rest)
