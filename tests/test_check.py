"""cache check: finds what the live teacher would not have said, and nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stdpipe import cache, check, extract as stage
from stdpipe.data.views import NUM_ORIENTATIONS, View
from stdpipe.models.checkpoints import file_sha256, load_network, save_network

Command = Callable[..., Any]
WEIGHTS = ("--teacher-weights", "random:0")


def test_a_good_cache(tiny_cache: Path, stdpipe: Command) -> None:
    """float32 and one machine: no error at all. Every entry, and every orientation there is."""
    found = json.loads(stdpipe("cache", "check", tiny_cache, *WEIGHTS, "--json").stdout)
    entries = cache.open_reader(tiny_cache).entries
    assert {row["key"] for row in found["clips"]} == set(entries)
    assert all(row["f_sr"] == row["attention"] == 0 for row in found["clips"])
    assert found["orientations"].keys() == {str(View.parse(key).orientation) for key in entries}
    assert sum(row["clips"] for row in found["orientations"].values()) == 6
    assert found["beyond"] == []
    assert stdpipe("cache", "check", tiny_cache, *WEIGHTS).stdout.endswith("6 checked, 0 beyond\n")


@pytest.mark.parametrize(
    "more",
    [
        ("--encoding", "int8", "--batch", 3),
        ("--views", "baked", "--patch", 32, "--baked", 1, "--encoding", "trunk-float16"),
        ("--targets", "attention", "--encoding", "float16"),
        ("--targets", "f_sr", "--amp", "bf16", "--encoding", "int8"),
        ("--targets", "f_sr,attention,f_lr", "--encoding", "trunk-int8"),
        ("--targets", "f_lr", "--encoding", "int8", "--teacher", "pisr:student=fastdvdnet-quarter"),
    ],
    ids=lambda more: "-".join(map(str, more)).replace("--", ""),
)
def test_what_an_encoding_loses_is_within_its_tolerance(
    tmp_path: Path, tiny: Path, extract: Command, stdpipe: Command, more: tuple[Any, ...]
) -> None:
    """Errors are there, and as small as the manifest says; only what is stored is compared."""
    stdpipe(*extract(tiny, tmp_path / "c", "--orientations", 2, *more))
    found = json.loads(stdpipe("cache", "check", tmp_path / "c", *WEIGHTS, "--json").stdout)
    manifest = cache.open_reader(tmp_path / "c").manifest
    assert found["tolerance"].keys() == set(manifest.targets)
    for row in found["clips"]:
        assert all(0 <= row[name] < found["tolerance"][name] for name in manifest.targets)
    assert any(row[name] > 0 for row in found["clips"] for name in manifest.targets)


def test_a_clip_that_was_computed_otherwise(
    tmp_path: Path, tiny: Path, extract: Command, stdpipe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown mirrored to the teacher, committed all the same: verify has nothing to say."""
    group_features, calls = stage.group_features, []

    def mirror_the_second(teacher: Any, lrs: Any, *rest: Any) -> Any:
        calls.append(lrs)
        return group_features(
            teacher, [lr.flip(-1) if len(calls) == 2 else lr for lr in lrs], *rest
        )

    monkeypatch.setattr("stdpipe.extract.group_features", mirror_the_second)
    stdpipe(*extract(tiny, tmp_path / "c"))
    monkeypatch.undo()
    assert cache.verify(tmp_path / "c").broken == []
    found = json.loads(stdpipe("cache", "check", tmp_path / "c", *WEIGHTS, "--json", code=1).stdout)
    wrong = cache.load_manifest(tmp_path / "c").entries[1]
    assert found["beyond"] == [wrong]
    told = stdpipe("cache", "check", tmp_path / "c", *WEIGHTS, code=1).stdout
    assert f"beyond: {wrong} f_sr " in told
    assert told.endswith("3 checked, 1 beyond\n")


