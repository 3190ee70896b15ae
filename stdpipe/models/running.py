"""Run any kind of network over a clip whose frames come a few at a time.

Axes: T frames of a clip, N centres asked for, C channels, h w LR size.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from stdpipe.device import autocast
from stdpipe.models.base import Features, Network
from stdpipe.models.causal import CausalNetwork, State, stacked

WHOLE_CLIP = 2**31  # frames around a centre that a clip network sees: all


def frames_around(net: Network) -> int:
    """Return how many LR frames before and after a centre the network sees in one call."""
    if isinstance(net, CausalNetwork):
        return max(1, net.num_ahead)
    return WHOLE_CLIP if net.kind == "clip" else net.num_frame // 2


class ClipRunner:
    """Super-resolves one clip in order, a few centres a call, as `features_clip` would at once.

    A causal network's state stays here between calls, so each call must follow the one before.
    """

    def __init__(self, net: Network) -> None:
        self.net = net
        self.done = 0  # frames that the state has seen
        self._state: State | None = None

    def kept(self) -> tuple[int, State | None]:
        """Return what `go_on` of another runner needs to go on from here."""
        return self.done, self._state

    def go_on(self, kept: tuple[int, State | None]) -> None:
        """Go on where another runner was."""
        self.done, self._state = kept

    def __call__(self, lr: Tensor, first: int, centres: Sequence[int]) -> Features:
        """Return the features of centres (ascending frame numbers), each (1, N, C, ., .).

        lr (1, T, 3, h, w) holds the frames from number `first` on: `frames_around` the centres and,
        for a causal network, all those since the last call's; fewer only at the clip's ends.
        """
        if not isinstance(self.net, CausalNetwork):
            return self.net.features_clip(lr, [t - first for t in centres])
        return stacked([features for _, features in self._run(self.net, lr, first, centres)])

    def sr(self, lr: Tensor, first: int, centres: Sequence[int]) -> Tensor:
        """Return the images alone, (1, N, 3, H, W): a window network's maps of one at a time."""
        if not isinstance(self.net, CausalNetwork):
            return self.net.forward_clip(lr, [t - first for t in centres])
        return torch.stack([x.sr for _, x in self._run(self.net, lr, first, centres)], 1)

    def sr_and_map(
        self, lr: Tensor, first: int, centres: Sequence[int], shown: int
    ) -> tuple[Tensor, Tensor]:
        """Return the images, (1, N, 3, H, W), and F^SR of one of the centres, (C, H, W)."""
        if not isinstance(self.net, CausalNetwork):
            return self.sr(lr, first, centres), self(lr, first, [shown]).f_sr[0, 0]
        images = []
        for t, features in self._run(self.net, lr, first, centres):
            images.append(features.sr)
            if t == shown:
                f_sr = features.f_sr[0]
        return torch.stack(images, 1), f_sr

    def _run(
        self, net: CausalNetwork, lr: Tensor, first: int, centres: Sequence[int]
    ) -> Iterator[tuple[int, Features]]:
        """Yield the features of each centre in turn, with its number."""
        if self._state is None:
            self._state = net.begin(lr[:, self.done - first])
        for t in range(self.done, centres[-1] + 1):
            features, self._state = net.step(net.around(lr, t - first), self._state)
            self.done = t + 1
            if t in centres:
                yield t, features


def still_images(
    net: CausalNetwork, frame: Tensor, device: torch.device, amp: str
) -> Iterator[Tensor]:
    """Yield sr (1, 3, H, W) of one LR frame (1, 3, h, w) that never changes."""
    frames = frame[:, None].expand(-1, 2 + net.num_ahead, -1, -1, -1)
    state = net.begin(frame)
    while True:
        with autocast(device, amp):
            features, state = net.step(frames, state)
        yield features.sr.float()
