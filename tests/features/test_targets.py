"""Cached targets equal the teacher's own, in every encoding, orientation and crop."""

import dataclasses
import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from stdpipe import cache
from stdpipe.data.box import Box
from stdpipe.data.layouts import find_clips
from stdpipe.data.samples import read_frames, view_pair
from stdpipe.data.views import View, orient
from stdpipe.device import settle
from stdpipe.distill.output import BORDER
from stdpipe.distill.terms import TERMS
from stdpipe.extract import extract_teacher
from stdpipe.features.extraction import Extraction
from stdpipe.features.targets import CachedTargets, Decoder, load_tail
from stdpipe.features.teacher import tail_of, teacher_features
from stdpipe.models.base import Features
from stdpipe.models.checkpoints import load_network, save_network
from stdpipe.train import train_student
from stdpipe.training.config import StudentTraining
from stdpipe.training.jobs import StudentRun
from stdpipe.training.metrics_log import read_metrics

TINY = "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1,num_reconstruct_block=1"
STUDENT = "d3dnet:num_feat=4,num_frame=3,num_deform_block=1,num_block=1"
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
        path = root / f"{encoding}-{'-'.join(options)}.zarr"
        if not path.exists():
            job = Extraction(data, str(path), weights=str(weights), encoding=encoding, **options)
            extract_teacher(job)
        return path

    return make


def decoded(
    path: Path, view: View, box: Box, name: str = "f_sr", lr: torch.Tensor | None = None
) -> torch.Tensor:
    """A target of one oriented window, through worker and device sides: f_sr (T, 64, H, W), f_lr
    (T, C, h, w), or "sr" (T, 3, H, W), for which the window's LR is given."""
    reader = cache.open_reader(path)
    decode = Decoder(reader, torch.device("cpu"), sr=name == "sr")
    crc32 = reader.extra(str(view))["source_crc32"]
    stored = "f_sr" if name == "sr" else name
    one = CachedTargets(reader, (stored,), decode.halo)(view, box, crc32)
    one |= {"hr": torch.zeros(7, 3, *box[2:])} | ({} if lr is None else {"lr": lr})
    return decode({k: v[None] for k, v in one.items()})[name][0]


def whole_lr(data: Path, view: View) -> torch.Tensor:
    clip = {c.key: c for c in find_clips(data, "train")}[view.clip]
    return view_pair(read_frames(clip).hr, view, "bd")[1]


@functools.cache
def whole_features(weights: Path, data: Path, view: View) -> Features:
    cpu = torch.device("cpu")
    teacher = settle(load_network(None, str(weights))[0], cpu)
    return teacher_features(teacher, whole_lr(data, view), cpu, "none")


def whole_f_sr(weights: Path, data: Path, view: View) -> torch.Tensor:
    return whole_features(weights, data, view).f_sr


ALL = ("f_sr", "attention", "f_lr")
TOLERANCE = {  # largest error relative to the largest value
    "float32": 0.0,
    "float16": 1e-3,
    "int8": 1e-2,
    "trunk-float32": 1e-5,
    "trunk-float16": 2e-3,
    "trunk-int8": 3e-2,
}


