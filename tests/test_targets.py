"""Cached targets equal the teacher's own, in every encoding, orientation and crop."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stdpipe import cache
from stdpipe.config import StudentTraining
from stdpipe.data.layouts import find_clips
from stdpipe.data.views import Box, View, orient
from stdpipe.extract import Extraction, extract_teacher, teacher_features
from stdpipe.models.checkpoints import load_network, save_network
from stdpipe.targets import CachedTargets, Decoder, load_tail, tail_of
from stdpipe.train import StudentRun, train_student

TINY = "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1,num_reconstruct_block=1"
HEIGHT, WIDTH = 48, 64


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Three clips of seven smooth, moving frames in Vimeo's layout."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for n in range(3):
        folder = root / f"sequences/00001/{n:04d}"
        folder.mkdir(parents=True)
        coarse = rng.integers(0, 255, (10, 16, 3), dtype=np.uint8)
        large = np.asarray(Image.fromarray(coarse).resize((WIDTH + 14, HEIGHT), Image.BICUBIC))
        for t in range(7):
            Image.fromarray(large[:, 2 * t : 2 * t + WIDTH]).save(folder / f"im{t + 1}.png")
    (root / "sep_trainlist.txt").write_text("".join(f"00001/{n:04d}\n" for n in range(3)))
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A tiny EDVR whose offsets are not all zero."""
    path = tmp_path_factory.mktemp("teacher") / "tiny.pt"
    net, facts = load_network(TINY, "random:3", 0.0)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "conv_offset" in name:
                parameter.normal_(0, 0.05)
    save_network(path, net, facts["network"], "bd")
    return path


@pytest.fixture(scope="module")
def caches(data, weights, tmp_path_factory):
    """A finished cache of full views by encoding, made when first asked for."""
    root = tmp_path_factory.mktemp("caches")

    def make(encoding: str, **options) -> Path:
        path = root / f"{encoding}-{len(options)}.zarr"
        if not path.exists():
            job = Extraction(data, str(path), weights=str(weights), encoding=encoding, **options)
            extract_teacher(job)
        return path

    return make


def decoded(path: Path, view: View, box: Box) -> torch.Tensor:
    """f_sr of one oriented window, through worker and device sides, (T, 64, H, W)."""
    reader = cache.open_reader(path)
    decode = Decoder(reader, torch.device("cpu"))
    crc32 = reader.extra(str(view))["source_crc32"]
    one = CachedTargets(reader, ("f_sr",), decode.halo)(view, box, crc32)
    batch = {k: v[None] for k, v in one.items()} | {"hr": torch.zeros(1, 7, 3, *box[2:])}
    return decode(batch)["f_sr"][0]


def whole_f_sr(weights: Path, data: Path, view: View) -> torch.Tensor:
    from stdpipe.data.clips import read_frames, view_pair

    teacher, _ = load_network(None, str(weights))
    clip = {c.key: c for c in find_clips(data, "train")}[view.clip]
    _, lr = view_pair(read_frames(clip).hr, view, "bd")
    return teacher_features(teacher.eval(), lr, torch.device("cpu"), "none").f_sr


TOLERANCE = {  # largest error relative to the largest value
    "float32": 0.0,
    "float16": 1e-3,
    "int8": 1e-2,
    "trunk-float32": 1e-5,
    "trunk-float16": 2e-3,
    "trunk-int8": 3e-2,
}


