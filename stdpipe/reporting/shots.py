"""Runs a network again on a few frames of a clip, and keeps what pictures are made of.

A shot is the middle frame of a clip and a short span around it. What a network makes of it goes
to one file, so that a report that was stopped, or is written again, goes on from there.
Axes: S frames of the span, H W HR size, C channels; crops are those of Shot.window.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stdpipe.cache.errors import UserError
from stdpipe.cache.files import atomic_file
from stdpipe.data.box import Box
from stdpipe.data.frames import Clip
from stdpipe.data.pieces import Piece, pieces
from stdpipe.distill.attention import attention_map
from stdpipe.models import zoo
from stdpipe.models.base import SCALE, Network
from stdpipe.models.checkpoints import load_network

FORMAT = 1  # of the files
CROP_HEIGHT, CROP_WIDTH = 180, 240
CHANNELS = 64  # feature maps kept, at most
ATTENTIONS = ("sum", "sum2", "max2")
PERCENTILE = 99.5

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Shot:
    """The frames of a clip that are shown."""

    clip: str
    lr_8bit: bool
    degradation: str
    frame: int
    """The middle frame's number."""
    span: list[int]
    """Numbers of the frames of the temporal profile; `frame` among them."""
    hr: Pixels
    """(S, H, W, 3)."""
    lr: Pixels
    """The middle frame's, (h, w, 3)."""
    window: Box
    """The crop shown, in HR pixels on the grid of LR pixels: where HR has most detail."""
    row: int
    """The scan line of the temporal profile."""

    @property
    def middle(self) -> int:
        """Where `frame` lies in the span."""
        return self.span.index(self.frame)


class Made(NamedTuple):
    """What a network made of a shot; pictures rounded to 8 bits."""

    sr: Pixels  # the middle frame, (H, W, 3)
    before: Pixels  # the frame before it, or (0, H, W, 3) where there is none
    profile: Pixels  # the scan line in each frame of the span, (S, W, 3)
    attention: Pixels  # (3, H, W), by ATTENTIONS: 255 is the map's 99.5th percentile
    f_lr: Pixels  # the crop, (C, h, w), each channel from its least to its greatest value
    f_sr: Pixels  # the same at HR size


