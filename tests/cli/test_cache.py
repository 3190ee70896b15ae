"""stdpipe cache info, verify and repair, on caches that stage one made."""

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from stdpipe import cache

Command = Callable[..., Any]


@pytest.fixture
def copy(tmp_path: Path, tiny_cache: Path) -> Path:
    """A cache of one's own to break."""
    return Path(shutil.copytree(tiny_cache, tmp_path / "cache.zarr"))


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def break_entry(root: Path, index: int) -> str:
    """Damage an entry's f_sr; its key."""
    flip_a_byte(next((root / "f_sr").glob(f"c.{index}.*")))
    return cache.load_manifest(root).entries[index]


def test_info(tiny_cache: Path, stdpipe: Command) -> None:
    facts = json.loads(stdpipe("cache", "info", tiny_cache, "--json").stdout)
    manifest = cache.open_reader(tiny_cache).manifest
    assert facts["cache_id"] == manifest.cache_id
    assert facts["teacher_sha256"] == "random:0"
    assert (facts["entries"], facts["committed"], facts["complete"]) == (6, 6, True)
    shapes = {"sr": [7, 3, 32, 48], "f_sr": [7, 64, 32, 48], "attention": [7, 32, 48]}
    assert facts["array_shapes"] == shapes
    assert facts["error"]["f_sr_rmse"] == 0  # float32
    assert facts["error"]["measured_on"] == manifest.entries[0]
    assert "error" not in facts["notes"]


def test_info_weighs_what_lies_on_disk(tiny_cache: Path, stdpipe: Command) -> None:
    facts = json.loads(stdpipe("cache", "info", tiny_cache, "--json").stdout)
    on_disk = {
        name: sum(file.stat().st_size for file in (tiny_cache / name).glob("c.*"))
        for name in ("sr", "f_sr", "attention")
    }
    assert facts["bytes_by_array"] == on_disk
    assert facts["bytes"] == sum(on_disk.values())
    assert facts["bytes_per_entry"] == facts["bytes"] / 6
    assert facts["times_smaller"] == pytest.approx(1, abs=0.01)  # float32 and its checksums


def test_info_for_people(tiny_cache: Path, stdpipe: Command) -> None:
    lines = stdpipe("cache", "info", tiny_cache).stdout.splitlines()
    assert lines[0] == f"{tiny_cache}: complete, 6 of 6 entries"
    told = dict(line.strip().split(": ", 1) for line in lines[1:])
    told = {label: value.strip() for label, value in told.items()}
    assert told["degradation"] == "bd"
    assert told["LR in 8 bits"] == "yes"
    assert told["orientations"] == "2"
    assert told["serves"] == "sr, f_sr, attention"
    assert told["entry"] == "7 x 32 x 48 (T x H x W)"
    assert told["encoding"] == "float32, compression none"
    assert told["bytes"] == "17.0 MB, 2.8 MB an entry"
    assert told["attention"] == "0.000% (relative RMSE)"
    assert told["SR"] == "exact (PSNR against the unencoded)"
    assert not any(mark in line for line in lines[1:] for mark in "{}'[]")


def test_info_of_a_trunk(tiny: Path, tmp_path: Path, extract: Command, stdpipe: Command) -> None:
    """8 channels at LR in 8 bits, against 64 at HR in 32: a 512th, before checksums and scales."""
    place = tmp_path / "trunk.zarr"
    stdpipe(*extract(tiny, place, "--encoding", "trunk-int8"))
    facts = json.loads(stdpipe("cache", "info", place, "--json").stdout)
    assert facts["array_shapes"]["trunk"] == [7, 8, 8, 12]
    assert 460 < facts["times_smaller"] < 512
    assert 0 < facts["error"]["f_sr_rmse"] < 0.05
    assert "  trunk_scale: " in stdpipe("cache", "info", place).stdout


def test_info_of_attention_alone(
    tiny: Path, tmp_path: Path, extract: Command, stdpipe: Command
) -> None:
    place = tmp_path / "attention.zarr"
    stdpipe(*extract(tiny, place, "--targets", "attention"))
    facts = json.loads(stdpipe("cache", "info", place, "--json").stdout)
    assert facts["times_smaller"] is None
    assert "smaller" not in stdpipe("cache", "info", place).stdout


def test_info_of_f_lr_beside_a_trunk(
    tiny: Path, tmp_path: Path, extract: Command, stdpipe: Command
) -> None:
    """f_lr has its own weight and error, and counts for nothing where f_sr is weighed."""
    place = tmp_path / "f_lr.zarr"
    stdpipe(*extract(tiny, place, "--encoding", "trunk-int8", "--targets", "f_sr,attention,f_lr"))
    facts = json.loads(stdpipe("cache", "info", place, "--json").stdout)
    assert facts["array_shapes"]["f_lr"] == [7, 8, 8, 12]
    assert facts["f_lr_channels"] == 8
    assert 460 < facts["times_smaller"] < 512
    assert 0 < facts["error"]["f_lr_rmse"] < 0.05
    assert f"f_lr: {facts['error']['f_lr_rmse']:.3%}" in " ".join(
        stdpipe("cache", "info", place).stdout.split()
    )


def test_info_of_an_unfinished_cache(copy: Path, stdpipe: Command) -> None:
    (copy / "complete.json").unlink()
    facts = json.loads(stdpipe("cache", "info", copy, "--json").stdout)
    assert (facts["committed"], facts["complete"]) == (6, False)
    told = stdpipe("cache", "info", copy).stdout
    assert told.startswith(f"{copy}: not complete, 6 of 6 entries\n")


