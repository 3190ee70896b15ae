"""Under which rules a result is measured: frames, border, rounding. Published tables differ here.

The border alone moves a published Vid4 average by more than 2 dB, so a result without its
protocol says nothing: `Protocol.text` is printed beside every one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from stdpipe.evaluation.metrics import SSIM_WINDOW, luma, psnr, ssim
from stdpipe.suggest import nearest


@dataclass(frozen=True)
class Protocol:
    """The rules of one way to measure."""

    name: str
    """What a user types."""
    lr_8bit: bool
    """Whether the network's input is rounded to 8 bits, as LR files on disk are."""
    sr_8bit: bool
    """Whether results are clipped to [0, 1] and rounded to 8 bits before they are compared."""
    skip: int
    """Frames left out at each end of a clip."""
    crop: int
    """Pixels left out at each border."""
    frames: Literal["all", "centre"]
    """Every frame that `skip` leaves, or only the one in the middle."""
    text: str
    """The rules in one sentence, for people."""


PROTOCOLS = {
    "vid4": Protocol(
        "vid4",
        lr_8bit=True,
        sr_8bit=True,
        skip=0,
        crop=0,
        frames="all",
        text="PSNR and SSIM of BT.601 luma over every frame and the whole frame; LR and result "
        "rounded to 8 bits.",
    ),
    "vid4-float": Protocol(
        "vid4-float",
        lr_8bit=False,
        sr_8bit=False,
        skip=0,
        crop=0,
        frames="all",
        text="PSNR and SSIM of BT.601 luma over every frame and the whole frame; neither LR nor "
        "result rounded, result not clipped (as RSDN measures).",
    ),
    "vid4-duf": Protocol(
        "vid4-duf",
        lr_8bit=True,
        sr_8bit=True,
        skip=2,
        crop=8,
        frames="all",
        text="PSNR and SSIM of BT.601 luma without the first and last 2 frames of a clip and "
        "without 8 pixels at each border; LR and result rounded to 8 bits (as DUF measures).",
    ),
    "vimeo": Protocol(
        "vimeo",
        lr_8bit=True,
        sr_8bit=True,
        skip=0,
        crop=0,
        frames="centre",
        text="PSNR and SSIM of BT.601 luma over the centre frame of a clip (im4 of 7) and the "
        "whole frame; LR and result rounded to 8 bits.",
    ),
}


def protocol(name: str) -> Protocol:
    """The protocol of that name; ValueError with the nearest one for a name that is not known."""
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    raise ValueError(f"unknown protocol {name!r}{nearest(name, PROTOCOLS)}")


def scored_frames(num_frames: int, protocol: Protocol) -> list[int]:
    """The indices of the frames of a clip that count; ValueError where none is left."""
    if protocol.frames == "centre":
        indices = [num_frames // 2] if num_frames > 2 * protocol.skip else []
    else:
        indices = list(range(protocol.skip, num_frames - protocol.skip))
    if not indices:
        raise ValueError(
            f"a clip of {num_frames} frames has none that protocol {protocol.name!r} scores "
            f"(it skips {protocol.skip} at each end): use longer clips or another protocol"
        )
    return indices


def score(sr: Tensor, hr: Tensor, protocol: Protocol) -> dict[str, list[float]]:
    """`psnr_y` (dB, inf for equal frames) and `ssim_y` of one clip, a number a scored frame.

    `hr` is the whole clip, (T, 3, H, W) in [0, 1]. `sr` is the whole clip too, or just the
    frames that `scored_frames` names, in that order. Scored where they lie (CPU or CUDA), one frame
    at a time, which bounds the memory. Raises ValueError for shapes that do not fit.
    """
    indices = scored_frames(len(hr), protocol)
    pairs = _pairs(sr, hr, indices)
    _check_size(hr, protocol)
    result: dict[str, list[float]] = {"psnr_y": [], "ssim_y": []}
    for sr_CHW, hr_CHW in pairs:
        sr_NHW, hr_NHW = _luma_to_score(sr_CHW, protocol), _luma_to_score(hr_CHW, protocol)
        result["psnr_y"].append(psnr(sr_NHW, hr_NHW).item())
        result["ssim_y"].append(ssim(sr_NHW, hr_NHW).item())
    return result


def _pairs(sr: Tensor, hr: Tensor, indices: list[int]) -> Iterable[tuple[Tensor, Tensor]]:
    if sr.ndim != 4 or sr.shape[1:] != hr.shape[1:] or len(sr) not in (len(hr), len(indices)):
        raise ValueError(
            f"result {tuple(sr.shape)} does not fit the clip {tuple(hr.shape)}, of which "
            f"{len(indices)} frames are scored"
        )
    chosen = range(len(sr)) if len(sr) == len(indices) else indices
    return [(sr[i], hr[j]) for i, j in zip(chosen, indices, strict=True)]


def _check_size(hr: Tensor, protocol: Protocol) -> None:
    if min(hr.shape[-2:]) - 2 * protocol.crop < SSIM_WINDOW:
        raise ValueError(
            f"frames of {hr.shape[-1]}x{hr.shape[-2]} are too small for protocol "
            f"{protocol.name!r}: {SSIM_WINDOW} pixels must be left after {protocol.crop} are "
            "cropped at each border"
        )


def _luma_to_score(rgb_CHW: Tensor, protocol: Protocol) -> Tensor:
    """(3, H, W) -> Y as it is compared, (1, H', W') float64."""
    rgb = rgb_CHW.double()
    if protocol.sr_8bit:
        rgb = rgb.clamp(0, 1).mul(255).round().div(255)
    height, width = rgb.shape[-2:]
    crop = protocol.crop
    return luma(rgb)[None, crop : height - crop, crop : width - crop]
