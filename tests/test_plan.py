"""--plan: what it says a cache will weigh is what it weighs, and nothing is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stdpipe import cache
from stdpipe.data.views import View
from stdpipe.features.quality import evenly_spaced

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
    assert planned["measured_on"] == list(cache.load_manifest(tmp_path / "c").entries)


def test_bytes_are_means_and_errors_the_worst(tmp_path, tiny, stdpipe):
    """Of three clips of which two are measured: the first and the last."""
    command = extract(tiny, tmp_path / "c", "--encoding", "int8")
    stdpipe(*command)
    arrays = [
        (tmp_path / "c" / name).glob("c.*") for name in ("sr", "f_sr", "f_sr_scale", "attention")
    ]
    shards = [f for files in arrays for f in files if f.name.split(".")[1] in "02"]
    with pytest.MonkeyPatch.context() as two:
        two.setattr("stdpipe.plan.MEASURED", 2)
        row = json.loads(stdpipe(*command, "--plan", "--json").stdout)["encodings"]["int8"]
    assert json.loads(stdpipe(*command, "--plan", "--json").stdout)["teacher_hours"] == 0
    weight = sum(file.stat().st_size for file in shards)
    assert row["bytes_per_clip"] == round(weight / 2)
    assert row["bytes"] == round(weight / 2 * 3)
    first = cache.load_manifest(tmp_path / "c").notes["error"]
    assert row["f_sr_rmse"] >= first["f_sr_rmse"]
    assert row["sr_psnr"] <= first["sr_psnr"]


def test_views_are_spread_over_the_list():
    views = [View("a", n) for n in range(8)]
    assert [v.orientation for v in evenly_spaced(views, 3)] == [0, 3, 7]
    assert evenly_spaced(views[:2], 3) == views[:2]
    assert evenly_spaced(views[:1], 3) == views[:1]
    assert evenly_spaced(views, 1) == views[:1]


def test_a_plan_to_resume_is_of_what_is_missing(tmp_path, tiny, stdpipe, monkeypatch):
    """Hours and room; a cache of another encoding is none to resume."""
    command = extract(tiny, tmp_path / "c", "--encoding", "int8")
    stdpipe(*command, "--part", "0/2")
    planned = json.loads(stdpipe(*command, "--plan", "--json").stdout)
    row = planned["encodings"]["int8"]
    assert (planned["entries"], planned["missing"]) == (3, 1)
    assert planned["missing_bytes"] == row["bytes_per_clip"]
    assert row["bytes"] == pytest.approx(3 * row["bytes_per_clip"], abs=2)
    assert planned["teacher_hours"] == planned["teacher_seconds_per_clip"] / 3600
    usage = shutil.disk_usage(tmp_path)._replace(free=2 * row["bytes_per_clip"])
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    told = stdpipe(*command, "--plan").stdout
    assert "1 of them are missing still: the hours, and 0.00 GB as int8, are of these" in told
    other = extract(tiny, tmp_path / "c", "--encoding", "float16", "--plan", "--json")
    monkeypatch.undo()
    assert json.loads(stdpipe(*other).stdout)["missing"] == 3


def test_a_plan_writes_no_temporary_file_and_hides_no_fault(
    tmp_path, tiny, stdpipe, refused, monkeypatch
):
    command = extract(tiny, tmp_path / "c", "--plan")
    with monkeypatch.context() as without:
        without.setattr("tempfile.tempdir", str(tmp_path / "not" / "there"))
        assert "| trunk-int8" in stdpipe(*command).stdout

    def broken(manifest, *_):
        if manifest.encoding == "int8":
            raise cache.CacheError("broken")
        return {"f_sr": 1}

    monkeypatch.setattr("stdpipe.plan.weigh", broken)
    assert refused(*command) == "stdpipe: broken"


def test_a_plan_needs_no_cache(tmp_path, tiny, stdpipe, refused, monkeypatch):
    """It then weighs the disk at hand; extracting does need one."""
    monkeypatch.chdir(tmp_path)
    without = [x for x in extract(tiny, "CACHE") if x not in ("--cache", "CACHE")]
    planned = json.loads(stdpipe(*without, "--plan", "--batch", 2, "--json").stdout)
    assert (planned["encoding"], planned["batch"], planned["fits"]) == ("trunk-int8", 2, True)
    assert planned["free_bytes"] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.5)
    assert list(tmp_path.iterdir()) == []
    assert "Missing option '--cache'" in refused(*without, code=2)


def test_frames_that_the_teacher_pads_have_no_trunk_encodings(tmp_path, make_data, stdpipe):
    data = make_data(tmp_path / "data", clips=1, height=36, width=44)
    planned = json.loads(stdpipe(*extract(data, tmp_path / "c"), "--plan", "--json").stdout)
    assert planned["encodings"].keys() == {"float32", "float16", "int8"}


def test_a_disk_that_is_too_small(tmp_path, tiny, stdpipe, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    result = stdpipe(*extract(tiny, tmp_path / "c", "--plan"), code=1)
    assert "| trunk-int8" in result.stdout
    assert "are free: choose a smaller one or another disk" in result.stderr
