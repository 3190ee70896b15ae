"""Sampling along a flow, and how near TV-L1 comes to a motion that is known."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from stdpipe import assets
from stdpipe.data.degrade import degrade
from stdpipe.data.layouts import find_clips
from stdpipe.data.samples import read_frames
from stdpipe.models.flow import tvl1
from stdpipe.models.warp import warp

Pair = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def frames() -> list[Tensor]:
    """The middle frame of each embedded training clip, (1, 3, 256, 448) uint8."""
    clips = find_clips(Path(str(files(assets))) / "sample", "train", length=7)
    return [read_frames(clip).hr[3:4] for clip in clips]


def shifted(hr: Tensor) -> Pair:
    """A frame and the same, 14 HR pixels further right and 10 further up; the flow at LR."""
    moved = torch.roll(hr, (-10, 14), (-2, -1))
    inside = (..., slice(32, -32), slice(32, -32))
    flow = torch.tensor([14 / 4, -10 / 4]).view(1, 2, 1, 1).expand(1, 2, 48, 96)
    return lr(hr[inside]), lr(moved[inside]), flow


def turned(hr: Tensor) -> Pair:
    """A turn by 3.4 degrees and a little zoom: every pixel moves otherwise."""
    height, width = hr.shape[-2:]
    y = torch.arange(height)[:, None] - height / 2 + torch.zeros(width)
    x = torch.arange(width) - width / 2 + torch.zeros(height, 1)
    flow = torch.stack((0.06 * y + 0.03 * x, -0.06 * x + 0.03 * y))[None]
    seen = warp(hr.float(), flow, "border").round().byte()
    return lr(seen), lr(hr), flow[..., ::4, ::4] / 4


def lr(hr: Tensor) -> Tensor:
    return degrade(hr.contiguous(), "bd", True).float()


def error(found: Tensor, true: Tensor) -> float:
    """Mean end-point error in LR pixels; a margin, where motion leaves the frame, is left out."""
    inside = (..., slice(6, -6), slice(6, -6))
    return float((found - true)[inside].norm(dim=1).mean())


@pytest.mark.parametrize("moved", [shifted, turned])
def test_end_point_error(frames: list[Tensor], moved: Callable[[Tensor], Pair]) -> None:
    """On real frames, degraded, that move by a known flow of 2 to 4 LR pixels: below a tenth of the
    error of no flow at all, and a fifth of a pixel at most.

    Not shown: motion that hides and uncovers, and what pyflow, with which RBPN was trained, finds.
    """
    for hr in frames:
        reference, neighbour, true = moved(hr)
        none = error(torch.zeros_like(true), true)
        assert none > 1.5
        assert error(tvl1(reference, neighbour), true) < min(0.1 * none, 0.2)


def test_as_good_as_scikit_images(frames: list[Tensor]) -> None:
    """Mean over clips and motions, against the same method as a well-kept package has it."""
    registration = pytest.importorskip("skimage.registration", reason="extra: test")
    ours, theirs = [], []
    for hr in frames:
        for moved in (shifted, turned):
            reference, neighbour, true = moved(hr)
            grey = [x[0].mean(0).numpy() for x in (reference, neighbour)]
            found = registration.optical_flow_tvl1(*grey, dtype=np.float32)[::-1]
            theirs.append(error(torch.from_numpy(found.copy())[None], true))
            ours.append(error(tvl1(reference, neighbour), true))
    assert np.mean(ours) < 1.1 * np.mean(theirs)


def test_no_motion_is_none() -> None:
    """Equal frames, where windows repeat the edge of a clip: none but for rounding."""
    x = torch.rand(2, 3, 9, 14, generator=torch.Generator().manual_seed(0))
    assert tvl1(x, x).abs().max() < 0.01


def test_pairs_do_not_touch(frames: list[Tensor]) -> None:
    """A pair's flow does not depend on what lies beside it in the batch."""
    first, second = shifted(frames[0]), shifted(frames[1])
    both = tvl1(torch.cat((first[0], second[0])), torch.cat((first[1], second[1])))
    torch.testing.assert_close(both[:1], tvl1(first[0], first[1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_takes_any_precision_and_gives_no_gradient(dtype: torch.dtype) -> None:
    x = torch.rand(1, 3, 6, 7, dtype=dtype).requires_grad_()
    flow = tvl1(x, x.flip(-1))
    assert flow.dtype == torch.float32
    assert not flow.requires_grad
    assert flow.isfinite().all()


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 9), width=st.integers(1, 9), dx=st.integers(-9, 9), dy=st.integers(-9, 9)
)
def test_warp_by_whole_pixels(height: int, width: int, dx: int, dy: int) -> None:
    """Pixels as they are, from x + dx and y + dy; outside zero, or the nearest inside."""
    image = torch.rand(1, 2, height, width)
    flow = torch.tensor([float(dx), float(dy)]).view(1, 2, 1, 1).expand(1, 2, height, width)
    rows, columns = torch.arange(height) + dy, torch.arange(width) + dx
    nearest = image[:, :, rows.clamp(0, height - 1)][..., columns.clamp(0, width - 1)]
    inside = ((rows >= 0) & (rows < height))[:, None] & (columns >= 0) & (columns < width)
    torch.testing.assert_close(warp(image, flow, "border"), nearest, rtol=0, atol=1e-5)
    torch.testing.assert_close(warp(image, flow, "zeros"), nearest * inside, rtol=0, atol=1e-5)


def test_warp_between_pixels() -> None:
    """Bilinear: half a pixel further on a ramp is half a step; x comes first."""
    ramp = torch.arange(5.0).expand(1, 1, 3, 5) + 10 * torch.arange(3.0)[:, None]
    flow = torch.tensor([0.5, 0.25]).view(1, 2, 1, 1).expand(1, 2, 3, 5)
    torch.testing.assert_close(
        warp(ramp, flow, "zeros")[..., :2, :4], ramp[..., :2, :4] + 0.5 + 2.5
    )


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 19), width=st.integers(1, 19))
def test_any_size(height: int, width: int) -> None:
    """Down to one pixel, where nothing can be seen to move."""
    reference, neighbour = torch.rand(2, 1, 3, height, width)
    flow = tvl1(reference, neighbour)
    assert flow.shape == (1, 2, height, width)
    assert flow.isfinite().all()
