"""Teacher targets behind the cache: how a worker reads a window of them, and how the training
device turns what was read into f_sr. encoding.py is the side before the cache.

int8 crosses to the device as it is; a trunk crosses with the halo that the teacher's frozen tail
needs, and becomes f_sr there, equal to the crop of the whole map.
Axes: B batch, T frames of a clip, C channels, H W HR size, h w LR size.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stdpipe import cache, runs
from stdpipe.data.views import Box, View, orient, oriented_size, upright_box
from stdpipe.models import zoo
from stdpipe.models.base import SCALE, Network

Arrays = dict[str, NDArray[np.float32]]


def check_teacher(teacher: Network, facts: dict[str, Any]) -> None:
    """Raise ValueError for a network whose F^SR no student here could match."""
    if teacher.f_sr_channels != 64 or teacher.scale != 4:
        raise ValueError(f"{facts['network']} has no 64-channel F^SR at 4 times the LR size")


def tail_of(teacher: Network) -> Arrays:
    """The teacher's parameters that turn the trunk into f_sr, by name.

    Raises ValueError where the network has no trunk.
    """
    tail = {
        name: value.detach().float().cpu().numpy()
        for name, value in teacher.state_dict().items()
        if name.split(".")[0] in teacher.tail
    }
    if not tail:
        raise ValueError(
            f"{type(teacher).__name__} has no trunk that a tail turns into f_sr: choose an "
            "encoding that stores f_sr itself (float16, int8)"
        )
    return tail


def refuse_trunk(encoding: str, name: str, teacher: Network, height: int, width: int) -> None:
    """Raise ValueError where this teacher's trunk cannot be cached for frames of this HR size."""
    if cache.ENCODINGS[encoding].stored != "trunk":
        return
    if name.partition(":")[0] not in zoo.ZOO:
        raise ValueError(
            f"encoding {encoding!r} has training rebuild the teacher's tail by the name in the "
            f"cache, and {name} would be imported for it; choose float16 or int8"
        )
    multiple = 4 * teacher.multiple
    if height % multiple or width % multiple:
        raise ValueError(
            f"encoding {encoding!r} needs frames whose sides are multiples of {multiple} (the "
            f"teacher pads others, and its padding is not cached), got {width} x {height}; choose "
            "int8 or float16"
        )


