"""From a folder of videos to a result: no frame folder is made by hand, and no source that is held
out is trained on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stdpipe.data.frames import read_clip
from stdpipe.data.layouts import find_clips

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, save_frames: Callable[..., Path]) -> Path:
    """Five videos of texture that moves; the first has two scenes."""
    root = tmp_path_factory.mktemp("videos") / "videos"
    root.mkdir()
    for number in range(5):
        draw = np.random.default_rng(number)
        frames = []
        for _ in range(2 if number == 0 else 1):
            texture = draw.integers(0, 256, (8, 16, 3)).repeat(4, 0).repeat(4, 1)
            frames += [np.roll(texture, t // 3, 1) for t in range(9)]
        save_frames(root / f"v{number}.mp4", np.stack(frames).astype(np.uint8), crf=8)
    return root


def test_the_whole_path(tmp_path: Path, videos: Path, stdpipe: Command) -> None:
    data, cache, run = f"{videos}:test=0.2", tmp_path / "cache.zarr", tmp_path / "run"
    train, test = (
        {clip.key.partition("/")[0] for clip in find_clips(Path(data), split)}
        for split in ("train", "test")
    )
    teacher = ("--weights", "embedded", "--targets", "sr")
    stdpipe("extract-teacher", "--data", data, "--cache", cache, *teacher)
    told = json.loads(stdpipe("cache", "info", cache, "--json").stdout)
    small = ("--set", "steps=2", "--set", "patch=16", "--set", "batch=1", "--set", "workers=0")
    student = ("--student", "rrn-8", "--set", "evaluate_every=2")
    stdpipe("train-student", "--data", data, "--cache", cache, "--out", run, *student, *small)
    out = ("--out", tmp_path / "result")
    network = ("--model", f"@{run / 'weights.pt'}", "--model", "bicubic")
    result = json.loads(stdpipe("evaluate", "--data", data, *network, *out, "--json").stdout)
    scored = {clip.partition("/")[0] for clip in result["networks"][0]["clips"]}
    assert scored == test
    assert scored.isdisjoint(train)
    assert told["entries"] == len(find_clips(Path(data), "train", length=7))
    assert yaml.safe_load((run / "config.yaml").read_text())["data"] == data
    stdpipe("report", tmp_path / "result", run, "--out", tmp_path / "report")
    assert (tmp_path / "report" / "index.html").is_file()


def test_packing_keeps_frames_and_split(tmp_path: Path, videos: Path, stdpipe: Command) -> None:
    """The packed file has the lists, so that no share is named again."""
    data, packed = Path(f"{videos}:test=0.4,seed=3"), tmp_path / "v.h5"
    stdpipe("pack-clips", "--data", data, "--split", "both", "--out", packed)
    for split in ("train", "test"):
        keys = [clip.key for clip in find_clips(data, split)]
        assert [clip.key for clip in find_clips(packed, split)] == keys
    of_file, of_video = (find_clips(place, "train")[0] for place in (packed, data))
    assert np.array_equal(read_clip(of_file), read_clip(of_video))


def test_a_clip_that_is_trained_on_is_not_scored(
    tmp_path: Path, videos: Path, refused: Command
) -> None:
    more = (
        "--student",
        "rrn-8",
        "--scheme",
        "none",
        "--set",
        "evaluate_every=1",
        "--set",
        "patch=16",
    )
    told = refused("train-student", "--data", videos, "--out", tmp_path / "run", *more)
    assert ":test=0.2" in told
    assert not (tmp_path / "run").exists()


def test_exclude_in_every_command(
    tmp_path: Path, videos: Path, stdpipe: Command, refused: Command
) -> None:
    left = ("--exclude", "v1", "--exclude", "v3")
    result = json.loads(
        stdpipe("evaluate", "--data", videos, *left, "--model", "bicubic", "--json").stdout
    )
    assert {clip[:2] for clip in result["clips"]} == {"v0", "v2", "v4"}
    stdpipe("pack-clips", "--data", videos, *left, "--out", tmp_path / "v.h5")
    assert {clip.key[:2] for clip in find_clips(tmp_path / "v.h5", None)} == {"v0", "v2", "v4"}
    told = refused("evaluate", "--data", videos, "--exclude", "v9", "--model", "bicubic")
    assert "'v9'" in told
