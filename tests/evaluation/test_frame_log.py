"""The log of an evaluation: going on after a stop, and replacing an older result at the end."""

import csv
from pathlib import Path

import pytest

from stdpipe.evaluation import frame_log
from stdpipe.evaluation.frame_log import FrameLog, publish

LENGTHS = {"a": 2, "b": 1}


def open_log(out: Path | None, definition: str = "x") -> FrameLog:
    rest = (["one", "two"], LENGTHS, ("psnr_y", "ssim_y"), lambda _, there: there)
    return FrameLog(out, {"is": definition}, *rest)


def fill(log: FrameLog, *clips: str) -> None:
    for clip in clips:
        rows = [
            {"frame": t, "psnr_y": 1 / 3 + t, "ssim_y": 0.1 + 0.2} for t in range(LENGTHS[clip])
        ]
        two = [row | {"psnr_y": row["psnr_y"] + 10} for row in rows]
        log.add(clip, {"one": rows, "two": two}, {"start": 0, "stop": 7, "crc32": [1]})


def frames(out: Path) -> str:
    return (out / "unfinished" / "frames.csv").read_text()


def test_frames_are_on_disk_as_soon_as_a_clip_is_added(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    fill(log, "a")
    found = list(csv.DictReader(frames(tmp_path).splitlines()))
    assert [(r["network"], r["clip"], r["frame"]) for r in found] == [
        ("one", "a", "0"), ("one", "a", "1"), ("two", "a", "0"), ("two", "a", "1")
    ]  # fmt: skip
    assert float(found[0]["psnr_y"]) == 1 / 3
    assert log.done == {"a"}


@pytest.mark.parametrize("cut", [0, 1, 9, 40, 85])
def test_an_unfinished_run_goes_on_with_the_very_same_numbers(tmp_path: Path, cut: int) -> None:
    """Whatever a power cut left of the last clip's lines, half a number among it."""
    fill(open_log(tmp_path), "b", "a")
    whole = frames(tmp_path)
    (tmp_path / "unfinished" / "frames.csv").write_text(whole[: len(whole) - cut])
    again = open_log(tmp_path)
    assert again.done == ({"a", "b"} if cut == 0 else {"b"})
    fill(again, *({"a", "b"} - again.done))
    assert sorted(frames(tmp_path).splitlines()) == sorted(whole.splitlines())
    assert again.networks == open_log(tmp_path).networks


def test_a_run_of_another_definition_begins_anew(tmp_path: Path) -> None:
    fill(open_log(tmp_path, "x"), "a")
    assert open_log(tmp_path, "y").done == set()
    assert frames(tmp_path) == "network,clip,frame,psnr_y,ssim_y\n"


def test_without_a_folder_nothing_is_written() -> None:
    log = open_log(None)
    fill(log, "a")
    assert log.done == {"a"}


@pytest.mark.parametrize("dies_at", [None, "pictures", "frames.csv", "table.md", "result.json"])
def test_an_old_result_stays_until_the_new_one_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: str | None
) -> None:
    """A process that dies while it moves the files leaves the rest to the next one."""
    (tmp_path / "pictures").mkdir()
    names = ("frames.csv", "table.md", "result.json", "pictures/old.png", "unfinished.json")
    for name in names:
        (tmp_path / name).write_text("old")
    log = open_log(tmp_path)
    fill(log, "a", "b")
    (tmp_path / "unfinished" / "pictures").mkdir()
    (tmp_path / "unfinished" / "pictures" / "new.png").touch()
    publish(tmp_path)  # it is not complete yet
    assert all((tmp_path / name).read_text() == "old" for name in names)
    replace = Path.replace

    def die(path: Path, to: Path) -> Path:
        if path == tmp_path / "unfinished" / str(dies_at):
            raise KeyboardInterrupt
        return replace(path, to)

    with monkeypatch.context() as patched:
        patched.setattr(frame_log.Path, "replace", die)
        if dies_at:
            with pytest.raises(KeyboardInterrupt):
                log.finish(tmp_path, {"psnr_y": 1.5}, "table")
        else:
            log.finish(tmp_path, {"psnr_y": 1.5}, "table")
    publish(tmp_path)
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert found == ["frames.csv", "pictures/new.png", "result.json", "table.md"]
    assert '"psnr_y": 1.5' in (tmp_path / "result.json").read_text()
    assert (tmp_path / "table.md").read_text() == "table\n"
    assert (tmp_path / "frames.csv").read_text().count("\n") == 1 + 2 * 3
