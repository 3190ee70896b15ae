"""Motion between frames: warping by a flow, work on pairs of frames, VESPCN's flow network.

A flow is (B, 2, h, w), in pixels, x first: where in the neighbour a pixel of the centre is found.
Axes: B batch, T frames of a clip, N windows, k neighbours on each side, P distinct pairs of frames,
C channels.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.models.layers import shrink

REACH = 32  # pixels: the flow where tanh is 1


def warp(x: Tensor, flow: Tensor, padding: str = "border") -> Tensor:
    """Sample x (B, C, h, w) bilinearly at every pixel plus flow (B, 2, h, w).

    padding: the values outside, "border" (edges repeated) or "zeros". Computed in float32 also for
    half precision, which cannot hold pixel positions; the result has the dtype of x.
    """
    height, width = x.shape[-2:]
    flow = flow if flow.dtype == torch.float64 else flow.float()
    columns = torch.arange(width, device=x.device, dtype=flow.dtype)
    rows = torch.arange(height, device=x.device, dtype=flow.dtype)[:, None]
    return sample(x, columns + flow[:, 0], rows + flow[:, 1], padding).to(x.dtype)


def sample(images: Tensor, x: Tensor, y: Tensor, padding: str) -> Tensor:
    """Sample images (B, C, h, w) bilinearly at pixel positions x and y (B, ., .)."""
    height, width = images.shape[-2:]
    # align_corners=False: -1 and 1 are the outer edges of the first and last pixel. Between their
    # centres (True) a side of one pixel has no length, and everything would lie inside it.
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
    return F.grid_sample(images.to(grid.dtype), grid, padding_mode=padding, align_corners=False)


def over_pairs(
    align: Callable[[Tensor, Tensor], Tensor], clip: Tensor, windows: Sequence[Sequence[int]]
) -> Tensor:
    """Align every neighbour in every window to its centre, each distinct pair once.

    clip (B, T, C, h, w); align takes a neighbour and a centre, (BP, C, h, w) each -> (B, N, 2k,
    ...), in temporal order.
    """
    middle = len(windows[0]) // 2
    pairs = [[(t, w[middle]) for t in (*w[:middle], *w[middle + 1 :])] for w in windows]
    distinct = sorted({pair for window in pairs for pair in window})
    neighbours, centres = zip(*distinct, strict=True)
    aligned = align(clip[:, list(neighbours)].flatten(0, 1), clip[:, list(centres)].flatten(0, 1))
    aligned = aligned.unflatten(0, (clip.shape[0], len(distinct)))
    place = [distinct.index(pair) for window in pairs for pair in window]
    return aligned[:, place].unflatten(1, (len(windows), 2 * middle))


class CoarseToFineFlow(nn.Module):
    """VESPCN's motion estimation: Caballero et al., CVPR 2017, Table 1.

    The coarse stage works at a quarter of the size, and the fine stage adds to its flow at half the
    size. Layers as in LoSealL/VideoSuperResolution (Ops/Motion.py), whose coarse warp forgets to
    scale the flow to pixels. Sides must be multiples of 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.coarse = _flow_stage(2 * channels, second_stride=2, channels_out=2 * 4**2)
        self.fine = _flow_stage(3 * channels + 2, second_stride=1, channels_out=2 * 2**2)

    def forward(self, neighbour: Tensor, centre: Tensor) -> Tensor:
        """Two frames (B, C, h, w) -> flow (B, 2, h, w)."""
        both = torch.cat((neighbour, centre), 1)
        coarse = F.pixel_shuffle(torch.tanh(self.coarse(both)), 4)
        warped = warp(neighbour, REACH * coarse)
        fine = self.fine(torch.cat((both, coarse, warped), 1))
        return REACH * (coarse + F.pixel_shuffle(torch.tanh(fine), 2))


def _flow_stage(channels_in: int, second_stride: int, channels_out: int) -> nn.Sequential:
    """Return five convolutions of 24 channels; the last, and so the flow, starts near zero."""
    last = nn.Conv2d(24, channels_out, 3, padding=1)
    shrink(last)
    layers: list[nn.Module] = []
    for channels, stride in ((channels_in, 2), (24, 1), (24, second_stride), (24, 1)):
        kernel = 2 * stride + 1  # 5 where it strides, else 3
        layers += [nn.Conv2d(channels, 24, kernel, stride, kernel // 2), nn.ReLU()]
    return nn.Sequential(*layers, last)
