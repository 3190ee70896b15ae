"""Run a network again on a few frames of a clip, and keep what the page's pictures need.

A shot is the middle frame of a clip and a short span around it. A network's output for it is kept
in one file, so that a report that was stopped, or is written again, does not compute it anew.
Axes: S frames of the span, H W HR size, C channels; crops are those of Shot.window.
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stdpipe.cache.errors import UserError
from stdpipe.cache.files import atomic_file
from stdpipe.cache.schema import read_bytes
from stdpipe.data.box import Box
from stdpipe.data.degrade import degradation as named_degradation
from stdpipe.data.frames import Clip
from stdpipe.data.pieces import Piece, pieces
from stdpipe.device import settle
from stdpipe.distill.attention import attention_map
from stdpipe.evaluation.pictures import HEAT_PERCENTILE, to_pixels
from stdpipe.models import zoo
from stdpipe.models.base import Features, Network
from stdpipe.models.causal import CausalNetwork
from stdpipe.models.checkpoints import load_network
from stdpipe.models.running import ClipRunner, frames_around
from stdpipe.models.stated import MOST_BYTES, refuse_large
from stdpipe.reporting.data_uris import Pixels
from stdpipe.resample import SCALE

Facts = Mapping[str, Any]  # an evaluation.results.NetworkResult

FORMAT = 1  # of the files
UNREADABLE = (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile)
CROP_HEIGHT, CROP_WIDTH = 180, 240
CHANNELS = 64  # the most feature maps that are kept
ATTENTIONS = ("sum", "sum2", "max2")


class Shot(NamedTuple):
    """The frames of a clip that the page shows."""

    clip: str
    lr_8bit: bool
    degradation: str
    frame: int  # the middle frame's number
    span: list[int]  # numbers of the frames of the temporal profile
    middle: int  # where `frame` lies in the span
    hr: Pixels  # (S, H, W, 3)
    lr: Pixels  # the middle frame's, (h, w, 3)
    window: Box  # the crop with most detail, in HR pixels on the grid of LR pixels
    row: int  # the scan line of the temporal profile


class Made(NamedTuple):
    """A network's output for a shot, in 8 bits."""

    sr: Pixels  # the middle frame, (H, W, 3)
    before: Pixels  # the frame before it, or (0, H, W, 3) if there is none
    profile: Pixels  # the scan line in each frame of the span, (S, W, 3)
    attention: Pixels  # (3, H, W), by ATTENTIONS: 255 is the map's 99.5th percentile
    f_lr: Pixels  # the crop, (C, h, w), each channel from its least to its greatest value
    f_sr: Pixels  # the crop, (C, H, W), likewise