# halves are between floats and codes in all they do
ENCODINGS = [
    pytest.param(name, marks=pytest.mark.slow) if "float16" in name else name for name in TOLERANCE
]


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=5, deadline=None)
@given(data_=st.data())
def test_a_decoded_crop_is_the_crop_of_the_whole(encoding, caches, weights, data, data_):
    path = caches(encoding, orientations=8, targets=ALL)
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


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=4, deadline=None)
@given(data_=st.data())
def test_crops_of_f_lr_and_of_the_image(encoding, caches, weights, data, data_):
    """f_lr is the crop of the whole; the image is inside its border, of which output_loss knows."""
    path = caches(encoding, orientations=8, targets=ALL)
    view = View.parse(data_.draw(st.sampled_from(cache.open_reader(path).manifest.entries)))
    whole = whole_features(weights, data, view)
    h, w = whole.f_lr.shape[-2:]
    rows, columns = data_.draw(st.integers(3, h)), data_.draw(st.integers(3, w))
    y, x = data_.draw(st.integers(0, h - rows)), data_.draw(st.integers(0, w - columns))
    box = Box(4 * y, 4 * x, 4 * rows, 4 * columns)
    f_lr = decoded(path, view, box, "f_lr") - whole.f_lr[..., y : y + rows, x : x + columns]
    assert f_lr.abs().max() <= TOLERANCE[encoding] * whole.f_lr.abs().max()
    lr = whole_lr(data, view)[..., y : y + rows, x : x + columns]
    inside = (..., slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    crop = whole.sr[..., box.y : box.y + box.height, box.x : box.x + box.width]
    image = decoded(path, view, box, "sr", lr)
    tolerance = max(TOLERANCE[encoding], 1e-6) * whole.f_sr.abs().max()
    assert (image[inside] - crop[inside]).abs().max() <= tolerance


def test_a_head_alone_gives_the_image_and_holds_nothing_else(weights):
    teacher, facts = load_network(None, str(weights))
    kept = {k: v.numpy() for k, v in teacher.state_dict().items()}
    head = load_tail(facts["network"], kept, torch.device("cpu"), tail=False, head=True)
    teacher = settle(teacher, torch.device("cpu"))
    f_sr, lr = torch.randn(2, 64, 20, 24), torch.rand(2, 3, 5, 6)
    with torch.no_grad():
        assert torch.equal(head.to_rgb(f_sr, lr), teacher.to_rgb(f_sr, lr))
    loaded = {k for k, v in head.state_dict().items() if v.device.type != "meta"}
    assert loaded == {"conv_last.weight", "conv_last.bias"}


def test_a_cache_without_a_head_gets_one_when_extracted_again(data, weights, tmp_path):
    """A cache of an earlier version: its f_sr stays, `output` says what to do."""
    job = Extraction(data, str(tmp_path / "c"), weights=str(weights), encoding="int8")
    extract_teacher(job)
    shutil.rmtree(tmp_path / "c/tail")
    assert cache.verify(tmp_path / "c").ok == 3
    with pytest.raises(cache.CacheError, match="tail is missing"):
        Decoder(cache.open_reader(tmp_path / "c"), torch.device("cpu"), sr=True)
    Decoder(cache.open_reader(tmp_path / "c"), torch.device("cpu"))
    extract_teacher(job)
    Decoder(cache.open_reader(tmp_path / "c"), torch.device("cpu"), sr=True)


def test_damage_to_a_head_is_found(data, weights, tmp_path):
    extract_teacher(Extraction(data, str(tmp_path / "c"), weights=str(weights), encoding="int8"))
    file = next((tmp_path / "c/tail/conv_last.weight").glob("c.*"))
    file.write_bytes(bytes(len(file.read_bytes())))
    assert [one.array for one in cache.verify(tmp_path / "c").broken] == ["tail"]


def test_the_tail_alone_gives_f_sr_and_holds_nothing_else(weights):
    teacher, facts = load_network(None, str(weights))
    tail = load_tail(facts["network"], tail_of(teacher), torch.device("cpu"))
    teacher = settle(teacher, torch.device("cpu"))
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


def losses(
    data: Path, out: Path, cache_path: Path, steps: int, live: Path | None = None, scheme="std"
):
    options = StudentTraining(
        steps=steps, warmup_steps=1, patch=32, log_every=1, workers=0, save_every=1000,
        scheme=scheme,
    )  # fmt: skip
    run = StudentRun(data, STUDENT, out, str(cache_path), live_teacher=live and str(live))
    train_student(run, options)
    lines = read_metrics(out / "metrics.jsonl")
    return [{k: line.get(k) for k in ("loss", "rec", *TERMS)} for line in lines]


@pytest.mark.parametrize(
    ("encoding", "tolerance", "steps"),
    [
        ("float32", 1e-6, 4),
        pytest.param("float32", 1e-6, 20, marks=pytest.mark.slow),
        pytest.param("trunk-float32", 1e-5, 20, marks=pytest.mark.slow),
    ],
)
def test_training_from_a_baked_cache_is_training_with_the_live_teacher(
    encoding, tolerance, steps, caches, data, weights, tmp_path
):
    """Every loss of STD, on one CPU device."""
    path = caches(encoding, views="baked", baked=2, patch=32)
    cached = losses(data, tmp_path / "cached", path, steps)
    live = losses(data, tmp_path / "live", path, steps, live=weights)
    assert len(cached) == steps
    assert cached[0]["sd"] is None  # the warm-up step
    for one, other in zip(cached, live, strict=True):
        assert [k for k, v in one.items() if v is None] == [
            k for k, v in other.items() if v is None
        ]
        for name in one:
            if one[name] is not None:
                assert one[name] == pytest.approx(other[name], rel=tolerance)


def test_every_term_from_a_baked_cache_is_the_live_teachers(caches, data, weights, tmp_path):
    """The image's border included, since the teacher saw the crop alone. Some steps of all."""
    path = caches("float32", views="baked", baked=2, patch=32, targets=ALL)
    scheme = ",".join(TERMS)
    cached = losses(data, tmp_path / "cached", path, 3, scheme=scheme)
    live = losses(data, tmp_path / "live", path, 3, live=weights, scheme=scheme)
    assert all(value is not None for value in cached[-1].values())
    for one, other in zip(cached[1:], live[1:], strict=True):
        assert one == pytest.approx(other, rel=1e-5)


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
    with pytest.raises(ValueError, match="baked views need at least 1 crop"):
        Extraction(data, str(tmp_path / "c"), weights=str(weights), views="baked", **options)
