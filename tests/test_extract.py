"""Stage one: what lies in the cache is what the teacher computes, bit for bit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stdpipe import cache
from stdpipe.data.box import Box
from stdpipe.data.layouts import find_clips
from stdpipe.data.samples import read_frames, view_pair
from stdpipe.data.views import View, orient, upright_box
from stdpipe.device import settle
from stdpipe.models.checkpoints import load_network

Command = Callable[..., Any]


def live(data: Path, view: View, degradation: str = "bd") -> torch.Tensor:
    """The teacher's f_sr for a view, oriented as the teacher saw it: (T, 64, H, W)."""
    clip = next(c for c in find_clips(data, "train") if c.key == view.clip)
    net, _ = load_network(
        "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1,"
        "num_reconstruct_block=1",
        "random:0",
        phase=0.0 if degradation == "bd" else 1.5,
    )
    _, lr = view_pair(read_frames(clip).hr, view, degradation)
    with torch.inference_mode():
        return settle(net, torch.device("cpu")).features_clip(lr[None]).f_sr[0]


def oriented(stored: np.ndarray[Any, Any], view: View) -> torch.Tensor:
    return orient(torch.from_numpy(stored), view.orientation)


def test_f_sr_is_the_teachers_in_every_orientation(
    tmp_path: Path, make_data: Command, extract: Command, stdpipe: Command
) -> None:
    data = make_data(tmp_path / "data", clips=1)
    stdpipe(*extract(data, tmp_path / "c", "--orientations", 8))
    reader = cache.open_reader(tmp_path / "c")
    views = [View.parse(key) for key in reader.entries]
    assert sorted(view.orientation for view in views) == list(range(8))
    for view in views:
        f_sr = reader.read(str(view), "f_sr")
        assert f_sr.shape == (7, 64, 32, 48)
        assert torch.equal(oriented(f_sr, view), live(data, view))
        attention = oriented(reader.read(str(view), "attention"), view)
        assert torch.equal(attention, live(data, view).square().sum(1))


def test_a_crop_is_the_crop_of_the_whole(tiny_cache: Path) -> None:
    reader = cache.open_reader(tiny_cache)
    for view in map(View.parse, reader.entries):
        whole = oriented(reader.read(str(view), "f_sr"), view)
        box = Box(8, 4, 16, 20) if whole.shape[-1] > whole.shape[-2] else Box(4, 8, 20, 16)
        at = upright_box(box, view.orientation, 32, 48)
        crop = reader.read(str(view), "f_sr", y=at.y, x=at.x, h=at.height, w=at.width)
        y, x, height, width = box
        assert torch.equal(oriented(crop, view), whole[..., y : y + height, x : x + width])


@pytest.mark.parametrize("degradation", ["bi", "bd-centred"])
def test_odd_sizes_are_cut_and_other_degradations_work(
    tmp_path: Path, make_data: Command, extract: Command, stdpipe: Command, degradation: str
) -> None:
    """30 x 46 frames: what is left of them is cached."""
    data = make_data(tmp_path / "data", clips=1, height=30, width=46)
    stdpipe(*extract(data, tmp_path / "c", "--degradation", degradation))
    reader = cache.open_reader(tmp_path / "c", {"degradation": degradation})
    assert (reader.manifest.height, reader.manifest.width) == (28, 44)
    (view,) = map(View.parse, reader.entries)
    f_sr = oriented(reader.read(str(view), "f_sr"), view)
    assert torch.equal(f_sr, live(data, view, degradation))


def test_float16_is_the_float32_rounded(
    tmp_path: Path, tiny: Path, tiny_cache: Path, extract: Command, stdpipe: Command
) -> None:
    stdpipe(*extract(tiny, tmp_path / "c", "--orientations", 2, "--encoding", "float16"))
    half, full = cache.open_reader(tmp_path / "c"), cache.open_reader(tiny_cache)
    key = next(iter(full.entries))
    stored = half.read(key, "f_sr")
    assert stored.dtype == np.float16
    assert np.array_equal(stored, full.read(key, "f_sr").astype(np.float16))


def test_targets_choose_what_is_stored(
    tmp_path: Path, tiny: Path, tiny_cache: Path, extract: Command, stdpipe: Command
) -> None:
    stdpipe(*extract(tiny, tmp_path / "c", "--targets", "attention", "--orientations", 2))
    reader = cache.open_reader(tmp_path / "c")
    key = next(iter(reader.entries))
    assert reader.manifest.targets == ("attention",)
    assert not (tmp_path / "c" / "f_sr").exists()
    whole = cache.open_reader(tiny_cache).read(key, "attention")
    assert np.array_equal(reader.read(key, "attention"), whole)


