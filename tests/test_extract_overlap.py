"""Stage one in batches and threads: the same bytes after any stop; nothing waits or piles up."""

import io
import json
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stdpipe import cache, extract
from stdpipe.extract import extract_teacher
from stdpipe.features import extraction
from stdpipe.features.extraction import Extraction
from stdpipe.features.teacher import teacher_features

Command = Callable[..., Any]
TEACHER = (
    "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1,num_reconstruct_block=1"
)


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory, make_data: Command) -> Path:
    """Six clips, some of which are turned on their side."""
    return Path(make_data(tmp_path_factory.mktemp("six") / "data", clips=6))


def job(data: Path, path: Path, **options: Any) -> Extraction:
    return Extraction(data, str(path), TEACHER, "random:0", **{"encoding": "int8", **options})


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many clips are asked of the teacher at a time, from now on."""
    sizes: list[int] = []
    original = extract.group_features

    def spy(teacher: Any, lrs: Any, *rest: Any) -> Any:
        sizes.append(len(lrs))
        return original(teacher, lrs, *rest)

    monkeypatch.setattr(extract, "group_features", spy)
    return sizes


def stop_after(monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    """Let nothing be written after so many entries."""
    write, written = cache.Writer.write, []

    def limited(self: cache.Writer, key: str, *rest: Any) -> Any:
        if len(written) == entries:
            raise OSError("stopped")
        written.append(key)
        return write(self, key, *rest)

    monkeypatch.setattr(cache.Writer, "write", limited)


@pytest.mark.parametrize("encoding", ["float32", "int8", "trunk-float16"])
def test_a_batch_changes_rounding_at_most(tmp_path: Path, six: Path, encoding: str) -> None:
    """Of float32; of codes and halves, one step where a value lies on the edge."""
    for batch in (1, 4):
        extract_teacher(job(six, tmp_path / f"{batch}", batch=batch, encoding=encoding))
    one, four = (cache.open_reader(tmp_path / name) for name in ("1", "4"))
    assert one.manifest.cache_id == four.manifest.cache_id
    assert (one.manifest.notes["batch"], four.manifest.notes["batch"]) == (1, 4)
    for key in one.entries:
        for name in one.manifest.given:
            found, true = (torch.from_numpy(r.read(key, name)).float() for r in (four, one))
            limit = {"float32": 1e-5, "int8": 1, "trunk-float16": 1e-3}[encoding]
            scale = 1 if encoding == "int8" and name == "f_sr" else true.abs().max()
            assert (found - true).abs().max() <= limit * scale


def test_clips_of_one_size_go_through_together() -> None:
    """And come back in their own order, each as it would alone."""
    from stdpipe.models.checkpoints import load_network

    teacher = load_network(TEACHER, "random:1", 0.0)[0].eval()
    sizes: list[tuple[int, ...]] = []
    original = teacher.features_clip

    def spy(clip: torch.Tensor) -> Any:
        sizes.append(tuple(clip.shape))
        return original(clip)

    teacher.features_clip = spy  # type: ignore[method-assign, assignment]
    lrs = [torch.rand(7, 3, *size) for size in ((8, 12), (12, 8), (8, 12), (8, 12), (12, 8))]
    found = extract.group_features(teacher, lrs, torch.device("cpu"), "none")
    assert sizes == [(3, 7, 3, 8, 12), (2, 7, 3, 12, 8)]
    for lr, features in zip(lrs, found, strict=True):
        alone = teacher_features(teacher, lr, torch.device("cpu"), "none")
        for ours, theirs in zip(features, alone, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("entries", [0, 1, 3, 4, 5])
def test_a_stopped_batch_is_computed_whole_again(
    tmp_path: Path, six: Path, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was missing of a group of 4, and though encoding and batch are not named again."""
    extract_teacher(job(six, tmp_path / "whole", batch=4))
    with monkeypatch.context() as broken:
        stop_after(broken, entries)
        with pytest.raises(OSError, match="stopped"):
            extract_teacher(job(six, tmp_path / "c", batch=4))
    done = cache.open_reader(tmp_path / "c", allow_incomplete=True).entries
    assert len(done) == entries
    sizes = groups(monkeypatch)
    extract_teacher(job(six, tmp_path / "c", encoding=None))
    assert sizes == ([4, 2] if entries < 4 else [2])
    assert contents(tmp_path / "c") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_killed_in_the_middle_of_a_batch(
    tmp_path: Path, tiny: Path, extract: Command, stdpipe: Command, spawn: Command
) -> None:
    """A process of its own dies before the second journal line; a shorter command resumes."""
    die = (
        "import os, signal\n"
        "from stdpipe.cache.journal import JournalWriter\n"
        "append, lines = JournalWriter.append, []\n"
        "def dying(self, line):\n"
        "    lines.append(line)\n"
        "    if len(lines) == 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    append(self, line)\n"
        "JournalWriter.append = dying\n"
    )
    short = [x for x in extract(tiny, tmp_path / "c") if x not in ("--encoding", "float32")]
    asked = ["--encoding", "trunk-int8", "--targets", "f_sr", "--batch", 3]
    died = spawn([*short, *asked], die)
    assert died.returncode == -9, died.stderr
    assert len(cache.open_reader(tmp_path / "c", allow_incomplete=True).entries) == 1
    stdpipe(*short)
    whole = [tmp_path / "whole" if x == tmp_path / "c" else x for x in short]
    stdpipe(*whole, *asked)
    assert contents(tmp_path / "c") == contents(tmp_path / "whole")


