"""A cache grows by extract-teacher's own command; runs that it taught go on as if it had not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stdpipe import cache
from stdpipe.training import run_folder

Command = Callable[..., Any]


def losses(run: Path) -> list[float]:
    text = (run / "metrics.jsonl").read_text()
    return [json.loads(line)["loss"] for line in text.splitlines()]


@pytest.fixture
def data(tmp_path: Path, make_data: Command) -> Path:
    return make_data(tmp_path / "data", clips=3)


def train_on(data: Path, count: int) -> None:
    """Put the first clips alone on the list."""
    keys = [f"00001/{number:04d}\n" for number in range(1, count + 1)]
    (data / "sep_trainlist.txt").write_text("".join(keys))


def stop_at_step_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def save_and_stop(out: Path, step: int, **parts: Any) -> None:
        real(out, step, **parts)
        if step == 2:
            raise KeyboardInterrupt

    real = run_folder.save_checkpoint
    monkeypatch.setattr("stdpipe.training.run_folder.save_checkpoint", save_and_stop)


@pytest.mark.parametrize("is_finished", [False, True])
def test_a_run_goes_on_while_its_cache_grows(
    tmp_path: Path, data: Path, extract: Command, train: Command, stdpipe: Command,
    refused: Command, monkeypatch: pytest.MonkeyPatch, is_finished: bool,
) -> None:  # fmt: skip
    """By a clip, and by the image: a run that made it of f_sr goes on with that, over the clips it
    began with, to the losses of one that was never stopped; a new run uses all that is finished.
    """
    place = tmp_path / "c"
    of_run = ("--cache", place, "--scheme", "output")
    train_on(data, 2)
    stdpipe(*extract(data, place, "--targets", "f_sr,attention"))
    stdpipe(*train(tmp_path / "whole", data, *of_run, steps=4, warmup_steps=0))
    with monkeypatch.context() as patch:
        stop_at_step_2(patch)
        refused(*train(tmp_path / "run", data, *of_run, steps=4, warmup_steps=0), code=130)
    told = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    part = {"entries": 2, "targets": ["f_sr", "attention"], "encoding": "float32"}
    assert told["cache_parts"] == [part]
    train_on(data, 3)
    part = () if is_finished else ("--part", "1/2")
    stdpipe(*extract(data, place, "--targets", "sr", *part))
    assert cache.load_manifest(place).targets == ("sr", "f_sr", "attention")
    stdpipe(*train(tmp_path / "run", data, *of_run, steps=4, warmup_steps=0))
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    if not is_finished:
        train_on(data, 2)
    stdpipe(*train(tmp_path / "new", data, *of_run, steps=4, warmup_steps=0))
    assert (losses(tmp_path / "new") == losses(tmp_path / "whole")) is not is_finished
    info = json.loads(stdpipe("cache", "info", place, "--json").stdout)
    assert (info["entries"], info["complete"]) == (3, is_finished)


def test_a_run_refuses_a_cache_that_holds_the_same_otherwise(
    tmp_path: Path, tiny: Path, tiny_cache: Path, extract: Command, train: Command,
    stdpipe: Command, refused: Command,
) -> None:  # fmt: skip
    """Made by the same teacher, so of the same cache_id: each difference is named."""
    stdpipe(*train(tmp_path / "run", tiny, "--cache", tiny_cache, "--scheme", "sd"))
    place = tmp_path / "c"
    stdpipe(*extract(tiny, place, "--orientations", 2, "--targets", "attention"))
    again = train(tmp_path / "run", tiny, "--cache", place, "--scheme", "sd")
    assert "cache_parts" in refused(*again)
    stdpipe(*extract(tiny, place, "--targets", "sr,f_sr", "--orientations", 2))
    stdpipe(*again)
    stdpipe(*extract(tiny, tmp_path / "d", "--orientations", 2, "--encoding", "int8"))
    other = train(tmp_path / "run", tiny, "--cache", tmp_path / "d", "--scheme", "sd")
    told = refused(*other)
    assert "'float32'" in told
    assert "'int8'" in told


def test_other_clips_are_not_added_by_mistake(
    tmp_path: Path, data: Path, make_data: Command, extract: Command, stdpipe: Command,
    refused: Command,
) -> None:  # fmt: skip
    """Neither another data set, nor changed frames under the same names."""
    place, other = tmp_path / "c", make_data(tmp_path / "other", clips=4)
    train_on(data, 2)
    stdpipe(*extract(data, place, "--targets", "sr"))
    (other / "sep_trainlist.txt").write_text("00001/0003\n00001/0004\n")
    assert "entries_digest" in refused(*extract(other, place, "--targets", "sr"))
    changed = data / "sequences/00001/0002/im3.png"
    changed.write_bytes((data / "sequences/00001/0003/im3.png").read_bytes())
    assert "00001/0002" in refused(*extract(data, place, "--targets", "f_sr"))


def test_a_cache_that_does_not_tell_its_channels_grows(
    tmp_path: Path, data: Path, extract: Command, stdpipe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C_SR was told where it was neither 0 nor 64 alone."""
    train_on(data, 1)

    class Older(cache.Manifest):
        def __post_init__(self) -> None:
            self.made_by.pop("f_sr_channels", None)
            super().__post_init__()

    with monkeypatch.context() as patch:
        patch.setattr(cache, "Manifest", Older)
        stdpipe(*extract(data, tmp_path / "c"))
    train_on(data, 2)
    stdpipe(*extract(data, tmp_path / "c"))
    manifest = cache.open_reader(str(tmp_path / "c")).manifest
    assert (len(manifest.entries), "f_sr_channels" in manifest.made_by) == (2, False)
