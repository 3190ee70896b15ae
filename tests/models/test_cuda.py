"""On a CUDA device every network does what it does on a CPU. Skipped where there is none."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stdpipe.device import autocast, pick_device
from stdpipe.models import zoo
from stdpipe.models.base import Network

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no CUDA device here"
)

EDVR = "num_feat=8,deformable_groups=2,num_frame=5,num_extract_block=1,num_reconstruct_block=1"
# of noise the flow is any, and rounding changes it
RBPN = "flow=none,num_frame=3,num_feat=16,num_base=16,num_resblock=1"
D3D = "num_feat=16,num_frame=3,num_deform_block=1,num_block=1"
NETWORKS = [
    "bicubic",
    f"edvr:{EDVR}",
    "fastdvdnet-quarter",
    "vdsr:num_layer=4",
    "vsrnet:num_frame=3",
    "vsrnet:num_frame=3,motion=flow",
    "vespcn",
    "sofvsr:num_feat=16",
    f"d3dnet:{D3D}",
    f"rbpn:{RBPN}",
    "toflow:num_frame=3,num_feat=8,num_flow_feat=4",
    "duf:num_layer=16,num_feat=8",
]


@pytest.fixture(params=NETWORKS)
def net(request: pytest.FixtureRequest, scramble: Callable[[nn.Module], nn.Module]) -> Network:
    network: Any = scramble(zoo.parse(request.param).build())
    return network.eval()  # type: ignore[no-any-return]


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def test_networks_agree(net: Network) -> None:
    """Features and image of a clip, and the gradient of its frames, as on the CPU."""
    clip = noise(1, 3, 3, 12, 16)
    found = []
    for place in ("cpu", "cuda"):
        frames = clip.clone().to(place).requires_grad_()
        features = net.to(pick_device(place)).features_clip(frames)
        (features.f_sr.square().mean() + features.sr.square().mean()).backward()
        assert frames.grad is not None
        found.append([*(x.detach().cpu() for x in features), frames.grad.cpu()])
    for mine, true in zip(found[1], found[0], strict=True):
        scale = true.abs().max().item()
        torch.testing.assert_close(mine, true, rtol=1e-3, atol=1e-3 * scale)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_networks_in_mixed_precision(net: Network, amp: str) -> None:
    """The image keeps float32, finite and near; gradients of parameters are finite."""
    device = pick_device("cuda")
    net.to(device)
    window = noise(1, net.num_frame, 3, 12, 16).to(device).requires_grad_()
    plain = net(window)
    with autocast(device, amp):
        sr = net(window)
    sr.square().mean().backward()
    assert sr.dtype == torch.float32
    assert (sr - plain).abs().max() < 0.05 * max(1.0, plain.abs().max().item())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