def test_info_of_an_empty_cache(copy: Path, stdpipe: Command) -> None:
    for journal in (copy / "journal").glob("*.jsonl"):
        journal.unlink()
    facts = json.loads(stdpipe("cache", "info", copy, "--json").stdout)
    assert (facts["bytes"], facts["bytes_per_entry"], facts["times_smaller"]) == (0, None, None)
    assert ": not complete, 0 of 6 entries\n" in stdpipe("cache", "info", copy).stdout


def test_verify(tiny_cache: Path, stdpipe: Command) -> None:
    found = json.loads(stdpipe("cache", "verify", tiny_cache, "--json").stdout)
    assert found.pop("first_checked")
    assert found == {
        "ok": 6, "broken": [], "uncommitted": [], "leftovers": [], "torn": [], "went_on_at": 0
    }  # fmt: skip
    assert stdpipe("cache", "verify", tiny_cache).stdout == "6 ok, 0 broken\n"


def test_verify_says_that_it_went_on(
    copy: Path, stdpipe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(import_module("stdpipe.cache.verify"), "NOTE_SECONDS", -1.0)
    for more in ([], ["--fresh"]):
        with pytest.raises(KeyboardInterrupt):
            cache.verify(copy, stop)
        told, count = [*stdpipe("cache", "verify", copy, *more).stdout.splitlines(), ""][:2]
        if more:
            assert told == "6 ok, 0 broken"
        else:
            assert told.startswith("went on behind the first 2 clips, of a check begun at 20")
            assert count == "6 ok, 0 broken"


def test_verify_names_what_is_broken(copy: Path, stdpipe: Command) -> None:
    key = break_entry(copy, 2)
    flip_a_byte(copy / "zarr.json")
    found = json.loads(stdpipe("cache", "verify", copy, "--json", code=1).stdout)
    entry, metadata = found["broken"]
    assert found["ok"] == 5
    assert (entry["key"], entry["array"]) == (key, "f_sr")
    assert (metadata["array"], metadata["path"]) == ("metadata", "zarr.json")
    first, second, count, remedy = stdpipe("cache", "verify", copy, code=1).stdout.splitlines()
    assert first.startswith(f"broken: {key} f_sr: ")
    assert second == "broken: metadata: zarr.json is damaged or missing"
    assert count == "5 ok, 2 broken"
    assert remedy.startswith(f"run 'stdpipe cache repair {copy}'")


def test_repair_and_the_same_command_again(
    tiny: Path, tiny_cache: Path, copy: Path, extract: Command, stdpipe: Command
) -> None:
    """What it is for: afterwards every file is what it was, but for the order of the journal."""
    key = break_entry(copy, 2)
    dropped, remedy = stdpipe("cache", "repair", copy).stdout.splitlines()
    assert dropped.startswith(f"dropped: {key} f_sr: ")
    assert remedy == "run the same extract-teacher command to fill it again"
    facts = json.loads(stdpipe("cache", "info", copy, "--json").stdout)
    assert (facts["committed"], facts["complete"]) == (5, False)
    stdpipe(*extract(tiny, copy, "--orientations", 2))
    for name in ("f_sr", "attention"):
        for file in (tiny_cache / name).glob("c.*"):
            assert (copy / name / file.name).read_bytes() == file.read_bytes()
    assert stdpipe("cache", "verify", copy).stdout == "6 ok, 0 broken\n"


def test_repair_restores_a_manifest_by_itself(copy: Path, stdpipe: Command) -> None:
    whole = (copy / "manifest.json").read_bytes()
    flip_a_byte(copy / "manifest.json")
    told = stdpipe("cache", "repair", copy).stdout
    assert told == "restored: metadata: manifest.json is damaged or missing\n"
    assert (copy / "manifest.json").read_bytes() == whole
    assert stdpipe("cache", "verify", copy).stdout == "6 ok, 0 broken\n"


def test_repair_in_json(copy: Path, stdpipe: Command) -> None:
    key = break_entry(copy, 1)
    (copy / "f_sr" / "c.9.0.0.0.0.partial").write_bytes(b"half")
    found = json.loads(stdpipe("cache", "repair", copy, "--json").stdout)
    assert found["ok"] == 5
    assert [one["key"] for one in found["broken"]] == [key]
    assert found["leftovers"] == ["f_sr/c.9.0.0.0.0.partial"]


def test_repair_of_a_whole_cache(copy: Path, stdpipe: Command) -> None:
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    told = stdpipe("cache", "repair", copy).stdout
    assert told == "nothing is broken; 6 of 6 entries are committed\n"
    (copy / "journal" / "_repair.lock").unlink()
    assert {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("command", ["info", "verify", "repair"])
def test_not_a_cache(tmp_path: Path, refused: Command, command: str) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        told = refused("cache", command, path)
        assert told == f"stdpipe: {path} is not a cache (no manifest.json): check the path"
    assert list(tmp_path.iterdir()) == []


def test_a_cache_is_the_one_that_a_digest_names(copy: Path, stdpipe: Command) -> None:
    told = stdpipe("cache", "verify", copy, "--digest").stdout.strip()
    assert len(told) == 64
    same = stdpipe("cache", "verify", copy, "--against", told.upper(), "--json")
    assert json.loads(same.stdout) == {"digest": told, "fits": True}
    other = stdpipe("cache", "verify", copy, "--against", "0" * 64, code=1)
    assert told in other.stdout
    assert "0" * 64 in other.stdout
    stdpipe("cache", "verify", copy, "--against", told, "--fresh", code=2)
    key = break_entry(copy, 2)
    broken = stdpipe("cache", "verify", copy, "--against", told, code=1)
    assert key in broken.stderr
