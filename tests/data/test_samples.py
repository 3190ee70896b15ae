"""The stream of training samples: what is in one, and that nothing but (seed, position) decides."""

import pickle
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from stdpipe.data.box import Box
from stdpipe.data.degrade import degradation as named, degrade
from stdpipe.data.frames import Clip, source_crc32
from stdpipe.data.samples import (
    Stream,
    cut_view,
    finish,
    read_frames,
    view_pair,
    view_size,
)
from stdpipe.data.sizes import _warn_once, are_cut, check_sizes
from stdpipe.data.views import View, draw_box, full_views, orient

PATCH = 16


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Clip]:
    """Five clips of three frames, 24 x 40, of noise."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    found = {}
    for key in "abcde":
        paths = tuple(folder / f"{key}{n}.png" for n in range(3))
        for path in paths:
            iio.imwrite(path, rng.integers(0, 256, (24, 40, 3), dtype=np.uint8))
        found[key] = Clip(key, paths)
    return found


def stream(clips: dict[str, Clip], seed: int = 3, orientations: int = 2) -> Stream:
    return Stream(clips, full_views(list(clips), seed, orientations), "bd", PATCH, seed)


class Recorder:
    """Targets that remember what they were asked for, and answer with a mark."""

    def __init__(self) -> None:
        self.asked: list[tuple[View, Box, int]] = []

    def __call__(self, view: View, box: Box, crc32: int) -> Mapping[str, Tensor]:
        self.asked.append((view, box, crc32))
        return {"f_sr": torch.full((1,), len(self.asked))}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_sample_lines_up(clips: dict[str, Clip]) -> None:
    """HR is the box of the oriented frames; LR is that box of the whole frame's LR, not the LR of
    the box: the teacher saw the whole frame. Targets are asked for the very same window.
    """
    recorder = Recorder()
    samples = stream(clips)
    samples.targets = recorder
    for position in range(10):
        sample = samples[position]
        view, (y, x, height, width), crc32 = recorder.asked[position]
        assert view == samples.view(position)[0]
        frames = read_frames(clips[view.clip])
        assert crc32 == frames.crc32
        hr = orient(frames.hr, view.orientation)
        expected = hr[..., y : y + height, x : x + width].float() / 255
        assert torch.equal(sample["hr"], expected)
        lr = degrade(hr, "bd")[..., y // 4 : (y + height) // 4, x // 4 : (x + width) // 4]
        assert torch.equal(sample["lr"], lr)
        assert sample["hr"].shape == (3, 3, PATCH, PATCH)
        assert sample["lr"].shape == (3, 3, PATCH // 4, PATCH // 4)
        assert sample["f_sr"] == position + 1


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(2, 8), st.integers(2, 8)),
    st.integers(0, 7),
    st.sampled_from(["bi", "bd", "bd-centred", "bi:scale=2", "bd:scale=3"]),
    st.booleans(),
    st.integers(0, 99),
)
def test_cutting_first_is_turning_first(
    sides: tuple[int, int], orientation: int, degradation: str, baked: bool, seed: int
) -> None:
    """The fast way to a sample (cut, turn, degrade) against the plain one (turn, degrade, cut)."""
    rng, scale = np.random.default_rng(seed), named(degradation).scale
    size = (2, 3, scale * sides[0], scale * sides[1])
    hr = torch.from_numpy(rng.integers(0, 256, size, dtype=np.uint8))
    view = View("a", orientation)
    if baked:
        side = scale * int(rng.integers(2, min(sides) + 1))
        view = View("a", orientation, draw_box(rng, side, *view_size(hr, view), scale))
    whole, whole_lr = view_pair(hr, view, degradation)
    assert view_size(hr, view) == whole.shape[-2:]
    y, x, height, width = box = draw_box(rng, 2 * scale, *view_size(hr, view), scale)
    sample = finish({"source": cut_view(hr, view, box, degradation)}, degradation)
    assert torch.equal(sample["hr"], whole[..., y : y + height, x : x + width].float() / 255)
    rows, columns = slice(y // scale, y // scale + 2), slice(x // scale, x // scale + 2)
    assert torch.equal(sample["lr"], whole_lr[..., rows, columns])


def test_a_batch_finished_on_the_device_is_the_workers(clips: dict[str, Clip]) -> None:
    """What CUDA training does, here on the CPU: uint8 crosses, and gives the same bits. A quarter
    of the bytes, but for the margin and the LR.
    """
    finished, unfinished = stream(clips), stream(clips)
    unfinished.unfinished = True
    for samples in (finished, unfinished):
        samples.targets = Recorder()
    batches = (
        DataLoader(samples, batch_size=3, sampler=range(6)) for samples in (finished, unfinished)
    )
    for here, raw in zip(*batches, strict=True):
        assert set(raw) == {"source", "f_sr", "clip", "crc32", "sign"}
        assert raw["source"].dtype == torch.uint8
        assert same(finish(raw, "bd"), here)
        assert same(finish(here, "bd"), here)


def test_targets_from(clips: dict[str, Clip]) -> None:
    """Before that position, as in warm-up, nothing is read from the cache; the frames are equal."""
    plain, late = stream(clips), stream(clips)
    late.targets, late.targets_from = Recorder(), 2
    assert ["f_sr" in late[p] for p in range(4)] == [False, False, True, True]
    assert len(late.targets.asked) == 2
    assert torch.equal(late[3]["hr"], plain[3]["hr"])


def test_order_of_access_does_not_matter(clips: dict[str, Clip]) -> None:
    """Sample p is the same asked for alone, backwards, twice, or in another process."""
    forwards = [stream(clips)[p] for p in range(12)]
    one = stream(clips)
    backwards = [one[p] for p in reversed(range(12))][::-1]
    assert all(map(same, forwards, backwards))
    elsewhere = pickle.loads(pickle.dumps(one))  # as a worker gets it
    assert same(elsewhere[7], forwards[7])


@pytest.mark.parametrize("workers", [1, 2])
def test_number_of_workers_does_not_matter(clips: dict[str, Clip], workers: int) -> None:
    """The same samples in the same order from 1 and 2 processes as from none."""
    samples = stream(clips)
    loader = DataLoader(
        samples,
        batch_size=None,
        sampler=range(6),
        num_workers=workers,
        multiprocessing_context="forkserver",
    )
    for position, sample in enumerate(loader):
        assert same(sample, samples[position])


def test_an_epoch_visits_every_view_once(clips: dict[str, Clip]) -> None:
    """Two epochs: each a permutation, another order and other crops in the second."""
    samples = stream(clips)
    size = len(samples.views)
    first, second = ([samples.view(p) for p in range(n * size, (n + 1) * size)] for n in (0, 1))
    for epoch in (first, second):
        assert Counter(view for view, _ in epoch) == Counter(samples.views)
    assert [v for v, _ in first] != [v for v, _ in second]
    draws = [{str(v): rng.integers(1 << 30) for v, rng in epoch} for epoch in (first, second)]
    assert all(draws[0][key] != draws[1][key] for key in draws[0])


def test_the_seed_decides(clips: dict[str, Clip]) -> None:
    """Order and crops of one set of views come from the stream's seed."""
    views = full_views(list(clips), 0, 8)
    one, other = (Stream(clips, views, "bd", PATCH, seed) for seed in (0, 1))
    assert [one.view(p)[0] for p in range(9)] != [other.view(p)[0] for p in range(9)]
    assert not same(one[0], other[0])


