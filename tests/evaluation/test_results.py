"""What an evaluation writes and averages: going on where it stopped, infinities, lists."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from stdpipe.evaluation.results import FrameLog, averages, by_list, vimeo_lists

FIGURES = ("psnr_y", "ssim_y")
INF = float("inf")
LENGTHS = {"a": 2, "b": 1}


def rows(*psnr: float) -> list[dict[str, float]]:
    return [{"frame": t, "psnr_y": value, "ssim_y": 0.1 + 0.2} for t, value in enumerate(psnr)]


def open_log(out: Path | None, definition: str = "x") -> FrameLog:
    return FrameLog(out, {"is": definition}, ["one", "two"], LENGTHS, FIGURES)


def fill(log: FrameLog, *clips: str) -> None:
    for clip in clips:
        numbers = [1 / 3 + i for i in range(LENGTHS[clip])]
        log.add(clip, {"one": rows(*numbers), "two": rows(*(n + 10 for n in numbers))})


def test_frames_are_on_disk_as_soon_as_a_clip_is_added(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    fill(log, "a")
    with (tmp_path / "frames.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [(r["network"], r["clip"], r["frame"]) for r in found] == [
        ("one", "a", "0"), ("one", "a", "1"), ("two", "a", "0"), ("two", "a", "1")
    ]  # fmt: skip
    assert float(found[0]["psnr_y"]) == 1 / 3
    assert log.done == {"a"}


def test_an_unfinished_run_goes_on_with_the_very_same_numbers(tmp_path: Path) -> None:
    first = open_log(tmp_path)
    fill(first, "a")
    again = open_log(tmp_path)
    assert again.done == {"a"}
    assert again.networks == first.networks
    fill(again, "b")
    unbroken = open_log(tmp_path / "unbroken")
    fill(unbroken, "a", "b")
    assert (tmp_path / "frames.csv").read_text() == (
        tmp_path / "unbroken" / "frames.csv"
    ).read_text()


@pytest.mark.parametrize("cut", range(1, 90, 7))
def test_a_torn_clip_is_measured_again(tmp_path: Path, cut: int) -> None:
    """Whatever the power cut left of the last clip's lines, half a number among it."""
    fill(open_log(tmp_path), "b", "a")
    file = tmp_path / "frames.csv"
    file.write_text(file.read_text()[:-cut])
    log = open_log(tmp_path)
    assert log.done == {"b"}
    assert file.read_text().count("\n") == 3
    fill(log, "a")
    assert open_log(tmp_path).done == {"a", "b"}


def test_a_run_of_another_definition_begins_anew(tmp_path: Path) -> None:
    fill(open_log(tmp_path, "x"), "a")
    assert open_log(tmp_path, "y").done == set()
    assert (tmp_path / "frames.csv").read_text() == "network,clip,frame,psnr_y,ssim_y\n"


def test_a_finished_run_is_measured_again(tmp_path: Path) -> None:
    """Its code or data may have changed since: only what was interrupted is continued."""
    log = open_log(tmp_path)
    fill(log, "a", "b")
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "unfinished.json").unlink()
    assert open_log(tmp_path).done == set()
    assert not (tmp_path / "result.json").exists()


def test_without_a_folder_nothing_is_written() -> None:
    log = open_log(None)
    fill(log, "a")
    assert log.done == {"a"}


def test_clips_count_alike_whatever_their_length() -> None:
    found = averages({"a": rows(30, 32), "b": rows(40)}, FIGURES)
    assert found["clips"]["a"] == {
        "psnr_y": 31, "ssim_y": pytest.approx(0.3), "frames": 2, "infinite": 0
    }  # fmt: skip
    assert found["average"]["psnr_y"] == 35.5


def test_black_frames_and_clips_leave_the_average_finite() -> None:
    """Black clips lie in Vimeo90K's test set; they are named, and the others are averaged."""
    found = averages({"black": rows(INF, INF), "faded": rows(30, INF), "real": rows(34)}, FIGURES)
    assert found["average"] == {"psnr_y": 32, "ssim_y": pytest.approx(0.3)}
    assert found["excluded"] == ["black"]
    assert [row["infinite"] for row in found["clips"].values()] == [2, 1, 0]
    assert found["clips"]["faded"]["psnr_y"] == 30
    assert averages({"black": rows(INF)}, FIGURES)["average"]["psnr_y"] is None


def test_figures_that_a_clips_first_frame_lacks() -> None:
    of_clip: list[dict[str, Any]] = [
        {"frame": 0, "psnr_y": 30.0},
        {"frame": 1, "psnr_y": 30.0, "tof": 2.0},
        {"frame": 2, "psnr_y": 30.0, "tof": float("nan")},
    ]
    assert averages({"a": of_clip}, ("psnr_y", "tof"))["average"]["tof"] == 2


def test_lists_are_weighted_by_clips() -> None:
    values = {"a": 30, "b": 32, "c": 40, "d": None, "e": 50}
    clips = {key: {"psnr_y": value} for key, value in values.items()}
    found = by_list(clips, {"fast": ["a", "b"], "slow": ["c", "d", "gone"]}, ["psnr_y"])
    assert found == {
        "fast": {"clips": 2, "psnr_y": 31},
        "slow": {"clips": 2, "psnr_y": 40},
        "weighted": {"clips": 4, "psnr_y": 34},
        "unlisted": ["e"],
    }
    json.dumps(found, allow_nan=False)


def test_the_lists_that_lie_beside_the_clips(tmp_path: Path) -> None:
    assert vimeo_lists(tmp_path) == {}
    (tmp_path / "vimeo_septuplet").mkdir()
    (tmp_path / "vimeo_septuplet" / "fast_testset.txt").write_text("00001/0001\n\n00001/0002 7\n")
    assert vimeo_lists(tmp_path) == {"fast": ["00001/0001", "00001/0002"]}