def test_other_weights_are_refused_before_anything_runs(
    tmp_path: Path, tiny_cache: Path, refused: Command
) -> None:
    name = "edvr:num_feat=8,deformable_groups=2"
    save_network(tmp_path / "w.pt", load_network(name, "random:0")[0], name, "bd")
    nowhere = ("--data", tmp_path / "nowhere")
    told = refused("cache", "check", tiny_cache, "--teacher-weights", tmp_path / "w.pt", *nowhere)
    sha256 = file_sha256(tmp_path / "w.pt")
    assert f"teacher_sha256 'random:0', but '{sha256}' was asked for" in told
    told = refused("cache", "check", tiny_cache, "--teacher-weights", tmp_path / "absent.pt")
    assert str(tmp_path / "absent.pt") in told


def test_the_data_set(
    tmp_path: Path, make_data: Command, extract: Command, stdpipe: Command, refused: Command
) -> None:
    """Where the manifest says, or where the user does; other frames are no data set of it."""
    data = make_data(tmp_path / "data", clips=2)
    stdpipe(*extract(data, tmp_path / "c"))
    data.rename(tmp_path / "moved")
    command = ("cache", "check", tmp_path / "c", *WEIGHTS)
    told = refused(*command)
    assert f"{data} is not here" in told
    assert "--data" in told
    assert f"{data} is not here" in refused(*command, "--data", data)
    stdpipe(*command, "--data", tmp_path / "moved")
    one, two = (tmp_path / "moved/sequences/00001" / name for name in ("0001", "0002"))
    shutil.rmtree(one)
    shutil.copytree(two, one)
    assert "are not those the cache was made from" in refused(*command, "--data", one.parents[2])
    other = make_data(tmp_path / "other", clips=1)
    assert "clip 00001/0002 of the cache is not in the data set" in refused(
        *command, "--data", other
    )


def test_an_unfinished_cache(
    tmp_path: Path, tiny: Path, extract: Command, stdpipe: Command, refused: Command
) -> None:
    """As far as it goes."""
    stdpipe(*extract(tiny, tmp_path / "c", "--part", "5/6"))
    assert "holds no clips yet" in refused("cache", "check", tmp_path / "c", *WEIGHTS)
    stdpipe(*extract(tiny, tmp_path / "c", "--part", "1/6"))
    told = stdpipe("cache", "check", tmp_path / "c", *WEIGHTS).stdout
    assert told.endswith("1 checked, 0 beyond\n")


def test_every_orientation_comes_before_any_comes_twice() -> None:
    keys = [f"{clip:04d}@{o}" for o in range(NUM_ORIENTATIONS) for clip in range(o + 1)]
    rng = np.random.default_rng(0)
    for count in range(1, len(keys) + 3):
        chosen = check.choose([str(key) for key in rng.permutation(keys)], count, seed=count)
        assert len(set(chosen)) == min(count, len(keys))
        present = {View.parse(key).orientation for key in chosen}
        assert len(present) == min(count, NUM_ORIENTATIONS)


def test_choosing_is_by_seed() -> None:
    keys = [f"{clip:04d}@0" for clip in range(50)]
    assert check.choose(keys, 5, 0) == check.choose(keys, 5, 0) != check.choose(keys, 5, 1)


def test_the_tolerance() -> None:
    """Three times what the encoding loses, and rounding: coarser of mixed precision, and of maps
    that are stored in float16."""
    manifest = cache.Manifest(
        made_by={"amp": "none"},
        entries=("a",),
        frames=1,
        channels=1,
        height=4,
        width=4,
        notes={"error": {"f_sr_rmse": 0.01, "attention_rmse": 0.002, "sr_psnr": 50.0}},
    )
    assert check.tolerance(manifest) == pytest.approx(
        {"f_sr": 0.0301, "attention": 0.0061 + 2**-11}
    )
    manifest.made_by["amp"] = "bf16"
    assert check.tolerance(manifest)["f_sr"] == pytest.approx(0.08)
    del manifest.notes["error"]
    with pytest.raises(ValueError, match="does not say what its encoding loses"):
        check.tolerance(manifest)
