"""stdpipe cache info and verify, on a cache that stage one made."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stdpipe import cache

Command = Callable[..., Any]


@pytest.fixture
def copy(tmp_path: Path, tiny_cache: Path) -> Path:
    """A cache of one's own to break."""
    return Path(shutil.copytree(tiny_cache, tmp_path / "cache.zarr"))


def test_info(tiny_cache: Path, stdpipe: Command) -> None:
    facts = json.loads(stdpipe("cache", "info", tiny_cache, "--json").stdout)
    manifest = cache.open_reader(tiny_cache).manifest
    assert facts["cache_id"] == manifest.cache_id
    assert facts["teacher_sha256"] == "random:0"
    assert (facts["entries"], facts["committed"], facts["complete"]) == (6, 6, True)
    assert "degradation: bd\n" in stdpipe("cache", "info", tiny_cache).stdout


def test_info_of_an_unfinished_cache(copy: Path, stdpipe: Command) -> None:
    (copy / "complete.json").unlink()
    facts = json.loads(stdpipe("cache", "info", copy, "--json").stdout)
    assert (facts["committed"], facts["complete"]) == (6, False)


def test_verify(tiny_cache: Path, stdpipe: Command) -> None:
    found = json.loads(stdpipe("cache", "verify", tiny_cache, "--json").stdout)
    assert found == {"ok": 6, "broken": [], "uncommitted": [], "leftovers": []}
    assert stdpipe("cache", "verify", tiny_cache).stdout == "6 ok, 0 broken\n"


def test_verify_names_what_is_broken(copy: Path, stdpipe: Command) -> None:
    key = cache.load_manifest(copy).entries[2]
    shard = next((copy / "f_sr").glob("c.2.*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    found = json.loads(stdpipe("cache", "verify", copy, "--json", code=1).stdout)
    (broken,) = found["broken"]
    assert found["ok"] == 5
    assert (broken["key"], broken["array"]) == (key, "f_sr")
    assert f"broken: {key} f_sr: " in stdpipe("cache", "verify", copy, code=1).stdout


@pytest.mark.parametrize("command", ["info", "verify"])
def test_not_a_cache(tmp_path: Path, refused: Command, command: str) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        told = refused("cache", command, path)
        assert told == f"stdpipe: {path} is not a cache (no manifest.json): check the path"
    assert list(tmp_path.iterdir()) == []
