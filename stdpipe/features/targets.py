"""Read teacher targets from the cache: a worker reads a window, and the training device decodes it
to f_sr, f_lr and SR. encoding.py writes them.

int8 codes are decoded on the device. A trunk is read with the halo that the teacher's frozen tail
needs, and becomes f_sr on the device, equal to the crop of the whole map.
Axes: B batch, T frames of a clip, C channels, H W HR size, h w LR size.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stdpipe import cache
from stdpipe.cache.errors import UserError
from stdpipe.data.box import Box
from stdpipe.data.views import View, orient, oriented_size, upright_box
from stdpipe.device import autocast, settle
from stdpipe.distill.names import mark, of_teacher
from stdpipe.distill.schemes import stored
from stdpipe.features.encoding import dequantise
from stdpipe.features.info import provenance
from stdpipe.models import zoo
from stdpipe.models.base import Network
from stdpipe.models.luma import own_image
from stdpipe.suggest import refuse_unknown

Arrays = dict[str, NDArray[np.float32]]


def refuse_other_frames(reader: cache.Reader, view: View, crc32: int) -> None:
    """Raise UserError where a view's entry was not made from the frames of that crc32."""
    made_from = reader.extra(str(view)).get("source_crc32")
    refuse_other_crc32(view, crc32, made_from, reader.url)


def refuse_other_crc32(view: View, here: int, there: object, url: str) -> None:
    """Raise UserError where the crc32 of a view's source differs from that in its cache entry."""
    if here != there:
        raise UserError(
            f"the frames of clip {view.clip} are not those the cache was made from (crc32 {here} "
            f"here, {there} in {url}); use the same data set, another cache, or extract again"
        )


