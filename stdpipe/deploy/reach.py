"""Measures how far an input pixel's influence goes, by which tiles must overlap."""

import warnings
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stdpipe.models.base import Network

LONGEST = 512  # LR pixels of the longest test strip: tiles that overlap by more make no sense
SHORT = 8  # LR pixels of its other side


def reach(net: Network) -> int | None:
    """Return the LR pixels, a multiple of `net.multiple`, beyond which an input changes nothing.

    None means that no bound is found: the network samples at places that its input decides (flow,
    deformable convolution) or sums over the whole frame. The probe is NaN, which spreads to all
    that it touches, whatever the weights. For a network on a CPU, in eval mode.
    """
    assert not net.training  # batch norms would remember what they see here
    if _samples_freely(net):
        return None
    along_y, along_x = _along(net, -2), _along(net, -1)
    return None if along_y is None or along_x is None else max(along_y, along_x)


class _FreeSampling(TorchDispatchMode):
    """Notices operators that sample at places given by their input, and all but torch's own."""

    seen: bool = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= func.namespace not in ("aten", "prim") or "grid_sampler" in func.__name__
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _samples_freely(net: Network) -> bool:
    side = _blocks(SHORT, net) * net.multiple
    watch = _FreeSampling()  # type: ignore[no-untyped-call]
    with watch:
        net(torch.zeros(1, net.num_frame, 3, side, side))
    return watch.seen


def _along(net: Network, axis: int) -> int | None:
    """Return the reach along one axis, on a longer strip where it does not end inside the first."""
    for length in (LONGEST // 4, LONGEST):
        blocks = _blocks(length, net)
        touched = _touched(net, axis, blocks)
        if touched.min() > 0 and touched.max() < blocks - 1:
            return int((touched - blocks // 2).abs().max()) * net.multiple
    return None


@torch.no_grad()
def _touched(net: Network, axis: int, blocks: int) -> torch.Tensor:
    """Return which blocks of `multiple` LR pixels the middle block of the input changes."""
    step = net.multiple
    size = [1, net.num_frame, 3, *2 * [_blocks(SHORT, net) * step]]
    size[axis] = blocks * step
    window = torch.zeros(size)
    window.narrow(axis, blocks // 2 * step, step).fill_(torch.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about a missing Intel GPU
        with torch.backends.mkldnn.flags(enabled=False):  # its fast convolutions mix neighbours
            sr = net(window)
    lines = sr.isnan().transpose(axis, -1).flatten(0, -2).any(0)
    return lines.nonzero() // (step * net.scale)


def _blocks(pixels: int, net: Network) -> int:
    return -(-pixels // net.multiple)