def test_a_baked_view_knows_nothing_outside_its_crop(clips: dict[str, Clip]) -> None:
    """Cropped, then degraded; a full view's LR differs at the crop's border and nowhere else."""
    hr = read_frames(clips["a"]).hr
    view = View("a", 5, Box(8, 4, PATCH, PATCH))
    crop, lr = view_pair(hr, view, "bd")
    whole, whole_lr = view_pair(hr, View("a", 5), "bd")
    assert torch.equal(crop, whole[..., 8:24, 4:20])
    assert torch.equal(lr, degrade(crop, "bd"))
    apart = (lr - whole_lr[..., 2:6, 1:5]).abs()
    assert apart.max() > 0
    assert apart[..., 2:3, 2:3].max() == 0  # 6 pixels from any border, all that the kernel reaches


def test_odd_sizes(tmp_path: Path) -> None:
    """18 x 22 is cut to 16 x 20, at scale 3 to 18 x 21; the checksum is that before the cut."""
    path = tmp_path / "im1.png"
    pixels = np.random.default_rng(1).integers(0, 256, (18, 22, 3), dtype=np.uint8)
    iio.imwrite(path, pixels)
    for scale, height, width in ((4, 16, 20), (3, 18, 21), (2, 18, 22)):
        frames = read_frames(Clip("walk", (path,)), scale)
        assert frames.crc32 == source_crc32(pixels[None])
        cut = torch.from_numpy(pixels[:height, :width]).permute(2, 0, 1)
        assert torch.equal(frames.hr[0], cut)


def test_cuts_are_told_once(clips: dict[str, Clip], caplog: pytest.LogCaptureFixture) -> None:
    """With the number of clips; none where sides are multiples."""
    _warn_once.cache_clear()
    sizes = check_sizes(list(clips.values()), 4)
    assert not are_cut(clips, sizes, 4)
    assert not caplog.records
    for _ in range(2):
        assert check_sizes(list(clips.values()), 3) == sizes
    assert are_cut(clips, sizes, 3)
    (record,) = caplog.records
    assert "5 of 5 clips lose pixels" in record.message
    assert "multiples of 3: a is 40x24" in record.message


def test_no_lr_pixel_is_no_frame(tmp_path: Path) -> None:
    path = tmp_path / "im1.png"
    iio.imwrite(path, np.zeros((3, 22, 3), np.uint8))
    thin = Clip("thin", (path,))
    assert are_cut({"thin": thin}, check_sizes([thin], 3), 3)
    with pytest.raises(ValueError, match="clip thin is 22x3, smaller than an LR pixel at scale 4"):
        check_sizes([thin], 4)


def test_a_patch_larger_than_the_frames(clips: dict[str, Clip]) -> None:
    """Refused at the first sample, in words."""
    with pytest.raises(ValueError, match="patch 64 does not fit into frames of"):
        Stream(clips, [View("a", 0)], "bd", 64, 0)[0]
