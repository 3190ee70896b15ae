"""The rules by which a result is measured: clips, frames, border, rounding. Papers differ in them.

The border alone moves a published Vid4 average by more than 2 dB, so a result without its
protocol says nothing: `Protocol.text` is printed beside every one.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from stdpipe.cache.errors import UserError
from stdpipe.cache.schema import check, read_yaml
from stdpipe.evaluation.metrics import QUALITY, SSIM_WINDOW, planes, quality
from stdpipe.resample import SCALE
from stdpipe.suggest import refuse_unknown
from stdpipe.templates import fill


@dataclass(frozen=True)
class Protocol:
    """The rules of one way to measure."""

    name: str
    lr_8bit: bool = True  # round the network's input to 8 bits, as LR files on disk are
    sr_8bit: bool = True  # clip results to [0, 1] and round them to 8 bits before comparing
    skip: int = 0  # frames left out at each end of a clip
    crop: int = 0  # pixels left out at each border
    frames: Literal["all", "centre"] = "all"
    """Which frames are scored: every one that `skip` leaves, or only the one in the middle."""
    clips: tuple[str, ...] | None = None  # scored clips by the last part of their keys; None: all
    scale: Literal[2, 3, 4] | None = None  # the only one at which it is published; None: any
    note: str = ""  # whose rules these are, and what differs from theirs

    @property
    def text(self) -> str:
        """Return the whole definition in words."""
        return fill("stdpipe.evaluation", "protocol.md", vars(self)).rstrip()


PROTOCOLS = {
    name: check(Protocol, {"name": name, **fields}, f"protocol {name}", strict=False)
    for name, fields in read_yaml(Path(__file__).with_name("protocols.yaml")).items()
}


def protocol(name: str, crop: int | None = None) -> Protocol:
    """Return the protocol of that name. UserError names the nearest one if it is unknown.

    With another `crop` than its own, the protocol gets a name that says so, e.g. vid4-crop8.
    """
    refuse_unknown([name], PROTOCOLS, "unknown protocol")
    rules = PROTOCOLS[name]
    if crop is None or crop == rules.crop:
        return rules
    assert crop >= 0
    note = f"{name}'s rules but for the border."
    return dataclasses.replace(rules, name=f"{name}-crop{crop}", crop=crop, note=note)


def check_scale(rules: Protocol, scale: int) -> None:
    """Raise UserError for rules that are published for another scale."""
    if rules.scale not in (None, scale):
        raise UserError(
            f"protocol {rules.name!r} is for scale {rules.scale}, and the degradation's scale is "
            f"{scale}: choose another protocol, such as vid4"
        )


def default_protocol(clips: Mapping[str, int], scale: int = SCALE) -> tuple[str, str]:
    """Choose a protocol by the clips' keys and lengths; return its name and the reason."""
    if all(re.fullmatch(r"\d{5}/\d{4}", key) and n == 7 for key, n in clips.items()):
        return "vimeo", "the clips are Vimeo90K's septuplets"
    reds4 = PROTOCOLS["reds4"].clips or ()
    is_reds = clips.keys() >= {*reds4} and all(re.fullmatch(r"\d{3}", key) for key in clips)
    if is_reds and scale == PROTOCOLS["reds4"].scale:
        return "reds4", "the clips are numbered as in REDS, with all of REDS4 among them"
    if is_reds:
        return "vid4", f"the clips are REDS's, whose own rules are not for scale {scale}"
    return "vid4", "the clips are neither Vimeo90K's septuplets nor REDS4's"


def scored_clips(keys: Sequence[str], rules: Protocol) -> list[str]:
    """Return the keys of the scored clips; UserError where one of the protocol's is missing."""
    if rules.clips is None:
        return list(keys)
    found = [key for key in keys if key.rpartition("/")[2] in rules.clips]
    if missing := set(rules.clips) - {key.rpartition("/")[2] for key in found}:
        raise UserError(
            f"protocol {rules.name!r} scores clips {', '.join(rules.clips)}, but "
            f"{', '.join(sorted(missing))} is not there: choose another protocol for other data"
        )
    return found


def scored_frames(num_frames: int, rules: Protocol) -> list[int]:
    """Return the indices of a clip's scored frames; UserError where there are none."""
    indices = list(range(rules.skip, num_frames - rules.skip))
    if rules.frames == "centre":
        indices = [i for i in indices if i == num_frames // 2]
    if not indices:
        raise UserError(
            f"a clip of {num_frames} frames has none that protocol {rules.name!r} scores "
            f"(it skips {rules.skip} at each end): use longer clips or another protocol"
        )
    return indices


def score_frames(
    results: Mapping[str, Tensor], hr: Tensor, rules: Protocol
) -> dict[str, list[dict[str, float]]]:
    """Return each network's figures of QUALITY, frame by frame; all (n, 3, H, W) in [0, 1].

    They are computed on the inputs' device, one frame at a time, which bounds the memory.
    """
    scores = []
    for frame, truth in enumerate(hr):
        planes_hr = to_compare(truth, rules)
        scores += [quality(to_compare(sr[frame], rules), planes_hr) for sr in results.values()]
    rows = [dict(zip(QUALITY, values, strict=True)) for values in torch.stack(scores).tolist()]
    return {name: rows[number :: len(results)] for number, name in enumerate(results)}


def psnr_y(image: Tensor, truth: Tensor, rules: Protocol) -> float:
    """Return PSNR of luma in dB, without the cost of SSIM: two (3, H, W) in [0, 1]; inf if equal.
    Raises UserError for too small a frame."""
    luma, true = to_compare(image, rules)[0], to_compare(truth, rules)[0]
    return float(10 * (255.0**2 / (luma - true).square().mean()).log10())


def to_compare(rgb_CHW: Tensor, rules: Protocol) -> Tensor:
    """Turn RGB in [0, 1], (3, H, W), into the `planes` to compare, rounded and cropped.

    Raises UserError for a frame of which too little is left.
    """
    height, width = rgb_CHW.shape[-2:]
    crop = rules.crop
    if min(height, width) - 2 * crop < SSIM_WINDOW:
        raise UserError(
            f"frames of {width}x{height} are too small for protocol {rules.name!r}: {SSIM_WINDOW} "
            f"pixels must be left after {crop} are cropped at each border"
        )
    levels = rgb_CHW[:, crop : height - crop, crop : width - crop].double() * 255
    return planes(levels.round_().clamp_(0, 255) if rules.sr_8bit else levels)


def rounded(rgb: Tensor, rules: Protocol) -> Tensor:
    """Clip and round a result to 8 bits, where the protocol does so; the same shape in [0, 1]."""
    return (rgb.double() * 255).round_().clamp_(0, 255) / 255 if rules.sr_8bit else rgb