@pytest.mark.parametrize("encoding", TOLERANCE)
@settings(max_examples=8, deadline=None)
@given(data_=st.data())
def test_a_decoded_crop_is_the_crop_of_the_whole(encoding, caches, weights, data, data_):
    path = caches(encoding, orientations=8)
    view = View.parse(data_.draw(st.sampled_from(cache.open_reader(path).manifest.entries)))
    whole = whole_f_sr(weights, data, view)
    height, width = whole.shape[-2:]
    sides = [data_.draw(st.integers(1, side // 4)) for side in (height, width)]
    starts = [
        data_.draw(st.integers(0, whole_side // 4 - side))
        for whole_side, side in zip((height, width), sides, strict=True)
    ]
    box = Box(4 * starts[0], 4 * starts[1], 4 * sides[0], 4 * sides[1])
    wanted = whole[..., box.y : box.y + box.height, box.x : box.x + box.width]
    error = (decoded(path, view, box) - wanted).abs().max() / whole.abs().max()
    assert error <= TOLERANCE[encoding]


def test_the_tail_alone_gives_f_sr_and_holds_nothing_else(weights):
    teacher, facts = load_network(None, str(weights))
    tail = load_tail(facts["network"], tail_of(teacher), torch.device("cpu"))
    trunk = torch.randn(2, 8, 5, 6)
    assert torch.equal(tail.upsample(trunk), teacher.upsample(trunk))
    loaded = {k for k, v in tail.state_dict().items() if v.device.type != "meta"}
    assert loaded == set(tail_of(teacher))


def test_flipping_a_cached_map_is_not_the_map_of_the_flipped_input(weights, data):
    """Why orientation comes before the teacher; its size on a trained net is in the docs."""
    upright = whole_f_sr(weights, data, View("00001/0000", 0))
    flipped = whole_f_sr(weights, data, View("00001/0000", 1))
    error = (orient(upright, 1) - flipped).square().mean().sqrt()
    assert error > 0.01 * flipped.square().mean().sqrt()


def losses(data: Path, out: Path, cache_path: Path, steps: int, live: Path | None = None):
    options = StudentTraining(
        steps=steps, warmup_steps=1, patch=32, log_every=1, workers=0, save_every=1000
    )
    run = StudentRun(
        data, "fastdvdnet-quarter", out, str(cache_path), live_teacher=live and str(live)
    )
    train_student(run, options)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: line.get(k) for k in ("loss", "rec", "sd", "td")} for line in lines]


@pytest.mark.parametrize(("encoding", "tolerance"), [("float32", 1e-6), ("trunk-float32", 1e-5)])
def test_training_from_a_baked_cache_is_training_with_the_live_teacher(
    encoding, tolerance, caches, data, weights, tmp_path
):
    """Every loss of 20 steps of STD, on one CPU device."""
    path = caches(encoding, views="baked", baked=2, patch=32)
    cached = losses(data, tmp_path / "cached", path, 20)
    live = losses(data, tmp_path / "live", path, 20, live=weights)
    assert len(cached) == 20
    assert cached[0]["sd"] is None  # the warm-up step
    for one, other in zip(cached, live, strict=True):
        assert [k for k, v in one.items() if v is None] == [
            k for k, v in other.items() if v is None
        ]
        for name in one:
            if one[name] is not None:
                assert one[name] == pytest.approx(other[name], rel=tolerance)


def test_two_parts_make_the_cache_of_one(data, weights, tmp_path):
    """Shares may run in any order; the last one to end finishes the cache."""
    options = {"weights": str(weights), "encoding": "int8"}
    extract_teacher(Extraction(data, str(tmp_path / "one"), **options))
    second = extract_teacher(Extraction(data, str(tmp_path / "two"), **options, part=(1, 2)))
    assert second["missing"] == 2
    with pytest.raises(cache.CacheError, match="incomplete"):
        cache.open_reader(tmp_path / "two")
    assert (
        extract_teacher(Extraction(data, str(tmp_path / "two"), **options, part=(0, 2)))["missing"]
        == 0
    )
    for file in sorted((tmp_path / "one").rglob("c.*")):
        relative = file.relative_to(tmp_path / "one")
        assert (tmp_path / "two" / relative).read_bytes() == file.read_bytes()


def test_a_trunk_needs_a_teacher_that_has_one(data, tmp_path):
    from stdpipe.models.base import Network

    with pytest.raises(ValueError, match="has no trunk"):
        tail_of(Network())


def test_a_trunk_of_padded_frames_is_refused(weights, tmp_path):
    """The teacher upsamples its padding too, which a cache of the cropped trunk lacks."""
    folder = tmp_path / "data/clip"
    folder.mkdir(parents=True)
    for t in range(7):
        Image.new("RGB", (44, 40), (t, 2, 3)).save(folder / f"{t}.png")
    job = Extraction(tmp_path / "data", str(tmp_path / "c"), weights=str(weights))
    with pytest.raises(ValueError, match=r"multiples of 16 .* got 44 x 40"):
        extract_teacher(dataclasses.replace(job, encoding="trunk-int8"))
    extract_teacher(dataclasses.replace(job, encoding="int8"))


@pytest.mark.parametrize("options", [{"patch": 30}, {"patch": 0}, {"baked": 0}])
def test_baked_views_that_make_no_sense(options, weights, data, tmp_path):
    job = Extraction(data, str(tmp_path / "c"), weights=str(weights), views="baked", **options)
    with pytest.raises(ValueError, match="baked views need at least 1 crop"):
        extract_teacher(job)
