"""Optical flow without weights: TV-L1 in plain torch.

Zach, Pock, Bischof, "A Duality Based Approach for Realtime TV-L1 Optical Flow", DAGM 2007: the
absolute values of image differences and of the flow's gradient are minimised, so that the flow is
smooth but may break at edges. The letters are the paper's: u is the flow, v its copy that follows
the images, p the dual variable that smooths.
Axes: N pairs of frames, h w size. A flow is (N, 2, h, w): x, then y, in pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stdpipe.models.layers import up2
from stdpipe.models.warp import warp

LEVELS = 4  # of halved sizes: eight pixels of motion are one at the coarsest
WARPS = 5  # times a level is linearised anew around its flow
ITERATIONS = 20  # of the two alternating steps, between warps
ATTACHMENT = 30.0  # lambda, for grey values in [0, 1]
TIGHTNESS = 0.3  # theta: how close v stays to u
STEP = 0.125  # tau of the dual step: the largest for which its convergence is proven
LUMA = (0.299, 0.587, 0.114)


def tvl1(reference: Tensor, neighbour: Tensor) -> Tensor:
    """Return the flow (N, 2, h, w) along which the sampled neighbour looks like the reference.

    Frames are (N, 3, h, w), RGB in [0, 1]. The flow is float32 and without gradient. torch.export
    sees one operator, which needs stdpipe to run.
    """
    return _tvl1(reference.detach(), neighbour.detach())


@torch.library.custom_op("stdpipe::tvl1", mutates_args=())
def _tvl1(reference: Tensor, neighbour: Tensor) -> Tensor:
    weights = torch.tensor(LUMA, device=reference.device)[:, None, None]
    frames = torch.stack((reference, neighbour)).float()
    frames = (frames * weights).sum(2, keepdim=True)
    pyramid = [frames]
    for _ in range(LEVELS - 1):
        frames = F.avg_pool2d(frames.flatten(0, 1), 2, ceil_mode=True).unflatten(0, (2, -1))
        pyramid.append(frames)
    u = torch.zeros_like(frames[0]).repeat(1, 2, 1, 1)
    p = torch.zeros_like(u).repeat(1, 2, 1, 1)
    for level in reversed(range(LEVELS)):
        for _ in range(WARPS):
            u, p = _refine(u, p, *pyramid[level])
        if level:
            height, width = pyramid[level - 1].shape[-2:]
            u, p = (up2(x)[..., :height, :width] for x in (2 * u, p))
    return u


@_tvl1.register_fake
def _(reference: Tensor, neighbour: Tensor) -> Tensor:
    size, _, height, width = reference.shape
    return reference.new_empty(size, 2, height, width, dtype=torch.float32)


def _refine(u: Tensor, p: Tensor, reference: Tensor, neighbour: Tensor) -> tuple[Tensor, Tensor]:
    """Linearise around u and iterate; reference and neighbour (N, 1, h, w), p (N, 4, h, w)."""
    sampled = warp(neighbour, u, "border")
    slope = _central(sampled)
    squared = slope.square().sum(1, keepdim=True).clamp(min=1e-9)
    rest = sampled - reference - (slope * u).sum(1, keepdim=True)
    bound = ATTACHMENT * TIGHTNESS
    for _ in range(ITERATIONS):
        rho = rest + (slope * u).sum(1, keepdim=True)
        v = u - (rho / squared).clamp(-bound, bound) * slope
        u = v + TIGHTNESS * _divergence(p)
        step = STEP / TIGHTNESS * _forward(u)
        length = step.unflatten(1, (2, 2)).square().sum(1).sqrt().repeat(1, 2, 1, 1)
        p = (p + step) / (1 + length)
    return u, p


def _central(x: Tensor) -> Tensor:
    """Return slopes along x and y, edges repeated: (N, 1, h, w) -> (N, 2, h, w)."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    along_x = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    along_y = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    return torch.cat((along_x, along_y), 1) / 2


def _forward(u: Tensor) -> Tensor:
    """Return steps of both along x, then y, zero at the end: (N, 2, h, w) -> (N, 4, h, w)."""
    along_x = torch.diff(u, dim=-1, append=u[..., -1:])
    return torch.cat((along_x, torch.diff(u, dim=-2, append=u[..., -1:, :])), 1)


def _divergence(p: Tensor) -> Tensor:
    """Apply the negative transpose of `_forward`: (N, 4, h, w) -> (N, 2, h, w)."""
    along_x, along_y = p.chunk(2, 1)
    along_x = F.pad(along_x[..., :-1], (1, 1))
    along_y = F.pad(along_y[..., :-1, :], (0, 0, 1, 1))
    return torch.diff(along_x, dim=-1) + torch.diff(along_y, dim=-2)