class CachedTargets:
    """Reads a view's window from the cache, in the orientation in which the teacher saw it."""

    def __init__(self, reader: cache.Reader, names: tuple[str, ...], halo: int = 0) -> None:
        self.reader = reader
        self.names = names
        self.halo = halo  # LR pixels around a trunk window

    def __call__(self, view: View, box: Box, crc32: int) -> dict[str, Tensor]:
        """An oriented window, in stored dtype: f_sr (T, C, H, W) or trunk (T, C, h, w) with its
        halo, and/or attention (T, H, W); int8 with its scale (2, C)."""
        key = str(view)
        made_from = self.reader.extra(key).get("source_crc32")
        if made_from != crc32:
            raise ValueError(
                f"the frames of clip {view.clip} are not those the cache was made from (crc32 "
                f"{crc32} here, {made_from} there); use the same data set or extract again"
            )
        found: dict[str, Tensor] = {}
        for name in self.names:
            stored = self.reader.manifest.stored if name == "f_sr" else name
            found |= self._trunk(view, box) if stored == "trunk" else self._map(view, stored, box)
            if self.reader.manifest.arrays[stored].dtype == "int8":
                found[stored + "_scale"] = torch.from_numpy(self.reader.scale(key, stored))
        return found

    def _map(self, view: View, name: str, box: Box) -> dict[str, Tensor]:
        height, width = self.reader.manifest.arrays[name].shape[-2:]
        orientation = 0 if view.crop else view.orientation
        y, x, h, w = upright_box(box, orientation, height, width)
        stored = self.reader.read(str(view), name, y=y, x=x, h=h, w=w)
        return {name: orient(torch.from_numpy(stored), orientation).contiguous()}

    def _trunk(self, view: View, box: Box) -> dict[str, Tensor]:
        """The LR window with its halo, pushed inwards at the borders so that all have one size."""
        height, width = self.reader.manifest.arrays["trunk"].shape[-2:]
        if not view.crop:
            height, width = oriented_size(height, width, view.orientation)
        y, h = _with_halo(box.y // SCALE, box.height // SCALE, self.halo, height)
        x, w = _with_halo(box.x // SCALE, box.width // SCALE, self.halo, width)
        return {
            **self._map(view, "trunk", Box(y, x, h, w)),
            "trunk_at": torch.tensor([box.y - SCALE * y, box.x - SCALE * x]),
        }


def _with_halo(start: int, length: int, halo: int, side: int) -> tuple[int, int]:
    """First pixel and length of a span widened by `halo` at both ends, moved into 0..side.

    At a true border no halo is wanted: there the whole map, too, was padded with zeros.
    """
    widened = min(length + 2 * halo, side)
    return min(max(start - halo, 0), side - widened), widened


class Decoder:
    """On the training device: a batch as read -> the same with "f_sr" (B, T, 64, H, W) in place of
    what it was stored as. Without gradient, in float32."""

    def __init__(self, reader: cache.Reader, device: torch.device) -> None:
        self.tail: Network | None = None
        if reader.manifest.stored == "trunk":
            self.tail = load_tail(str(reader.manifest.made_by["teacher"]), reader.tail(), device)

    @property
    def halo(self) -> int:
        """LR pixels that a trunk window needs around it."""
        return self.tail.halo if self.tail is not None else 0

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out = {k: v for k, v in batch.items() if not k.startswith(("f_sr", "trunk"))}
        for name in ("f_sr", "trunk"):
            if name in batch:
                values = _dequantised(batch, name)
                out["f_sr"] = values if name == "f_sr" else self._through_tail(values, batch)
        return out

    def _through_tail(self, trunk: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        assert self.tail is not None
        f_sr = self.tail.upsample(trunk.flatten(0, 1)).unflatten(0, trunk.shape[:2])
        height, width = batch["hr"].shape[-2:]
        crops = [
            one[..., y : y + height, x : x + width]
            for one, (y, x) in zip(f_sr, batch["trunk_at"].tolist(), strict=True)
        ]
        return torch.stack(crops)


def _dequantised(batch: Mapping[str, Tensor], name: str) -> Tensor:
    values = batch[name].float()
    if name + "_scale" not in batch:
        return values
    step, middle = batch[name + "_scale"][:, :, None, :, None, None].unbind(1)
    return values * step + middle


def load_tail(network: str, tail: Arrays, device: torch.device) -> Network:
    """A network with its tail's parameters alone: `upsample` runs, nothing else takes memory."""
    with torch.device("meta"):
        net = zoo.parse_trusted(network, "the cache").build()
    state = {name: torch.from_numpy(value).to(device) for name, value in tail.items()}
    wanted = {k for k in net.state_dict() if k.split(".")[0] in net.tail}
    if wanted != state.keys():
        raise ValueError(f"the cache's tail does not fit {network}; extract again")
    net.load_state_dict(state, strict=False, assign=True)
    return net.eval()


class LiveTeacher:
    """The teacher in the loop, for comparison and proof: it sees the crop the student sees."""

    def __init__(self, teacher: Network, device: torch.device, amp: str) -> None:
        # requires_grad stays: torch picks its convolutions by it, and they round differently
        self.teacher = teacher.to(device).eval()
        self.amp = amp

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Adds f_sr (B, T, 64, H, W) to the batch; clip by clip, as extraction runs it, since other
        batch sizes round otherwise."""
        lr = batch["lr"]
        with runs.autocast(lr.device, self.amp):
            f_sr = [self.teacher.features_clip(one[None]).f_sr for one in lr]
        return {**batch, "f_sr": torch.cat(f_sr).float()}
