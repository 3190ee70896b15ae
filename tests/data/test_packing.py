"""pack-clips through its front door: what it says and leaves, what it resumes and what it refuses.

Kills at random moments are in tests/faults/test_kill_packing.py.
"""

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import imageio.v3 as iio
import numpy as np
import pytest

from stdpipe.data import packing
from stdpipe.data.frames import read_clip
from stdpipe.data.layouts import find_clips

Command = Callable[..., Any]


@pytest.fixture
def data(tmp_path: Path, tiny: Path) -> Path:
    """A data set of one's own to change."""
    return Path(shutil.copytree(tiny, tmp_path / "data"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def brighten(frame: Path) -> None:
    iio.imwrite(frame, np.full_like(iio.imread(frame), 200))


def test_what_it_says_and_leaves(data: Path, tmp_path: Path, stdpipe: Command) -> None:
    out = tmp_path / "new" / "clips.h5"
    done = stdpipe("pack-clips", "--data", data, "--out", out, "--json")
    assert json.loads(done.stdout) == {
        "out": str(out),
        "clips": 3,
        "frames": 21,
        "lists": {"train": 3, "test": 1},
        "bytes": out.stat().st_size,
    }
    assert done.stderr == ""
    assert names(out.parent) == ["clips.h5"]
    told = stdpipe("pack-clips", "--data", data, "--out", out).stdout
    assert told.startswith("3 clips, 21 frames, ")


def test_a_finished_file_is_left_alone(data: Path, tmp_path: Path, stdpipe: Command) -> None:
    out = tmp_path / "clips.h5"
    stdpipe("pack-clips", "--data", data, "--out", out)
    before = out.stat()
    (tmp_path / "clips.h5.lock").touch()  # as a kill at the very end leaves it
    stdpipe("pack-clips", "--data", data, "--out", out)
    assert out.stat().st_mtime_ns == before.st_mtime_ns
    assert names(tmp_path) == ["clips.h5", "data"]


def test_a_broken_frame_stops_it_and_once_mended_it_goes_on(
    data: Path, tmp_path: Path, stdpipe: Command, refused: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "BATCH", 1)
    frame = data / "sequences/00001/0002/im4.png"
    whole = frame.read_bytes()
    frame.write_bytes(whole[:100])
    out = tmp_path / "clips.h5"
    told = refused("pack-clips", "--data", data, "--out", out)
    assert f"clip 00001/0002: {frame} cannot be read" in told
    assert not out.exists()
    with pytest.raises(ValueError, match=r"clip 00001/0003 of .* is not packed yet"):
        read_clip(find_clips(tmp_path / "clips.h5.partial", "test")[0])
    frame.write_bytes(whole)
    reads: list[str] = []
    real = packing.stream_frames
    monkeypatch.setattr(packing, "stream_frames", lambda clip: reads.append(clip.key) or real(clip))
    stdpipe("pack-clips", "--data", data, "--out", out)
    assert reads == ["00001/0002", "00001/0003"]
    assert len(find_clips(out, "train")) == 3


def test_a_clip_that_changed_before_resuming_is_packed_again(
    data: Path, tmp_path: Path, stdpipe: Command, refused: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "BATCH", 1)
    broken = data / "sequences/00001/0003/im4.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    refused("pack-clips", "--data", data, "--out", tmp_path / "c.h5")
    broken.write_bytes(whole)
    brighten(data / "sequences/00001/0001/im4.png")
    stdpipe("pack-clips", "--data", data, "--out", tmp_path / "c.h5")
    for here, there in zip(
        find_clips(data, "train"), find_clips(tmp_path / "c.h5", "train"), strict=True
    ):
        np.testing.assert_array_equal(read_clip(here), read_clip(there))


def test_a_clip_that_changed_its_size_before_resuming_is_named(
    data: Path, tmp_path: Path, refused: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "BATCH", 1)
    frame = data / "sequences/00001/0002/im4.png"
    frame.write_bytes(frame.read_bytes()[:100])  # its header is whole
    command = ("pack-clips", "--data", data, "--out", tmp_path / "c.h5")
    refused(*command)
    for number in range(1, 8):
        frame = np.zeros((16, 24, 3), np.uint8)
        iio.imwrite(data / f"sequences/00001/0002/im{number}.png", frame)
    told = refused(*command)
    assert "clip 00001/0002: its frames are 24x16, but were 48x32 when packing began" in told
    assert f"remove {tmp_path / 'c.h5.partial'} to begin anew" in told


# refusals


def test_another_data_set_in_out_is_refused_both_named(
    data: Path, tmp_path: Path, make_data: Command, stdpipe: Command, refused: Command
) -> None:
    out = tmp_path / "clips.h5"
    stdpipe("pack-clips", "--data", data, "--out", out)
    before = out.read_bytes()
    more = make_data(tmp_path / "more", clips=4)
    assert refused("pack-clips", "--data", more, "--out", out) == (
        f"stdpipe: {out} holds 3 clips of {data}, not the 4 asked for of {more} (00001/0004 "
        "differs): choose another --out, or remove it"
    )
    (data / "sep_testlist.txt").write_text("00001/0001\n")
    assert "their lists differ" in refused("pack-clips", "--data", data, "--out", out)
    assert out.read_bytes() == before


def test_the_same_names_with_other_frames_are_another_data_set(
    data: Path, tmp_path: Path, stdpipe: Command, refused: Command
) -> None:
    out = tmp_path / "clips.h5"
    stdpipe("pack-clips", "--data", data, "--out", out)
    brighten(data / "sequences/00001/0002/im4.png")
    told = refused("pack-clips", "--data", data, "--out", out)
    assert f"{out} was packed from other frames of clip 00001/0002 (" in told
    assert told.count(str(data)) == 2


def test_frames_that_were_exchanged_are_noticed(
    data: Path, tmp_path: Path, stdpipe: Command, refused: Command
) -> None:
    """The sum of their sizes is the same; mere copies of the files are the same data."""
    out, clip = tmp_path / "clips.h5", data / "sequences/00001/0002"
    stdpipe("pack-clips", "--data", data, "--out", out)
    shutil.copytree(data, tmp_path / "copy")
    stdpipe("pack-clips", "--data", tmp_path / "copy", "--out", out)
    (clip / "im2.png").rename(clip / "aside")
    (clip / "im3.png").rename(clip / "im2.png")
    (clip / "aside").rename(clip / "im3.png")
    assert "00001/0002" in refused("pack-clips", "--data", data, "--out", out)


def test_a_file_of_an_older_version_knows_sizes_alone(
    data: Path, tmp_path: Path, stdpipe: Command, refused: Command
) -> None:
    out = tmp_path / "clips.h5"
    stdpipe("pack-clips", "--data", data, "--out", out)
    with h5py.File(out, "r+") as file:
        del file["source_crc32"], file["tables"]
    stdpipe("pack-clips", "--data", data, "--out", out)
    out.rename(tmp_path / "clips.h5.partial")  # as if it were not finished
    stdpipe("pack-clips", "--data", data, "--out", out)
    brighten(data / "sequences/00001/0002/im4.png")
    assert "00001/0002" in refused("pack-clips", "--data", data, "--out", out)


def test_files_of_something_else_in_out_are_left_alone(
    data: Path, tmp_path: Path, refused: Command
) -> None:
    text, other = tmp_path / "thesis.tex", tmp_path / "other.h5"
    text.write_text("all of it")
    assert f"{text} is no HDF5 file: check the path" in refused(
        "pack-clips", "--data", data, "--out", text
    )
    with h5py.File(other, "w") as file:
        file["images"] = np.zeros(4)
    before = other.read_bytes()
    told = refused("pack-clips", "--data", data, "--out", other)
    assert f"{other} is an HDF5 file, but none of pack-clips" in told
    assert (text.read_text(), other.read_bytes()) == ("all of it", before)
    assert names(tmp_path) == ["data", "other.h5", "thesis.tex"]


def test_a_list_that_is_missing(data: Path, tmp_path: Path, stdpipe: Command, refused: Command):
    (data / "sep_testlist.txt").unlink()
    command = ("pack-clips", "--data", data, "--out", tmp_path / "c.h5")
    assert "sep_testlist.txt is missing" in refused(*command)
    stdpipe(*command, "--split", "train")
    assert len(find_clips(tmp_path / "c.h5", "train")) == 3


def test_a_packed_file_is_not_packed_again(
    data: Path, tmp_path: Path, stdpipe: Command, refused: Command
) -> None:
    stdpipe("pack-clips", "--data", data, "--out", tmp_path / "c.h5")
    told = refused("pack-clips", "--data", tmp_path / "c.h5", "--out", tmp_path / "d.h5")
    assert "c.h5 is a file, and no video: give the folder of the data set" in told


def test_nobody_else_packs_into_the_same_file(data: Path, tmp_path: Path, refused: Command) -> None:
    with (tmp_path / "c.h5.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told = refused("pack-clips", "--data", data, "--out", tmp_path / "c.h5")
    assert f"another process is packing {tmp_path / 'c.h5'}" in told


def test_a_full_disk_is_told_before_anything_is_read(
    data: Path, tmp_path: Path, refused: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda _: usage)
    told = refused("pack-clips", "--data", data, "--out", tmp_path / "c.h5")
    assert "c.h5 will take 0.0 GB, but 0.0 GB are free there: make space" in told
    assert not (tmp_path / "c.h5.partial").exists()
