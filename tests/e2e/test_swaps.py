"""What is whole in itself, but not what it is taken for: files, caches, runs and results that were
exchanged, and data that were edited. Each is refused by the command that would have used it.

Swaps inside a cache (chunks, shards, tails, journals, manifests) are in tests/cache/test_growth.py
and test_groups.py, edited data in tests/training/test_clip_sums.py, tests/features/
test_same_frames.py, tests/test_evaluate_again.py and tests/test_experiment.py.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stdpipe.training import run_folder

Command = Callable[..., Any]
SHORT = {"steps": 2, "warmup_steps": 0}


@pytest.fixture
def begun(
    tmp_path: Path, tiny: Path, train: Command, stdpipe: Command, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Path, list[Any]]]:
    """begun(name, **settings): a run that stopped behind its first checkpoint, and its command."""

    def begin(name: str, **settings: Any) -> tuple[Path, list[Any]]:
        save = run_folder.save_checkpoint

        def save_and_stop(out: Path, done: int, **parts: Any) -> None:
            save(out, done, **parts)
            raise KeyboardInterrupt

        command = train(tmp_path / name, tiny, "--scheme", "none", **(SHORT | settings))
        with monkeypatch.context() as patch:
            patch.setattr(run_folder, "save_checkpoint", save_and_stop)
            stdpipe(*command, code=130)
        return tmp_path / name, command

    return begin


@pytest.mark.parametrize("name", ["checkpoint.pt", "config.yaml"])
def test_files_of_a_run_with_another_seed(
    begun: Callable[..., Any], stdpipe: Command, refused: Command, name: str
) -> None:
    (one, command), (other, _) = begun("one", seed=1), begun("other", seed=2)
    kept = (one / name).read_bytes()
    shutil.copy(other / name, one / name)
    told = refused(*command)
    assert str(one) in told
    (one / name).write_bytes(kept)
    stdpipe(*command)


def test_the_cache_of_another_teacher_under_a_run(
    tmp_path: Path, tiny: Path, tiny_cache: Path, extract: Command, train: Command,
    stdpipe: Command, refused: Command,
) -> None:  # fmt: skip
    place = Path(shutil.copytree(tiny_cache, tmp_path / "c.zarr"))
    command = train(tmp_path / "run", tiny, "--cache", place, **SHORT)
    stdpipe(*command)
    shutil.rmtree(place)
    stdpipe(*extract(tiny, place, "--orientations", 2, "--weights", "random:1"))
    told = refused(*command)
    assert "cache_id" in told


def test_a_cache_made_anew_of_other_frames_under_a_run(
    tmp_path: Path, tiny: Path, extract: Command, train: Command, stdpipe: Command,
    refused: Command,
) -> None:  # fmt: skip
    """Even one that has ended, and would read nothing."""
    data, place = Path(shutil.copytree(tiny, tmp_path / "data")), tmp_path / "c.zarr"
    command = train(tmp_path / "run", data, "--cache", place, **SHORT)
    stdpipe(*extract(data, place))
    stdpipe(*command)
    clip = data / "sequences/00001/0002"
    shutil.copy(clip / "im1.png", clip / "im2.png")
    shutil.rmtree(place)
    stdpipe(*extract(data, place))
    assert "cache_sources" in refused(*command)


@pytest.mark.parametrize("name", ["frames.csv", "result.json"])
def test_files_of_another_result(
    tmp_path: Path, tiny: Path, stdpipe: Command, refused: Command, name: str
) -> None:
    made = [tmp_path / f"r{number}" for number in range(2)]
    for number, out in enumerate(made):
        weights = ("--model", "rrn-8", "--weights", f"random:{number}")
        stdpipe("evaluate", "--data", tiny, *weights, "--pictures", 0, "--out", out)
    shutil.copy(made[1] / name, made[0] / name)
    told = refused("evaluate", "--data", tiny, *weights[:3], "random:0", "--pictures", 0,
                   "--out", made[0])  # fmt: skip
    assert str(made[0]) in told
    assert "frames.csv" in refused("report", made[0], "--out", tmp_path / "report")


def test_a_packed_file_of_other_frames(
    tmp_path: Path, tiny: Path, stdpipe: Command, refused: Command, begun: Callable[..., Any]
) -> None:
    data = Path(shutil.copytree(tiny, tmp_path / "data"))
    stdpipe("pack-clips", "--data", data, "--out", tmp_path / "a.h5")
    run, command = begun("run", batch=3, steps=3)
    packed = [tmp_path / "a.h5" if word == tiny else word for word in command]
    clip = data / "sequences/00001/0001"
    shutil.copy(clip / "im1.png", clip / "im2.png")
    stdpipe("pack-clips", "--data", data, "--out", tmp_path / "b.h5")
    shutil.move(tmp_path / "a.h5", tmp_path / "kept.h5")
    shutil.move(tmp_path / "b.h5", tmp_path / "a.h5")
    told = refused(*packed)
    assert "frames of clip 00001/0001" in told
    assert str(run) in told
    shutil.move(tmp_path / "kept.h5", tmp_path / "a.h5")
    stdpipe(*packed)
