"""The interface of every network: the four stages of the paper's Fig. 2.

A window is the 2k+1 LR frames around a centre, edges duplicated; a clip is T consecutive frames.
Axes: B batch, T frames of a clip, N centres asked for, C channels, h w LR size,
H W = s h s w HR size, s the scale.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.cache.errors import UserError
from stdpipe.resample import SCALE

Kind = Literal["window", "clip", "causal"]


class Features(NamedTuple):
    """The maps of a network on the way from LR to SR (names after the paper's Fig. 2)."""

    f_lr: Tensor  # aligned and fused, before the reconstruction backbone: (..., C, h, w)
    trunk: Tensor  # output of that backbone, still LR: (..., C, h, w)
    f_sr: Tensor  # F^SR, before the last convolution: (..., C_SR, H, W)
    sr: Tensor  # the super-resolved frame: (..., 3, H, W), RGB in [0, 1], unclipped


class Network(nn.Module):
    """A VSR network. There are three kinds, and `features_clip` is what all offer.

    "window": the four stages `fuse`, `reconstruct`, `upsample` and `to_rgb` of one window.
    "clip": sees all frames of a clip at once, and writes `features_clip` alone; or `fuse_clip` and
    the stages behind it, whose maps at HR size are then of one frame at a time.
    "causal": see CausalNetwork in causal.py.
    """

    kind: Kind = "window"
    num_frame: int = 1  # 2k+1 LR frames of a window; of a clip network's exported file
    multiple: int = 1  # LR sizes are padded to a multiple of it
    scale: int = SCALE  # SR size / input size; 1 only where the input has HR size
    channels: int = 3  # of the image that it makes itself: 1 for luma, with bicubic Cb and Cr
    f_sr_channels: int = 64  # C_SR; 0 where there is no F^SR, the image being shuffled out of LR
    tail: tuple[str, ...] = ()  # submodules that `upsample` runs; none where no trunk can be cached
    halo: int = 0  # LR pixels around a window of the trunk that its f_sr depends on
    head: tuple[str, ...] = ()  # submodules of `to_rgb`; none if it sees beyond the next LR pixel
    sees_hr: bool = False  # True in a privileged teacher, which is shown HR in place of LR
    facts: Mapping[str, Any] = MappingProxyType({})  # what load_network told of its weights
    revision: int = 1  # raised when the same weights give another image; older files are refused

    @property
    def factor(self) -> int:
        """HR size / LR size: the scale, even where the input has HR size."""
        return SCALE if self.scale == 1 else self.scale

    def fuse(self, window: Tensor) -> Tensor:
        """Fuse a window (B, 2k+1, 3, h, w) -> f_lr (B, C, h, w). Override this or `fuse_clip`."""
        return self.fuse_clip(window, [self.num_frame // 2])[:, 0]

    def reconstruct(self, f_lr: Tensor) -> Tensor:
        """Run the LR backbone, f_lr -> trunk; without one they are the same."""
        return f_lr

    def upsample(self, trunk: Tensor) -> Tensor:
        """Upsample the trunk to f_sr (B, C_SR, H, W)."""
        raise NotImplementedError

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:
        """Make sr (B, 3, H, W) of f_sr and the LR centre frame (B, 3, h, w)."""
        raise NotImplementedError

    def fuse_clip(self, clip: Tensor, centres: Sequence[int]) -> Tensor:
        """Fuse the windows around some centres of a clip: (B, T, 3, h, w) -> (B, N, C, h, w).

        Override where windows share work; the output must stay that of `fuse`, window by window.
        Without a gradient they go one by one: eight windows of D3Dnet at once take 366 KB of memory
        an LR pixel, one by one 63.
        """
        indices = window_indices(clip.shape[1], self.num_frame, centres)
        windows = [take(clip, frames) for frames in indices]
        if not torch.is_grad_enabled():
            return torch.stack([self.fuse(window) for window in windows], 1)
        return self.fuse(torch.stack(windows, 1).flatten(0, 1)).unflatten(0, (clip.shape[0], -1))

    def forward(self, window: Tensor) -> Tensor:
        """Super-resolve the centre frame of a window: (B, 2k+1, 3, h, w) -> sr (B, 3, H, W).

        A clip network super-resolves a clip: (B, T, 3, h, w) -> (B, T, 3, H, W).
        """
        return self.forward_clip(window) if self.kind == "clip" else self.features(window).sr

    def input_shapes(self, height: int, width: int, batch: int = 1) -> list[tuple[int, ...]]:
        """Return the shapes of what `forward` takes for one LR size.

        Raises UserError for a clip network that does not say how many frames.
        """
        if self.kind == "clip" and self.num_frame < 2:
            frames = "the frames of an exported file, whose cost is counted"
            raise UserError(f"{type(self).__name__} sees whole clips: set its num_frame, {frames}")
        return [(batch, self.num_frame, 3, height, width)]

    def features(self, window: Tensor) -> Features:
        """Return all stages of one window, each computed once: (B, 2k+1, 3, h, w)."""
        assert window.shape[1] == self.num_frame, window.shape
        height, width = window.shape[-2:]
        window = pad_to_multiple(window, self.multiple)
        centre = window[:, self.num_frame // 2]
        stages = self._from_f_lr(self.fuse(window), centre)
        return self._crop(stages, height, width)

    def features_clip(self, clip: Tensor, centres: Sequence[int] | None = None) -> Features:
        """Return all stages for the given centres (all frames by default): each (B, N, C, ., .)."""
        height, width = clip.shape[-2:]
        centres = range(clip.shape[1]) if centres is None else centres
        clip = pad_to_multiple(clip, self.multiple)
        f_lr = self.fuse_clip(clip, centres)
        centre_frames = take(clip, centres).flatten(0, 1)
        flat = self._from_f_lr(f_lr.flatten(0, 1), centre_frames)
        stages = Features(*(x.unflatten(0, (clip.shape[0], -1)) for x in flat))
        return self._crop(stages, height, width)

    def forward_clip(self, clip: Tensor, centres: Sequence[int] | None = None) -> Tensor:
        """Super-resolve a clip: (B, T, 3, h, w) -> (B, N, 3, H, W), as `forward` on each window.

        Frames go one by one behind `fuse_clip`, since maps at HR size take the most memory.
        """
        if type(self).features_clip is not Network.features_clip:
            return self.features_clip(clip, centres).sr
        height, width = clip.shape[-2] * self.scale, clip.shape[-1] * self.scale
        centres = range(clip.shape[1]) if centres is None else centres
        clip = pad_to_multiple(clip, self.multiple)
        f_lr = self.fuse_clip(clip, centres).unbind(1)
        sr = [self._from_f_lr(x, clip[:, t]).sr for x, t in zip(f_lr, centres, strict=True)]
        return torch.stack(sr, 1)[..., :height, :width]

    def _crop(self, features: Features, height: int, width: int) -> Features:
        """Cut off the padding; LR maps of networks that take HR input are smaller than that."""
        f_lr, trunk, f_sr, sr = features
        high, wide = height * self.scale, width * self.scale
        lr = (..., slice(high // self.factor), slice(wide // self.factor))
        hr = (..., slice(high), slice(wide))
        return Features(f_lr[lr], trunk[lr], f_sr[hr], sr[hr])

    def _from_f_lr(self, f_lr: Tensor, centre: Tensor) -> Features:
        trunk = self.reconstruct(f_lr)
        f_sr = self.upsample(trunk)
        return Features(f_lr, trunk, f_sr, self.to_rgb(f_sr, centre))


def window_indices(num_frames: int, num_frame: int, centres: Sequence[int]) -> list[list[int]]:
    """Return the frame numbers of each centre's window, in which edge frames are repeated."""
    k = num_frame // 2
    last = num_frames - 1
    return [[min(max(t + d, 0), last) for d in range(-k, k + 1)] for t in centres]


def take(clip: Tensor, frames: Sequence[int]) -> Tensor:
    """Return some frames of a clip, in that order: (B, T, ...) -> (B, N, ...)."""
    # an index tensor would be copied to the device, and the host would wait
    return torch.stack([clip[:, t] for t in frames], 1)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the right and bottom edges until both sides are multiples: (..., h, w)."""
    bottom, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    if not bottom and not right:
        return x
    padded = F.pad(x.flatten(0, -4), (0, right, 0, bottom), mode="replicate")
    return padded.unflatten(0, x.shape[:-3])


def check_sees_lr(net: Network, consequence: str) -> None:
    """Raise UserError for a privileged teacher where LR is all that a network is shown."""
    if net.sees_hr:
        name = type(net).__name__
        raise UserError(f"{name} is shown HR, so {consequence}: choose a network that is shown LR")


def check_scale(net: Network, name: str, degradation: str, scale: int) -> None:
    """Raise UserError where a network enlarges by another scale than that of its LR frames."""
    if net.factor != scale:
        advice = "give the network the option scale, where it has one, or name another degradation"
        raise UserError(
            f"{name} is for scale {net.factor}, and degradation {degradation!r} is of scale "
            f"{scale}: {advice}"
        )


def count_parameters(net: nn.Module) -> int:
    """Return the number of scalars in all parameters, frozen ones too; buffers do not count."""
    return sum(p.numel() for p in net.parameters())
