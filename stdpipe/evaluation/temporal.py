"""Temporal consistency: flow-warping error, tOF and the difference of temporal profiles.

All three compare a frame with the one before it. The flow is OpenCV's DIS on the CPU (extra:
temporal); HR's is computed once for all networks.
Axes: H W HR size; flows (2, H, W) in pixels, x first.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stdpipe.cache.errors import UserError
from stdpipe.evaluation.metrics import luma

# by how much flows there and back may disagree: a share of their squared lengths, squared pixels
# (Sundaram et al. 2010, as used by Lai et al.)
AGREE_SHARE, AGREE_PIXELS = 0.01, 0.5
MIN_SIDE = 32  # DIS builds no pyramid of smaller frames


def flow_name() -> str:
    """Return how the flow is computed, for results; UserError where OpenCV is not installed."""
    if find_spec("cv2") is None:
        raise UserError("temporal metrics need OpenCV: pip install 'stdpipe[temporal]'")
    import cv2

    return f"OpenCV {cv2.__version__}'s DIS, medium preset, on 8-bit luma"


class _Frame(NamedTuple):
    rgb: Tensor  # float32 (3, H, W)
    y: Tensor  # float32 (H, W), levels of 255
    grey: Any  # y in 8 bits, numpy


class Temporal:
    """Measures one clip frame by frame, without `crop` pixels at each border."""

    def __init__(self, crop: int = 0) -> None:
        self.crop = crop
        self.last: dict[str, _Frame] = {}
        self.last_hr: _Frame | None = None

    def next(self, hr: Tensor, results: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        """Return this frame's figures of TEMPORAL, by network; none for a clip's first frame.

        hr and each result: RGB in [0, 1], (3, H, W), as the protocol rounds them.
        """
        frame = frame_of(hr)
        frames = {name: frame_of(sr) for name, sr in results.items()}
        figures: dict[str, dict[str, float]] = {name: {} for name in results}
        if self.last_hr is not None:
            forward, backward = flow(self.last_hr, frame), flow(frame, self.last_hr)
            seen = self._inside(visible(forward, backward))
            hr_error = self._warp_error(self.last_hr, frame, backward, seen)
            for name, sr in frames.items():
                last = self.last[name]
                change = (sr.y - last.y) - (frame.y - self.last_hr.y)
                motion = (flow(last, sr) - forward).square().sum(0).sqrt()
                figures[name] = {
                    "warp_error": self._warp_error(last, sr, backward, seen),
                    "warp_error_hr": hr_error,
                    "tof": self._inside(motion).mean().item(),
                    "profile_diff": self._inside(change.abs()).mean().item(),
                }
        self.last_hr, self.last = frame, frames
        return figures

    def _warp_error(self, last: _Frame, now: _Frame, backward: Tensor, seen: Tensor) -> float:
        """Return the mean over the `seen` pixels; nan where there are none (a cut)."""
        error = (now.rgb - warp(last.rgb, backward)).square().mean(0)
        return self._inside(error)[seen].mean().item()

    def _inside(self, plane: Tensor) -> Tensor:
        height, width = plane.shape[-2:]
        return plane[..., self.crop : height - self.crop, self.crop : width - self.crop]


def frame_of(rgb: Tensor) -> _Frame:
    """Prepare a picture, RGB in [0, 1], (3, H, W), for `flow`."""
    y = luma(rgb).float()
    return _Frame(rgb.float(), y, y.round().clamp(0, 255).byte().cpu().numpy())


def flow(a: _Frame, b: _Frame) -> Tensor:
    """Return the optical flow from a to b, (2, H, W): how far each pixel of a moves."""
    import cv2

    height, width = a.grey.shape
    if min(height, width) < MIN_SIDE:
        least = f"temporal metrics need {MIN_SIDE} pixels each way"
        raise UserError(f"frames of {width}x{height} are too small for optical flow: {least}")
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    found = dis.calc(a.grey, b.grey, None)
    return torch.from_numpy(np.ascontiguousarray(found.transpose(2, 0, 1))).to(a.y.device)


def warp(image: Tensor, motion: Tensor) -> Tensor:
    """Sample image (C, H, W) bilinearly at each pixel's place plus `motion`, edges repeated."""
    place = _places(motion)
    size = torch.tensor(motion.shape[:0:-1], device=motion.device)[:, None, None]  # W, H
    grid = ((2 * place + 1) / size - 1).permute(1, 2, 0)[None]
    return F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]


def visible(forward: Tensor, backward: Tensor) -> Tensor:
    """Tell which pixels of the later frame are visible in the earlier one: bool (H, W)."""
    there = warp(forward, backward)
    gap = (backward + there).square().sum(0)
    length = backward.square().sum(0) + there.square().sum(0)
    x, y = _places(backward)
    height, width = x.shape
    within = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    both: Tensor = within & (gap <= AGREE_SHARE * length + AGREE_PIXELS)
    return both


def _places(motion: Tensor) -> Tensor:
    """Return each pixel's x and y plus its motion, (2, H, W)."""
    height, width = motion.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y]).to(motion) + motion