def take_shot(
    clip: Clip, degradation: str, lr_8bit: bool, length: int, nets: Sequence[Network]
) -> tuple[Shot, list[Piece]]:
    """Read the shot of at most `length` frames around the clip's middle.

    Returns the shot, and its frames with the LR frames that the networks need: those of windows
    around, and for a causal network all from the clip's start.
    """
    k = max(map(frames_around, nets), default=0)
    frame = len(clip.frames) // 2
    start = min(max(frame - length // 2, 0), max(len(clip.frames) - length, 0))
    span = list(range(start, min(start + length, len(clip.frames))))
    causal = any(isinstance(net, CausalNetwork) for net in nets)
    found, frames = [], []
    for piece in pieces(clip, range(span[-1] + 1) if causal else span, k, degradation, lr_8bit):
        frames.append(piece.hr[[at for at, t in enumerate(piece.centres) if t in span]])
        found.append(piece._replace(hr=piece.hr[:0]))  # of a long clip, LR alone is kept
    hr = torch.cat(frames).permute(0, 2, 3, 1).contiguous().numpy()
    piece = next(p for p in found if frame in p.centres)
    lr = to_pixels(piece.lr[frame - piece.first])
    middle = span.index(frame)
    window = most_detail(hr[middle], named_degradation(degradation).scale)
    row = window.y + window.height // 2
    return Shot(clip.key, lr_8bit, degradation, frame, span, middle, hr, lr, window, row), found


def most_detail(hr: Pixels, scale: int = SCALE) -> Box:
    """Find the crop of (H, W, 3) with the greatest mean difference between neighbouring pixels."""
    y = hr.astype(np.float64).mean(-1)
    detail = np.abs(np.diff(y, axis=1, prepend=y[:, :1]))
    detail += np.abs(np.diff(y, axis=0, prepend=y[:1]))
    height = max(min(CROP_HEIGHT, y.shape[0]) // scale * scale, 1)
    width = max(min(CROP_WIDTH, y.shape[1]) // scale * scale, 1)
    rows = F.avg_pool2d(torch.from_numpy(detail)[None], (height, 1), stride=(scale, 1))
    means = F.avg_pool2d(rows, (1, width), stride=(1, scale))[0].numpy()
    top, left = np.unravel_index(means.argmax(), means.shape)
    return Box(int(top) * scale, int(left) * scale, height, width)


def load_again(facts: Facts) -> Network:
    """Load the network that an evaluation's `facts` name, with the same weights.

    Raises UserError or OSError where the weights are gone or have changed, or where the network is
    of a module that a file may not name.
    """
    name, weights = str(facts["model"]), facts["weights"]
    zoo.parse_trusted(name, "the result")
    net, found = load_network(name, weights)
    if found["sha256"] != facts["weights_sha256"]:
        raise UserError(f"{weights} holds other weights now than those that were measured")
    return net


def load_or_make(
    parts: Path, facts: Facts, net: Network, shot: Shot, found: list[Piece], device: torch.device
) -> Made:
    """Return the network's output for the shot, read from `parts` if it was made before.

    Its file is named by a hash of the inputs. Raises UserError where the output is not finite.
    """
    frames = zlib.crc32(shot.hr.data)
    for piece in found:
        frames = zlib.crc32(piece.lr.numpy().tobytes(), frames)
    network = (facts["model"], facts["weights_sha256"])
    what = (FORMAT, *network, shot.degradation, shot.lr_8bit, shot.frame, shot.span, frames)
    file = parts / f"{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:20]}.npz"
    with suppress(*UNREADABLE):
        refuse_large(data := read_bytes(file, MOST_BYTES), file)
        with np.load(io.BytesIO(data)) as content:
            return Made(**content)
    made = make(settle(net, device), shot, found, device)
    with atomic_file(file) as aside:
        np.savez(aside, **made._asdict())
    return made


@torch.inference_mode()
def make(net: Network, shot: Shot, found: Sequence[Piece], device: torch.device) -> Made:
    """Super-resolve the shot. Raises UserError where the output is not finite."""
    parts, runner = [], ClipRunner(net)
    for piece in found:
        lr, first = piece.around(frames_around(net))
        features = Features(*(x[0] for x in runner(lr.to(device)[None], first, piece.centres)))
        kept = [at for at, t in enumerate(piece.centres) if t in shot.span]
        parts.append(_whole(features.sr, shot)[kept].cpu())
        if shot.frame in piece.centres:
            index = piece.centres.index(shot.frame)
            middle = Features(*(x[index].float().cpu() for x in features))
    sr = torch.cat(parts)
    if not sr.isfinite().all():
        raise UserError(f"its output for clip {shot.clip} is not finite")
    pixels = np.stack([to_pixels(frame) for frame in sr])
    at = shot.middle
    maps = _maps(net, shot, middle)
    return Made(pixels[at], pixels[max(at - 1, 0) : at], pixels[:, shot.row].copy(), *maps)


def _maps(net: Network, shot: Shot, features: Features) -> tuple[Pixels, ...]:
    """Return attention, F^LR and F^SR of the middle frame; empty for a network without F^SR, and
    for bicubic, which learns none."""
    if not net.f_sr_channels or not any(True for _ in net.parameters()):
        return (np.zeros((0, 1, 1), np.uint8),) * 3
    f_lr, f_sr = features.f_lr, _whole(features.f_sr, shot)
    attention = torch.stack([attention_map(f_sr, kind) for kind in ATTENTIONS]).numpy()
    top = np.percentile(attention, HEAT_PERCENTILE, axis=(1, 2), keepdims=True)
    scale = round(shot.hr.shape[1] / f_lr.shape[1])  # 1 in networks that work at HR
    crops = []
    for maps, shrunk in ((f_lr, scale), (f_sr, 1)):
        crop = maps[:CHANNELS][Box(*(side // shrunk for side in shot.window)).cut()].numpy()
        crops.append(
            _levels(crop, crop.min((1, 2), keepdims=True), crop.max((1, 2), keepdims=True))
        )
    return _levels(attention, 0, top), *crops


def _levels(maps: NDArray[Any], low: Any, high: Any) -> Pixels:
    """Map (C, H, W) to 8 bits: `low` becomes 0, `high` 255."""
    shares = (maps - low) / np.where(high > low, high - low, 1)
    return np.asarray((shares.clip(0, 1) * 255).round(), np.uint8)


def _whole(maps: Tensor, shot: Shot) -> Tensor:
    """Cut off the padding."""
    height, width = shot.hr.shape[1:3]
    return maps[..., :height, :width].float()