def take_shot(
    clip: Clip, degradation: str, lr_8bit: bool, length: int, k: int
) -> tuple[Shot, list[Piece]]:
    """Read the shot of at most `length` frames around the clip's middle.

    Returns it, and its frames with the LR frames that windows of 2k+1 need.
    """
    frame = len(clip.frames) // 2
    start = min(max(frame - length // 2, 0), max(len(clip.frames) - length, 0))
    span = list(range(start, min(start + length, len(clip.frames))))
    found = list(pieces(clip, span, k, degradation, lr_8bit))
    hr = torch.cat([piece.hr for piece in found]).permute(0, 2, 3, 1).contiguous().numpy()
    piece = next(p for p in found if frame in p.centres)
    lr = _pixels(piece.lr[frame - piece.first])
    window = most_detail(hr[span.index(frame)])
    row = window.y + window.height // 2
    return Shot(clip.key, lr_8bit, degradation, frame, span, hr, lr, window, row), found


def most_detail(hr: Pixels) -> Box:
    """Find the crop of (H, W, 3) with the greatest mean difference between neighbouring pixels."""
    y = hr.astype(np.float64).mean(-1)
    detail = np.zeros_like(y)
    detail[:, 1:] += np.abs(np.diff(y, axis=1))
    detail[1:] += np.abs(np.diff(y, axis=0))
    height = max(min(CROP_HEIGHT, y.shape[0]) // SCALE * SCALE, 1)
    width = max(min(CROP_WIDTH, y.shape[1]) // SCALE * SCALE, 1)
    total = np.pad(detail, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width]
    sums = (sums + total[:-height, :-width])[::SCALE, ::SCALE]
    top, left = np.unravel_index(sums.argmax(), sums.shape)
    return Box(int(top) * SCALE, int(left) * SCALE, height, width)


def load_again(facts: Mapping[str, Any]) -> Network:
    """Load the network that an evaluation's `facts` name, with the same weights.

    Raises UserError or OSError where it cannot be had: the weights are gone or others now, or the
    network is a user's own, whose module a file must not have us import.
    """
    name, weights = str(facts["model"]), facts["weights"]
    zoo.parse_trusted(name, "the result")
    net, found = load_network(name, weights)
    if found["sha256"] != facts["weights_sha256"]:
        raise UserError(f"{weights} holds other weights now than those that were measured")
    return net.eval()


def made_file(folder: Path, facts: Mapping[str, Any], shot: Shot) -> Path:
    """The file for what this network makes of this shot; its name is a hash of what went in."""
    frames = zlib.crc32(shot.hr.data)
    network = (facts["model"], facts["weights_sha256"])
    what = (FORMAT, *network, shot.degradation, shot.lr_8bit, shot.frame, shot.span, frames)
    return folder / f"{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:20]}.npz"


@torch.inference_mode()
def make(net: Network, shot: Shot, found: Sequence[Piece], device: torch.device) -> Made:
    """Super-resolve the shot. Raises UserError where the output is not finite."""
    parts, k = [], net.num_frame // 2
    for piece in found:
        lr, centres = piece.around(k)
        parts.append(_whole(net.forward_clip(lr.to(device)[None], centres)[0], shot).cpu())
    sr = torch.cat(parts)
    if not sr.isfinite().all():
        raise UserError(f"its output for clip {shot.clip} is not finite")
    pixels = np.stack([_pixels(frame) for frame in sr])
    at = shot.middle
    maps = _maps(net, shot, found, device)
    return Made(pixels[at], pixels[max(at - 1, 0) : at], pixels[:, shot.row].copy(), *maps)


def _maps(
    net: Network, shot: Shot, found: Sequence[Piece], device: torch.device
) -> tuple[Pixels, Pixels, Pixels]:
    """Attention, F^LR and F^SR of the middle frame; empty where nothing was learnt (bicubic)."""
    if not any(True for _ in net.parameters()):
        none = np.zeros((0, 1, 1), np.uint8)
        return none, none, none
    piece = next(piece for piece in found if shot.frame in piece.centres)
    lr, centres = piece.around(net.num_frame // 2)
    centre = [centres[piece.centres.index(shot.frame)]]
    features = net.features_clip(lr.to(device)[None], centre)
    f_sr = _whole(features.f_sr[0, 0], shot)
    attention = torch.stack([attention_map(f_sr.float(), kind) for kind in ATTENTIONS])
    f_lr = features.f_lr[0, 0, :CHANNELS].permute(1, 2, 0)
    scale = round(shot.hr.shape[1] / f_lr.shape[0])  # 1 in networks that work at HR
    return (
        _levels(attention.cpu().numpy()),
        _stretched(shot.window.of(f_lr, scale)),
        _stretched(shot.window.of(f_sr[:CHANNELS].permute(1, 2, 0))),
    )


def _whole(maps: Tensor, shot: Shot) -> Tensor:
    """Cut off what padding added."""
    height, width = shot.hr.shape[1:3]
    return maps[..., :height, :width].float()


def _levels(maps: NDArray[Any]) -> Pixels:
    """Scale each map so that 255 is its 99.5th percentile."""
    top = np.percentile(maps, PERCENTILE, axis=(-2, -1), keepdims=True)
    shares = np.divide(maps, top, out=np.zeros_like(maps, np.float64), where=top > 0)
    found: Pixels = (shares.clip(0, 1) * 255).round().astype(np.uint8)
    return found


def _stretched(maps_HWC: Tensor) -> Pixels:
    """(H, W, C) -> (C, H, W), each channel from its least value, 0, to its greatest, 255."""
    maps = maps_HWC.float().cpu().numpy().transpose(2, 0, 1)
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    span = np.where(high > low, high - low, 1)
    found: Pixels = ((maps - low) / span * 255).round().astype(np.uint8)
    return found


def _pixels(image: Tensor) -> Pixels:
    """(3, H, W) in [0, 1] -> (H, W, 3)."""
    found: Pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return found


def save_made(file: Path, made: Made) -> None:
    """Keep it in a file, written whole or not at all."""
    with atomic_file(file) as aside:
        np.savez(aside, **made._asdict())


def load_made(file: Path) -> Made | None:
    """Read what save_made wrote; None where there is nothing whole."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            return Made(*(content[name] for name in Made._fields))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
