"""Both stages over an S3 API on loopback, through the command line, against the same on a disk."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stdpipe import cache
from stdpipe.training.metrics_log import read_metrics

Command = Callable[..., Any]

FAST_LEASES = """
from stdpipe.cache import objects
objects.LEASE_SECONDS, objects.RENEW_SECONDS = 4.0, 0.5
from stdpipe.cli.main import main
main(prog_name='stdpipe')
"""


def start(arguments: list[object]) -> "subprocess.Popen[str]":
    """The command in a process of its own."""
    command = [sys.executable, "-c", FAST_LEASES, *map(str, arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, env=dict(os.environ))


def values(url: str | Path) -> dict[tuple[str, str], bytes]:
    """All that a cache serves."""
    reader = cache.open_reader(url)
    names = reader.manifest.given
    return {
        (key, name): reader.read(key, name).tobytes() for key in reader.entries for name in names
    }


@pytest.fixture
def uploaded(s3: str, tiny_cache: Path) -> str:
    """The tiny cache, copied as any tool for object stores would."""
    place = cache.open_place(s3)
    for path in tiny_cache.rglob("*"):
        if path.is_file() and path.suffix != ".lock":
            place.write(path.relative_to(tiny_cache).as_posix(), [path.read_bytes()])
    return s3


@pytest.mark.slow
def test_two_parts_extract_at_once(
    s3: str, tiny: Path, tiny_cache: Path, extract: Command, stdpipe: Command
) -> None:
    """Whichever is last finishes the cache; in it lies what one part alone wrote to a disk."""
    command = extract(tiny, s3, "--orientations", 2, "--json")
    job = start([*command, "--part", "0/2"])
    while not cache.open_place(s3).names("journal"):  # it is up, and creates the cache
        assert job.poll() is None, job.communicate()
    here = stdpipe(*command, "--part", "1/2").stdout
    there, errors = job.communicate(timeout=100)
    assert (job.returncode, errors) == (0, "")
    answers = [json.loads(text) for text in (here, there)]
    assert 0 in {answer["missing"] for answer in answers}
    assert {answer["cache"] for answer in answers} == {s3}
    assert values(s3) == values(tiny_cache)
    found = json.loads(stdpipe("cache", "verify", s3, "--json").stdout)
    assert (found["ok"], found["broken"], found["leftovers"]) == (6, [], [])
    facts = json.loads(stdpipe("cache", "info", s3, "--json").stdout)
    assert (facts["committed"], facts["complete"]) == (6, True)
    assert facts["cache_id"] == cache.load_manifest(tiny_cache).cache_id


@pytest.mark.slow
def test_a_student_learns_the_same(
    tmp_path: Path, uploaded: str, tiny: Path, tiny_cache: Path, train: Command
) -> None:
    """Number for number, with the cache read in a worker process.

    In a process of its own: another test's fork server would not know this store's address.
    """
    told = {}
    for run, where in (("far", uploaded), ("near", tiny_cache)):
        command = train(tmp_path / run, tiny, "--cache", where, workers=1, warmup_steps=0)
        job = start(command)
        _, errors = job.communicate(timeout=100)
        assert job.returncode == 0, errors
        told[run] = metrics(tmp_path / run)
    assert told["far"] == told["near"]
    assert [line.keys() >= {"loss", "rec", "sd", "td"} for line in told["far"]] == [True] * 3


def metrics(run: Path) -> list[dict[str, float]]:
    """Every logged line, but for how long it took."""
    lines = read_metrics(run / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in ("steps_per_s", "wait")} for line in lines]


def test_damage_is_told_with_its_clip(
    tmp_path: Path, uploaded: str, tiny: Path, train: Command, stdpipe: Command, refused: Command
) -> None:
    place, manifest = cache.open_place(uploaded), cache.load_manifest(uploaded)
    for key, index in manifest.index.items():
        path = manifest.arrays["f_sr"].file(index)
        data = place.read(path)
        place.write(path, [data[: len(data) // 2], b"\0\0\0", data[len(data) // 2 + 3 :]])
        assert key in stdpipe("cache", "verify", uploaded, code=1).stdout
    told = refused(*train(tmp_path / "run", tiny, "--cache", uploaded, warmup_steps=0))
    assert f"of cache {uploaded}: its f_sr is damaged" in told
    assert "run 'stdpipe cache verify' on it" in told


def test_a_store_out_of_reach_and_a_bucket_that_is_not_there(
    s3: str, proxy: Any, tiny: Path, extract: Command, refused: Command
) -> None:
    told = refused(*extract(tiny, s3.replace("//bucket", "//nobucket")))
    assert "there is no such bucket: check the URL" in told
    proxy.refuse = lambda method, path: True
    assert f"stdpipe: cannot list {s3}" in refused(*extract(tiny, s3))
    assert f"stdpipe: cannot list {s3}" in refused("cache", "info", s3)


@pytest.mark.slow
def test_a_killed_part_is_resumed(
    s3: str, tiny: Path, tiny_cache: Path, extract: Command, stdpipe: Command
) -> None:
    """Killed when its first entry is there; its lease lapses, and one part alone does the rest."""
    command = extract(tiny, s3, "--orientations", 2)
    job = start([*command, "--part", "0/2"])
    while not committed(s3):
        assert job.poll() is None, job.communicate()
    job.kill()
    job.communicate()
    stdpipe(*command)
    assert values(s3) == values(tiny_cache)
    assert cache.verify(s3).ok == 6


def committed(url: str) -> int:
    """Entries so far; none where there is no cache yet."""
    try:
        return len(cache.open_reader(url, allow_incomplete=True).entries)
    except cache.CacheError:
        return 0