class CachedTargets:
    """Reads a view's window from the cache, in the orientation in which the teacher saw it."""

    def __init__(self, reader: cache.Reader, names: tuple[str, ...], halo: int = 0) -> None:
        self.reader = reader
        self.names = names
        self.halo = halo  # LR pixels around a trunk window
        self.scale = reader.manifest.scale
        sizes = reader.manifest.sizes
        # in LR pixels
        self._longest = max(max(size.height, size.width) // self.scale for size in sizes)

    def __call__(self, view: View, box: Box, crc32: int | None) -> dict[str, Tensor]:
        """Read an oriented window in stored dtype: sr (T, 3 or 1, H, W), f_sr (T, C, H, W) or trunk
        (T, C, h, w) with its halo, attention (T, H, W), f_lr (T, C, h, w); int8 with its scale
        (2, C). crc32: of the source's frames, where they are at hand to be compared.
        """
        key = str(view)
        if crc32 is not None:
            refuse_other_frames(self.reader, view, crc32)
        found: dict[str, Tensor] = {}
        for name in self.names:
            stored = self.reader.manifest.stored if name == "f_sr" else name
            if stored == "trunk":
                found |= self._trunk(view, box)
            else:
                low = Box(*(side // self.scale for side in box))
                found |= self._map(view, stored, low if stored == "f_lr" else box)
            if self.reader.manifest.arrays[stored].dtype == "int8":  # whatever the size
                found[stored + "_scale"] = torch.from_numpy(self.reader.scale(key, stored))
        return found

    def _size(self, view: View, name: str) -> tuple[int, int]:
        height, width = self.reader.manifest.group(str(view)).arrays[name].shape[-2:]
        return height, width

    def _map(self, view: View, name: str, box: Box) -> dict[str, Tensor]:
        height, width = self._size(view, name)
        orientation = 0 if view.crop else view.orientation
        y, x, h, w = upright_box(box, orientation, height, width)
        stored = self.reader.read(str(view), name, y=y, x=x, h=h, w=w)
        return {name: orient(torch.from_numpy(stored), orientation).contiguous()}

    def _trunk(self, view: View, box: Box) -> dict[str, Tensor]:
        """Read the LR window with its halo, moved inwards at borders so that most have one size.

        Where a frame is narrower than that, zeros follow, so that batches can be stacked; trunk_at
        says where the window lies in what was read (y, x) and how much of it was read (h, w).
        """
        height, width = self._size(view, "trunk")
        if not view.crop:
            height, width = oriented_size(height, width, view.orientation)
        scale = self.scale
        y, h = _with_halo(box.y // scale, box.height // scale, self.halo, height)
        x, w = _with_halo(box.x // scale, box.width // scale, self.halo, width)
        trunk = self._map(view, "trunk", Box(y, x, h, w))["trunk"]
        down, across = (
            min(side // scale + 2 * self.halo, self._longest) - length
            for side, length in ((box.height, h), (box.width, w))
        )
        at = torch.tensor([box.y - scale * y, box.x - scale * x, h, w])
        wide = F.pad(trunk, (0, across, 0, down)) if down or across else trunk
        return {"trunk": wide, "trunk_at": at}


def _with_halo(start: int, length: int, halo: int, side: int) -> tuple[int, int]:
    """Return start and length of a span widened by `halo` at both ends, moved into 0..side.

    A true border needs no halo: there the whole map was padded with zeros, too.
    """
    widened = min(length + 2 * halo, side)
    return min(max(start - halo, 0), side - widened), widened


class Decoder:
    """Decodes a batch, on the training device, to the tensors that terms need.

    They are "f_sr" (B, T, C_SR, H, W), however it was stored, "f_lr" (B, T, C, h, w) if it was
    read, and the teacher's image "sr" (B, T, 3, H, W), or its luma (B, T, 1, H, W) where that alone
    is the teacher's own, as it was read or, if asked for, made of f_sr: without gradient, in
    float32. A trunk's tail runs in mixed precision where training does.
    """

    def __init__(
        self, reader: cache.Reader, device: torch.device, sr: bool = False, amp: str = "none"
    ) -> None:
        self.sr = sr
        self.amp = amp
        self.from_trunk = reader.manifest.needs_tail
        self.f_sr_channels = provenance(reader.manifest).f_sr_channels
        self.teacher: Network | None = None
        if sr or self.from_trunk:
            name = provenance(reader.manifest).teacher
            # a crop of f_sr must give a crop of the image, by a network that a file may name
            if sr and (zoo.needs_word(name) or not zoo.parse(name).cls.head):
                raise UserError(
                    "the term `output` makes the teacher's image of crops of its f_sr, which the "
                    f"last layers of {name} do not allow: extract again with --targets sr"
                )
            self.teacher = load_tail(name, reader.tail(), device, self.from_trunk, sr)
        # LR pixels that a trunk window needs around it
        self.halo = self.teacher.halo if self.teacher is not None and self.from_trunk else 0

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out = {k: v for k, v in batch.items() if not k.startswith(("f_sr", "trunk", "f_lr"))}
        if "sr" in batch:
            out["sr"] = batch["sr"].float() / 255
        for name in ("f_sr", "trunk", "f_lr"):
            if name in batch:
                scale = batch.get(name + "_scale")
                values = batch[name].float() if scale is None else dequantise(batch[name], scale)
                if name == "trunk":
                    name, values = "f_sr", self._through_tail(values, batch)
                out[name] = values
        if self.sr:
            assert self.teacher is not None
            sr = self.teacher.to_rgb(out["f_sr"].flatten(0, 1), out["lr"].flatten(0, 1))
            out["sr"] = own_image(sr.unflatten(0, out["lr"].shape[:2]), self.teacher.channels)
        return out

    def _through_tail(self, trunk: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Run the tail, on a CPU frame by frame, since the maps of a whole clip exceed its caches.

        The result is laid out as an f_sr that was read, so that sums over it round alike.
        """
        assert self.teacher is not None
        height, width = batch["hr"].shape[-2:]
        at_once = 1 if trunk.device.type == "cpu" else trunk.shape[1]
        crops = trunk.new_empty(*trunk.shape[:2], self.f_sr_channels, height, width)
        for n, (y, x, h, w) in enumerate(batch["trunk_at"].tolist()):
            for t in range(0, trunk.shape[1], at_once):
                frames = slice(t, t + at_once)
                with autocast(trunk.device, self.amp):
                    f_sr = self.teacher.upsample(trunk[n, frames, :, :h, :w])
                crops[n, frames] = f_sr[..., y : y + height, x : x + width]
        return crops


class SeveralTargets:
    """Reads a view's window from each of several caches, by the names that `mark` gives."""

    def __init__(self, caches: Sequence[CachedTargets]) -> None:
        self.caches = caches

    def __call__(self, view: View, box: Box, crc32: int) -> dict[str, Tensor]:
        read = {n: targets(view, box, crc32) for n, targets in enumerate(self.caches, 1)}
        return {mark(name, n): x for n, maps in read.items() for name, x in maps.items()}


class SeveralDecoders:
    """Decodes, by the same names, what SeveralTargets has read."""

    def __init__(self, decoders: Sequence[Decoder]) -> None:
        self.decoders = decoders

    def __call__(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        clips = {name: batch[name] for name in ("hr", "lr")}
        out = dict(clips)
        for n, decode in enumerate(self.decoders, 1):
            made = decode(of_teacher(batch, n) | clips)
            out |= {mark(name, n): x for name, x in made.items() if name not in clips}
        return out


def open_targets(
    reader: cache.Reader, wanted: Collection[str], device: torch.device, amp: str = "none"
) -> tuple[CachedTargets, Decoder]:
    """Return what reads the maps of `wanted` from a cache, and what decodes them on a device.

    "sr" is made of f_sr where the cache does not hold it. Raises UserError for a map that is
    unknown, or that the cache does not hold.
    """
    refuse_unknown(wanted, cache.TARGETS, "unknown target")
    refuse_missing(reader, wanted, f"the target {', '.join(wanted)}")
    held = reader.manifest.targets
    decoder = Decoder(reader, device, "sr" in wanted and "sr" not in held, amp)
    read = tuple(name for name in cache.TARGETS if name in stored(wanted, held))
    return CachedTargets(reader, read, decoder.halo), decoder


def refuse_missing(reader: cache.Reader, wanted: Collection[str], asker: str) -> None:
    """Raise UserError where a cache lacks what maps are read from; `asker` begins the message."""
    held = reader.manifest.targets
    both = [name for name in cache.TARGETS if name in {*held, *stored(wanted, held)}]
    if missing := [name for name in both if name not in held]:
        raise UserError(
            f"{asker} needs {missing[0]}, which {reader.url} does not hold "
            f"(it has {', '.join(held)}); extract again with --targets {','.join(both)}"
        )


def to_device(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move a batch to a device, except trunk_at, for which the host would have to wait."""
    return {
        name: values if name.startswith("trunk_at") else values.to(device, non_blocking=True)
        for name, values in batch.items()
    }


def load_tail(
    network: str, kept: Arrays, device: torch.device, tail: bool = True, head: bool = False
) -> Network:
    """Load a network's tail, head or both, for `upsample` and `to_rgb`; the rest takes no memory.

    kept: the parameters in its cache, by name; there may be more."""
    with torch.device("meta"):
        net = zoo.parse_trusted(network, "the cache").build()
    parts = (*net.tail * tail, *net.head * head)
    wanted = {k for k in net.state_dict() if k.split(".")[0] in parts}
    if not wanted <= kept.keys():
        raise UserError(f"what the cache keeps does not fit {network}; extract again")
    state = {name: torch.from_numpy(kept[name]).to(device) for name in wanted}
    net.load_state_dict(state, strict=False, assign=True)
    for part in parts:
        settle(net.get_submodule(part), device)
    return net.eval()


class LiveTeacher:
    """Runs the teacher in each training step, for comparison, on the crop that the student sees."""

    def __init__(
        self, teacher: Network, device: torch.device, amp: str, names: Collection[str] = ("f_sr",)
    ) -> None:
        # requires_grad stays: torch picks its convolutions by it, and they round differently
        self.teacher = settle(teacher, device, amp)
        self.amp = amp
        self.names = names

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add f_sr (B, T, C_SR, H, W), or the Features in `names`, to the batch.

        Clips run one by one as in extraction, since other batch sizes round differently."""
        seen = batch["hr" if self.teacher.sees_hr else "lr"]
        with autocast(seen.device, self.amp):
            clips = [self._wanted(one) for one in seen]
        made = zip(self.names, zip(*clips, strict=True), strict=True)
        return {**batch, **{name: torch.cat(maps).float() for name, maps in made}}

    def _wanted(self, clip: Tensor) -> list[Tensor]:
        features = self.teacher.features_clip(clip[None])
        features = features._replace(sr=own_image(features.sr, self.teacher.channels))
        return [getattr(features, name) for name in self.names]