def test_the_order_of_targets_does_not_matter(
    tmp_path: Path, tiny: Path, extract: Command, stdpipe: Command
) -> None:
    stdpipe(*extract(tiny, tmp_path / "c", "--targets", "attention, f_sr"))
    assert cache.open_reader(tmp_path / "c").manifest.targets == ("f_sr", "attention")


def test_the_manifest_says_who_made_it(tiny_cache: Path) -> None:
    made_by = cache.open_reader(tiny_cache).manifest.made_by
    assert made_by["teacher"] == (
        "edvr:deformable_groups=2,num_extract_block=1,num_feat=8,num_frame=3,"
        "num_reconstruct_block=1,phase=0.0"
    )
    assert (made_by["teacher_sha256"], made_by["degradation"]) == ("random:0", "bd")
    assert (made_by["orientations"], made_by["seed"]) == (2, 0)


def test_json_and_a_second_run_changes_nothing(
    tmp_path: Path, tiny: Path, extract: Command, stdpipe: Command
) -> None:
    path = tmp_path / "c"
    first = json.loads(stdpipe(*extract(tiny, path, "--json")).stdout)
    assert (first["entries"], first["encoding"]) == (3, "float32")
    assert first["cache_id"] == cache.open_reader(path).manifest.cache_id
    files = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    assert first["bytes"] == sum(
        len(content)
        for p, content in files.items()
        if p.parent.name in ("sr", "f_sr", "attention") and p.name != "zarr.json"
    )
    url = path.as_uri()
    again = json.loads(stdpipe(*extract(tiny, url, "--json")).stdout)
    assert again == {**first, "cache": url}
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == files


def test_clips_of_two_sizes_are_each_the_teachers(
    tmp_path: Path, make_data: Command, extract: Command, stdpipe: Command
) -> None:
    """Bit for bit; the sizes are told first, and the first clip's lies at the top."""
    data, other = (
        make_data(tmp_path / f"{height}", clips=3, height=height, width=48) for height in (32, 40)
    )
    for number in (2, 3):
        shutil.rmtree(data / f"sequences/00001/000{number}")
        shutil.copytree(
            other / f"sequences/00001/000{number}", data / f"sequences/00001/000{number}"
        )
    told = stdpipe(*extract(data, tmp_path / "c", "--batch", 2, "--json"))
    assert "3 clips: 2 of 48x40, 1 of 48x32" in told.stderr
    assert json.loads(told.stdout)["sizes"] == {"48x40": 2, "48x32": 1}
    reader = cache.open_reader(tmp_path / "c")
    assert [group.folder for group in reader.manifest.sizes] == ["", "7x40x48"]
    for view in map(View.parse, reader.entries):
        f_sr = oriented(reader.read(str(view), "f_sr"), view)
        assert torch.allclose(f_sr, live(data, view), atol=1e-6)
    assert cache.verify(tmp_path / "c").ok == 3


def test_a_teacher_for_another_degradation_is_refused(
    tmp_path: Path, tiny: Path, refused: Command
) -> None:
    from stdpipe.models.checkpoints import save_network

    net, facts = load_network("edvr:num_feat=8,deformable_groups=2", "random:1")
    save_network(tmp_path / "t.pt", net, facts["network"], "bi")
    command = [
        "extract-teacher", "--data", tiny, "--weights", tmp_path / "t.pt", "--cache", tmp_path / "c"
    ]  # fmt: skip
    told = refused(*command, "--degradation", "bd")
    assert "was trained for degradation 'bi', but --degradation 'bd' was asked for" in told
    assert not (tmp_path / "c").exists()


def test_weights_that_do_not_say_their_degradation_need_it_named(
    tmp_path: Path, tiny: Path, refused: Command
) -> None:
    """A published checkpoint: the wrong degradation would cost days of the teacher, and 7 dB."""
    name = "edvr:num_feat=8,deformable_groups=2"
    net, _ = load_network(name, "random:1")
    torch.save({"params": net.state_dict()}, tmp_path / "t.pth")
    told = refused(
        "extract-teacher", "--data", tiny, "--teacher", name, "--weights", tmp_path / "t.pth",
        "--cache", tmp_path / "c",
    )  # fmt: skip
    assert "does not say which degradation it was trained for" in told
    assert not (tmp_path / "c").exists()
