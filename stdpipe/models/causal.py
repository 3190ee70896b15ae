"""Networks that go through a clip once, frame by frame, and carry a state: what phones run.

A step sees the frame before, the frame itself and, where `num_ahead` says so, frames after it.
Axes: B batch, T frames of a clip, N centres asked for, C channels, h w LR size, H W HR size.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.cache.errors import UserError
from stdpipe.models.base import Features, Network
from stdpipe.models.layers import conv3x3, leaky, shrink, surroundings
from stdpipe.resample import SCALE

State = tuple[Tensor, ...]
Head = Literal["shuffle", "f_sr"]
F_SR_CHANNELS = 8  # of head=f_sr, unless told


class CausalNetwork(Network):
    """A network that writes `begin` and `step`; what works on whole clips follows from them."""

    kind = "causal"
    num_ahead: int = 0  # LR frames after the present one that a step sees
    warm_start: float = 0.0  # share of training steps from a state that has run, unless told

    def begin(self, frame: Tensor) -> State:
        """Return the state before a clip's first frame (B, 3, h, w): tensors (B, C, h, w) each."""
        raise NotImplementedError

    def step(self, frames: Tensor, state: State) -> tuple[Features, State]:
        """Super-resolve one frame: (B, 2 + num_ahead, 3, h, w) holds the frame before, the present
        one and those after. At a clip's ends the frame itself is repeated."""
        raise NotImplementedError

    def forward(self, frames: Tensor, *state: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Return sr (B, 3, H, W) and the next state of one step, as exported files do."""
        features, state = self.step(frames, state)
        return features.sr, *state

    def input_shapes(self, height: int, width: int, batch: int = 1) -> list[tuple[int, ...]]:
        """Return the shapes of the frames and of the state."""
        state = self.begin(torch.empty(batch, 3, height, width, device="meta"))
        return [(batch, 2 + self.num_ahead, 3, height, width), *(tuple(x.shape) for x in state)]

    def features_clip(
        self, clip: Tensor, centres: Sequence[int] | None = None, state: State | None = None
    ) -> Features:
        """Return all stages for the given centres (all frames by default): each (B, N, C, ., .).

        The state runs from the clip's first frame to the last centre, whichever are asked for; it
        is that of `begin` unless given.
        """
        wanted = range(clip.shape[1]) if centres is None else centres
        found: dict[int, Features] = {}
        state = self.begin(clip[:, 0]) if state is None else state
        for t in range(max(wanted) + 1):
            features, state = self.step(self.around(clip, t), state)
            if t in wanted:
                found[t] = features
        return stacked([found[t] for t in wanted])

    @torch.no_grad()
    def warmed(self, before: Tensor, clip: Tensor) -> State:
        """Return the state after the frames before a clip, (B, N, 3, h, w) and (B, T, 3, h, w)."""
        frames = torch.cat([before, clip[:, : self.num_ahead]], 1)
        state = self.begin(before[:, 0])
        for t in range(before.shape[1]):
            _, state = self.step(self.around(frames, t), state)
        return state

    def around(self, clip: Tensor, t: int) -> Tensor:
        """Return what `step` sees of frame t: (B, T, 3, h, w) -> (B, 2 + num_ahead, 3, h, w)."""
        last = clip.shape[1] - 1
        places = (min(max(t + d, 0), last) for d in range(-1, self.num_ahead + 1))
        return torch.stack([clip[:, place] for place in places], 1)


def stacked(frames: Sequence[Features]) -> Features:
    """Return the features of some frames, each (B, C, ., .), as one of (B, N, C, ., .)."""
    return Features(*(torch.stack(x, 1) for x in zip(*frames, strict=True)))


def seen(frames: Tensor, published: bool) -> Tensor:
    """Return what the first layer sees of a step's frames: (B, T, 3, h, w) -> (B, 3 T, h, w).

    They are less the present frame's surroundings, but in networks as published. Raw frames are
    mostly brightness, from which RLSP and SWRN did not leave their base here (RESULTS.md); for the
    same reason their ReLUs leak.
    """
    each = frames.unbind(1)  # no map of five dimensions, which runtimes of phones refuse
    if not published:
        mean = surroundings(each[1])
        each = tuple(frame - mean for frame in each)
    return torch.cat(each, 1)


class Shuffled(nn.Module):
    """The last layer of a network without F^SR: its image is shuffled out of LR features."""

    def __init__(self, channels: int, colours: int = 3, scale: int = SCALE) -> None:
        super().__init__()
        self.scale = scale
        self.conv_last = conv3x3(channels, colours * scale**2)
        shrink(self.conv_last, 0.1)

    def forward(self, trunk: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> F^SR of no channels (B, 0, H, W) and the residual (B, 3 or 1, H, W)."""
        f_sr, residual, _ = self.both_sizes(trunk)
        return f_sr, residual

    def both_sizes(self, trunk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `forward` does, and the residual before it is shuffled."""
        low = self.conv_last(trunk)
        residual = F.pixel_shuffle(low, self.scale)
        return residual[:, :0], residual, low


class WithFSR(nn.Module):
    """A head in place of `Shuffled`: F^SR of `f_sr_channels`, and one 3x3 convolution behind it."""

    def __init__(
        self, channels: int, f_sr_channels: int, colours: int = 3, scale: int = SCALE
    ) -> None:
        super().__init__()
        self.scale = scale
        self.upconv = conv3x3(channels, f_sr_channels * scale**2)
        self.conv_last = conv3x3(f_sr_channels, colours)
        shrink(self.conv_last, 0.1)

    def forward(self, trunk: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> F^SR (B, C_SR, H, W) and the residual (B, 3 or 1, H, W)."""
        f_sr = leaky(F.pixel_shuffle(self.upconv(trunk), self.scale))
        return f_sr, self.conv_last(f_sr)

    def both_sizes(self, trunk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `forward` does, and the residual shuffled back to LR size."""
        f_sr, residual = self.forward(trunk)
        return f_sr, residual, F.pixel_unshuffle(residual, self.scale)


def build_head(
    head: Head, channels: int, f_sr_channels: int, colours: int = 3, scale: int = SCALE
) -> "Shuffled | WithFSR":
    """Return the layers from a causal network's LR features to F^SR and the residual."""
    if head == "shuffle":
        if f_sr_channels != F_SR_CHANNELS:
            raise UserError("f_sr_channels is an option of head=f_sr: give both, or neither")
        return Shuffled(channels, colours, scale)
    return WithFSR(channels, f_sr_channels, colours, scale)
