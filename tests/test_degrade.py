"""stdpipe degrade: LR files of a data set, by the front door."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch

from stdpipe.data.degrade import degrade

Command = Callable[..., Any]


def test_vimeo(tmp_path: Path, tiny: Path, stdpipe: Command) -> None:
    """In the same layout, with the lists, frame by frame what the pipeline makes."""
    out = tmp_path / "lr"
    told = json.loads(stdpipe("degrade", tiny, out, "--degradation", "bi", "--json").stdout)
    assert (told["clips"], told["frames"], told["degradation"]) == (3, 21, "bi")
    for name in ("sep_trainlist.txt", "sep_testlist.txt"):
        assert (out / name).read_text().split() == (tiny / name).read_text().split()
    for file in sorted((tiny / "sequences").glob("*/*/*.png")):
        hr = torch.from_numpy(iio.imread(file)).permute(2, 0, 1)[None]
        lr = iio.imread(out / file.relative_to(tiny))
        assert np.array_equal(lr, (degrade(hr, "bi")[0] * 255).round().byte().permute(1, 2, 0))
    assert not list(out.rglob("*.partial"))
    assert not (out / ".lock").exists()


def test_it_goes_on(tmp_path: Path, tiny: Path, stdpipe: Command, refused: Command) -> None:
    """What is there stays; what is missing, or was cut short, is made; other LR is refused."""
    out = tmp_path / "lr"
    stdpipe("degrade", tiny, out)
    files = {file: file.read_bytes() for file in out.rglob("*.png")}
    kept, gone = sorted({file.parent for file in files})[:2]
    stamp = (kept / "im1.png").stat().st_mtime_ns
    aside = gone.with_name(f".{gone.name}.partial")
    gone.rename(aside)
    (aside / "im1.png").write_bytes(b"half")
    stdpipe("degrade", tiny, out)
    assert {file: file.read_bytes() for file in out.rglob("*.png")} == files
    assert (kept / "im1.png").stat().st_mtime_ns == stamp
    told = refused("degrade", tiny, out, "--degradation", "bi")
    assert "bd" in told
    assert "bi" in told
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    assert "mine" in refused("degrade", tiny, tmp_path / "mine")
    assert "nowhere" in refused("degrade", tmp_path / "nowhere", tmp_path / "b")
    assert not (tmp_path / "b").exists()
    refused("degrade", tiny, tmp_path / "c", "--degradation", "given:phase=0")


def test_videos_and_odd_sizes(tmp_path: Path, save_frames: Command, stdpipe: Command) -> None:
    """Frames of a video are numbered; sides are cut to the scale."""
    still = np.random.default_rng(0).integers(0, 256, (1, 34, 38, 3), np.uint8)
    (tmp_path / "films").mkdir()
    save_frames(tmp_path / "films/a.mp4", still.repeat(3, 0))
    stdpipe("degrade", tmp_path / "films", tmp_path / "lr", "--degradation", "camera:crf=30")
    names = ["00000000.png", "00000001.png", "00000002.png"]
    assert sorted(file.name for file in (tmp_path / "lr/a").iterdir()) == names
    assert iio.imread(tmp_path / "lr/a/00000000.png").shape == (8, 9, 3)
    assert "264" in json.loads((tmp_path / "lr/degraded.json").read_text())["encoder"]