def test_what_is_asked_for_wins_over_the_cache(
    tmp_path: Path, six: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another batch is taken; another encoding is refused, and nothing is run for it."""
    stop_after(monkeypatch, 1)
    with pytest.raises(OSError, match="stopped"):
        extract_teacher(job(six, tmp_path / "c", batch=4))
    monkeypatch.undo()
    sizes = groups(monkeypatch)
    with pytest.raises(cache.CacheError, match="encoding 'int8', but 'float16' was asked for"):
        extract_teacher(job(six, tmp_path / "c", encoding="float16"))
    assert sizes == []
    extract_teacher(job(six, tmp_path / "c", batch=2))
    assert sizes == [2, 2, 2]


def test_the_first_clip_is_not_run_twice(
    tmp_path: Path, six: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its encoding's error is in the manifest before anything is written."""
    sizes = groups(monkeypatch)
    extract_teacher(job(six, tmp_path / "c"))
    assert sizes == [1] * 6
    manifest = cache.load_manifest(tmp_path / "c")
    assert manifest.notes["error"]["measured_on"] == manifest.entries[0]
    assert 0 < manifest.notes["error"]["f_sr_rmse"] < 0.1


def test_an_empty_share_that_comes_first_measures_too(tmp_path: Path, six: Path) -> None:
    found = extract_teacher(job(six, tmp_path / "c", part=(7, 8)))
    assert found["missing"] == 6
    assert found["error"]["measured_on"] == cache.load_manifest(tmp_path / "c").entries[0]


@pytest.mark.parametrize("batch", [1, 2])
def test_the_cache_is_the_same_whichever_part_comes_first(
    tmp_path: Path, six: Path, extract: Command, stdpipe: Command, batch: int
) -> None:
    for name, order in (("a", (0, 1)), ("b", (1, 0))):
        for part in order:
            command = extract(six, tmp_path / name, "--part", f"{part}/2", "--batch", batch)
            stdpipe(*command)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert cache.verify(tmp_path / "b").ok == 6


def test_ranks_of_torchrun_divide_a_part(
    tmp_path: Path, six: Path, extract: Command, stdpipe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts 0/2 and 1/2 of two ranks each: four shares; the first rank alone speaks."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for part in (0, 1):
        for rank in (1, 0):
            monkeypatch.setenv("RANK", str(rank))
            command = extract(six, tmp_path / "c", "--part", f"{part}/2", "--json")
            found = stdpipe(*command)
            assert (rank == 0) == bool(found.stdout)
            assert rank == 0 or found.output == ""
    assert json.loads(found.stdout)["missing"] == 0
    journals = {path.name: path for path in (tmp_path / "c" / "journal").glob("*.jsonl")}
    lines = [len(journals[f"{i}-of-4.000000.jsonl"].read_text().splitlines()) for i in range(4)]
    assert lines == [2, 2, 1, 1]
    monkeypatch.setenv("RANK", "1")
    assert stdpipe(*extract(six, tmp_path / "d", "--plan")).output == ""


def test_a_value_that_is_not_finite_names_its_clip(
    tmp_path: Path, six: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clips before it are committed, none after it."""
    original, calls = extract.group_features, []

    def spoil_the_third(*arguments: Any) -> Any:
        features = original(*arguments)
        calls.append(features)
        if len(calls) == 3:
            features[0].f_sr[0, 0, 0, 0] = float("nan")
        return features

    monkeypatch.setattr(extract, "group_features", torch.inference_mode()(spoil_the_third))
    with pytest.raises(ValueError, match=r"^clip 00001/0003@\d, f_sr: holds values that are not"):
        extract_teacher(job(six, tmp_path / "c"))
    reader = cache.open_reader(tmp_path / "c", allow_incomplete=True)
    assert list(reader.entries) == list(reader.manifest.entries[:2])
    assert len(calls) < 6  # told at once, not at the end


def test_a_first_clip_that_cannot_be_stored_is_named_too(
    tmp_path: Path, six: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = extract.group_features

    def spoil(*arguments: Any) -> Any:
        return [f._replace(f_sr=f.f_sr * 1e9) for f in original(*arguments)]

    monkeypatch.setattr(extract, "group_features", spoil)
    with pytest.raises(ValueError, match=r"^clip 00001/0001@\d, f_sr: .* overflows float16"):
        extract_teacher(job(six, tmp_path / "c", encoding="float16"))
    assert not (tmp_path / "c").exists()


def test_reading_and_writing_overlap_with_the_teacher(
    tmp_path: Path, six: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher does not begin a clip before the two behind it are being read, and none is
    written before the teacher has begun the next: one thread alone would wait for ever."""
    happened = {"read": 0, "computed": 0, "written": 0}
    news = threading.Condition()

    def step(name: str, needs: str, count: int) -> None:
        with news:
            happened[name] += 1
            news.notify_all()
            assert news.wait_for(lambda: happened[needs] >= count, timeout=20), (name, happened)

    features, reading, write = extract.group_features, extraction.read_frames, cache.Writer.write

    def read(clip: Any, scale: int) -> Any:
        step("read", "read", 0)
        return reading(clip, scale)

    def compute(*arguments: Any) -> Any:
        step("computed", "read", min(happened["computed"] + 3, 6))
        return features(*arguments)

    def write_one(self: cache.Writer, *rest: Any) -> Any:
        step("written", "computed", min(happened["written"] + 2, 6))
        return write(self, *rest)

    monkeypatch.setattr(extract, "group_features", compute)
    monkeypatch.setattr(cache.Writer, "write", write_one)
    monkeypatch.setattr(extraction, "read_frames", read)
    extract_teacher(job(six, tmp_path / "c"))
    assert happened == {"read": 6, "computed": 6, "written": 6}


@pytest.mark.parametrize("batch", [1, 2])
def test_clips_do_not_pile_up_behind_a_slow_disk(
    tmp_path: Path, six: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is as slow as it takes: it waits until another clip waits for it."""
    original, write = extract.encode, cache.Writer.write
    begun, waiting, most = 0, 0, 0
    changed = threading.Condition()

    def encode(*arguments: Any) -> Any:
        nonlocal begun, waiting, most
        with changed:
            begun, waiting = begun + 1, waiting + 1
            most = max(most, waiting)
            changed.notify_all()
        return original(*arguments)

    def slow(self: cache.Writer, *rest: Any) -> Any:
        nonlocal waiting
        with changed:
            changed.wait_for(lambda: waiting >= 2 or begun == 6, timeout=60)
        time.sleep(0.1)  # for those that should wait
        size = write(self, *rest)
        with changed:
            waiting -= 1
        return size

    monkeypatch.setattr(extract, "encode", encode)
    monkeypatch.setattr(cache.Writer, "write", slow)
    extract_teacher(job(six, tmp_path / "c", batch=batch))
    assert 2 <= most <= batch + 2


def test_a_terminal_sees_clips_and_bytes_a_second_and_time_left(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    extract_teacher(job(tiny, tmp_path / "c", part=(0, 2)))
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "extract-teacher:   0%" in shown
    last = shown.split("\r")[-1]
    assert re.search(r"100%.* 2/2 \[.*<00:00, .*(clip/s|s/clip), [\d.]+ MB/s\]", last), shown
