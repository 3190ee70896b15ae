"""The teacher's image in the cache: the live teacher's, in 8 bits, for every kind of teacher."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stdpipe import cache
from stdpipe.data.layouts import find_clips
from stdpipe.data.samples import read_frames, view_pair
from stdpipe.data.views import View, orient
from stdpipe.device import settle
from stdpipe.features.teacher import PLAIN, ensemble, teacher_features
from stdpipe.models.checkpoints import load_network, save_network
from stdpipe.models.luma import own_image

Command = Callable[..., Any]
EDVR = "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1,num_reconstruct_block=1"
SMALL = {
    "edvr": EDVR,
    "luma": "vespcn:channels=1",
    "no F^SR": "rrn:num_feat=8,num_block=1",
}
CPU = torch.device("cpu")


def live(data: Path, view: View, teacher: str, degradation: str = "bd", members=PLAIN):
    """The teacher's own image of a view, (T, 3 or 1, H, W), in 8 bits."""
    clip = next(c for c in find_clips(data, "train") if c.key == view.clip)
    phase = 0.0 if degradation == "bd" else 1.5
    net = settle(load_network(teacher, "random:0", phase)[0], CPU)
    lr = view_pair(read_frames(clip).hr, view, degradation)[1]
    sr = own_image(teacher_features(net, lr, CPU, "none", members).sr, net.channels)
    return (sr.clamp(0, 1) * 255).round().to(torch.uint8)


def stored(path: Path) -> dict[View, torch.Tensor]:
    """Every image of a cache as the teacher saw its clip."""
    reader = cache.open_reader(path)
    views = map(View.parse, reader.entries)
    return {v: orient(torch.from_numpy(reader.read(str(v), "sr")), v.orientation) for v in views}


@pytest.mark.parametrize("kind", SMALL)
def test_an_image_is_the_live_teachers_and_needs_no_tail(
    tmp_path: Path, tiny: Path, extract: Command, stdpipe: Command, kind: str
) -> None:
    command = extract(tiny, tmp_path / "c", "--teacher", SMALL[kind], "--targets", "sr")
    stdpipe(*command)
    for view, sr in stored(tmp_path / "c").items():
        assert torch.equal(sr, live(tiny, view, SMALL[kind]))
        assert sr.shape[1] == (1 if kind == "luma" else 3)
    assert not (tmp_path / "c/tail").exists()
    for file in (tmp_path / "c/sr").glob("c.0.*"):
        damaged = bytearray(file.read_bytes())
        damaged[100] ^= 1
        file.write_bytes(damaged)
    with pytest.raises(cache.CacheError, match="is damaged"):
        stored(tmp_path / "c")


def test_what_is_cached_unless_told_otherwise(
    tmp_path: Path, tiny: Path, make_data: Command, stdpipe: Command
) -> None:
    """The best that teacher and frames allow."""
    padded = make_data(tmp_path / "padded", clips=1, height=36, width=44)
    every = ("sr", "f_sr", "attention")
    for name, data, targets, encoding in (
        ("edvr", tiny, every, "trunk-int8"),
        ("edvr", padded, every, "int8"),
        ("luma", tiny, every, "trunk-int8"),
        ("no F^SR", tiny, ("sr",), "int8"),
    ):
        place = tmp_path / f"{name}-{data.name}"
        given = ("--teacher", SMALL[name], "--weights", "random:0", "--cache", place)
        stdpipe("extract-teacher", "--data", data, *given)
        made = cache.open_reader(place).manifest
        assert (made.targets, made.encoding) == (targets, encoding)


@pytest.mark.parametrize(("degradation", "count"), [("bd", 4), ("bd:sigma=1.5", 4), ("bi", 16)])
def test_an_ensemble_does_not_care_how_it_is_shown_a_clip(degradation: str, count: int) -> None:
    """Turned in a way that is among its members, a clip has the same image, turned."""
    members = ensemble(degradation)
    assert len({*members}) == len(members) == count
    net = settle(load_network(EDVR, "random:0", 0.0)[0], CPU)
    lr = torch.rand(3, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    plain = teacher_features(net, lr, CPU, "none")
    whole = teacher_features(net, lr, CPU, "none", members)
    assert torch.equal(whole.f_sr, plain.f_sr)
    assert not torch.allclose(whole.sr, plain.sr, atol=1e-5)
    for turn, back in members[1::3]:
        shown = orient(lr.flip(0) if back else lr, turn)
        sr = teacher_features(net, shown, CPU, "none", members).sr
        expected = orient(whole.sr.flip(0) if back else whole.sr, turn)
        assert torch.allclose(sr, expected, atol=1e-5)


def test_an_ensemble_in_the_cache(
    tmp_path: Path, make_data: Command, extract: Command, stdpipe: Command, refused: Command
) -> None:
    data = make_data(tmp_path / "data", clips=1)
    command = extract(data, tmp_path / "c", "--ensemble")
    stdpipe(*command)
    for view, sr in stored(tmp_path / "c").items():
        assert torch.equal(sr, live(data, view, EDVR, members=ensemble("bd")))
    assert "ensemble 4, but None" in refused(*extract(data, tmp_path / "c"))
    check = ("cache", "check", tmp_path / "c", "--teacher-weights", "random:0", "--json")
    assert json.loads(stdpipe(*check).stdout)["beyond"] == []
    alone = extract(data, tmp_path / "d", "--targets", "attention", "--ensemble")
    assert "add sr" in refused(*alone)


@pytest.mark.parametrize("kind", ["edvr", "luma"])
def test_output_from_baked_images_is_output_from_the_live_teacher(
    tmp_path: Path, tiny: Path, extract: Command, train: Command, stdpipe: Command, kind: str
) -> None:
    """To half a step of 8 bits, which is what `sr` rounds away."""
    views = ("--views", "baked", "--baked", 2, "--patch", 16, "--targets", "sr")
    stdpipe(*extract(tiny, tmp_path / "c", "--teacher", SMALL[kind], *views))
    net, facts = load_network(SMALL[kind], "random:0", 0.0)
    save_network(tmp_path / "t.pt", net, facts["network"], "bd")
    for out, more in (("cached", ()), ("live", ("--live-teacher", tmp_path / "t.pt"))):
        given = ("--cache", tmp_path / "c", "--scheme", "output", *more)
        stdpipe(*train(tmp_path / out, tiny, *given, warmup_steps=0))
    found = [
        [
            json.loads(x)["output"]
            for x in (tmp_path / out / "metrics.jsonl").read_text().split("\n")[:-1]
        ]
        for out in ("cached", "live")
    ]
    assert found[0] == pytest.approx(found[1], abs=0.5 / 255)


def test_sd_and_output_need_no_f_sr(
    tmp_path: Path, tiny: Path, extract: Command, train: Command, stdpipe: Command
) -> None:
    stdpipe(*extract(tiny, tmp_path / "c", "--targets", "sr,attention"))
    given = ("--cache", tmp_path / "c", "--scheme", "sd,output")
    stdpipe(*train(tmp_path / "run", tiny, *given, warmup_steps=0))
