"""Multiply-accumulates of a network, counted on the meta device: nothing is computed.

`stdpipe models` and `evaluate --metrics cost` count convolutions, and the matrix products inside
submodules (behind the samples of a deformable convolution, linear layers, attention).
Interpolation, warping and pixelwise operations are left out, as usual; grid_sample's four for each
value are given beside.
"""

import math
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from stdpipe.models.base import SCALE, Network
from stdpipe.models.d3dnet import DeformConv3d
from stdpipe.models.deform import DeformConvPack

HEIGHT, WIDTH = 120, 180  # LR size at which the paper counts
BILINEAR = 4  # a sampled value is a weighted sum of four neighbours


class Macs(NamedTuple):
    """Multiply-accumulates of one window."""

    convolutions: int  # and matrix products in other layers
    deformable: int  # products behind deformable samples, which other counters often miss
    sampling: int  # grid_sample's interpolation, not in the total

    @property
    def total(self) -> int:
        return self.convolutions + self.deformable


@torch.no_grad()
def count_macs(net: Network, height: int = HEIGHT, width: int = WIDTH) -> Macs:
    """Count one window of LR size (height, width); the network itself stays on its device."""
    parts = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in parts.items()}
    seen = SCALE if net.sees_hr else 1
    window = torch.empty(1, net.num_frame, 3, seen * height, seen * width, device="meta")
    sampler = torch.ops.aten.grid_sampler_2d
    with FlopCounterMode(display=False, custom_mapping={sampler: _sampling_flops}) as counter:
        torch.func.functional_call(net, meta, (window,))
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
