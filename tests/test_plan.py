"""--plan: what it says a cache will weigh is what it weighs, and nothing is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., list[object]]


def extract(tiny: Path, out: Path, *more: object) -> list[object]:
    network = (
        "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1,"
        "num_reconstruct_block=1"
    )
    options = ("--teacher", network, "--weights", "random:0", "--cache", out)
    return ["extract-teacher", "--data", tiny, *options, *more]


@pytest.mark.parametrize("encoding", ["float16", "trunk-int8"])
def test_the_plan_is_what_the_cache_weighs(tmp_path, tiny, stdpipe, encoding):
    """Within a tenth: clips compress differently."""
    command = extract(tiny, tmp_path / "c", "--encoding", encoding)
    planned = json.loads(stdpipe(*command, "--plan", "--json").stdout)
    assert not (tmp_path / "c").exists()
    stdpipe(*command)
    arrays = [p for p in (tmp_path / "c").rglob("c.*") if "tail" not in p.parts]
    row = planned["encodings"][encoding]
    assert row["files"] == len(arrays)
    assert row["bytes"] == pytest.approx(sum(p.stat().st_size for p in arrays), rel=0.1)
    assert planned["teacher_hours"] > 0


def test_a_disk_that_is_too_small(tmp_path, tiny, stdpipe, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    result = stdpipe(*extract(tiny, tmp_path / "c", "--plan"), code=1)
    assert "| trunk-int8 |" in result.stdout
    assert "are free: choose a smaller one or another disk" in result.stderr
