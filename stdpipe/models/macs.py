"""Multiply-accumulates of a network, counted on the meta device: nothing is computed.

`stdpipe models` and `evaluate --metrics cost` count convolutions, and the matrix products inside
submodules (behind the samples of a deformable convolution, linear layers, attention).
Interpolation, warping and pixelwise operations are left out, as usual; grid_sample's four for each
value are given beside.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from stdpipe.models.base import Network
from stdpipe.models.d3dnet import DeformConv3d
from stdpipe.models.deform import DeformConvPack

HEIGHT, WIDTH = 120, 180  # LR size at which the paper counts
BILINEAR = 4  # a sampled value is a weighted sum of four neighbours


class Macs(NamedTuple):
    """Multiply-accumulates of one frame: of one window, or of one step of a causal network."""

    convolutions: int  # and matrix products in other layers
    deformable: int  # products behind deformable samples, which other counters often miss
    sampling: int  # grid_sample's interpolation, not in the total

    @property
    def total(self) -> int:
        return self.convolutions + self.deformable


@torch.no_grad()
def count_macs(net: Network, height: int = HEIGHT, width: int = WIDTH) -> Macs:
    """Count one frame of LR size (height, width) as `forward` makes it; of a clip network, one of a
    clip's. The network itself stays on its device."""
    parts = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in parts.items()}
    seen = net.factor if net.sees_hr else 1
    shapes = net.input_shapes(seen * height, seen * width)
    inputs = tuple(torch.empty(shape, device="meta") for shape in shapes)
    found = _count(net, lambda: torch.func.functional_call(net, meta, inputs))
    frames = net.num_frame if net.kind == "clip" else 1
    return Macs(*(macs // frames for macs in found))


@torch.no_grad()
def steady_macs(net: Network, height: int, width: int) -> Macs:
    """Count what one more frame of a long clip costs, work that windows share counted once, at LR
    size (height, width). The network is on the meta device."""
    if net.kind != "window" or net.sees_hr:
        return count_macs(net, height, width)
    one, two = (_windows(net, count, height, width) for count in (1, 2))
    return Macs(*(more - less for less, more in zip(one, two, strict=True)))


def _windows(net: Network, count: int, height: int, width: int) -> Macs:
    """Count a few windows in a row, which lie in their clip as a whole."""
    clip = torch.empty(1, net.num_frame + count - 1, 3, height, width, device="meta")
    centres = [net.num_frame // 2 + t for t in range(count)]
    return _count(net, lambda: net.features_clip(clip, centres))


def _count(net: Network, run: Callable[[], object]) -> Macs:
    sampler = torch.ops.aten.grid_sampler_2d
    with FlopCounterMode(display=False, custom_mapping={sampler: _sampling_flops}) as counter:
        run()
    counts, root = counter.get_flop_counts(), type(net).__name__
    products = {name: _flops(part, "mm") for name, part in counts.items()}
    inside = sum(products.get(f"{root}.{name}", 0) for name, _ in net.named_children())
    deforming = (DeformConvPack, DeformConv3d)
    names = [name for name, module in net.named_modules() if isinstance(module, deforming)]
    deformable = sum(products.get(f"{root}.{name}", 0) for name in names)
    convolutions = _flops(counts["Global"], "convolution") + inside - deformable
    sampling = _flops(counts["Global"], "grid_sampler")
    return Macs(convolutions // 2, deformable // 2, sampling // 2)


def _flops(counts: dict[Any, int], operation: str) -> int:
    return sum(count for op, count in counts.items() if operation in str(op))


def _sampling_flops(*_args: Any, out_shape: Any, **_kwargs: Any) -> int:
    return 2 * BILINEAR * math.prod(out_shape)
