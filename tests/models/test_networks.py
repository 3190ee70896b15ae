"""What every network promises: stages, sizes, clips as windows.

EDVR's sharing of work between windows is held against a reference in tests/parity.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stdpipe.models.base import (
    Network,
    pad_to_multiple,
    window_indices,
)
from stdpipe.models.bicubic import Bicubic
from stdpipe.models.d3dnet import D3DNet
from stdpipe.models.duf import DUF
from stdpipe.models.edvr import EDVR
from stdpipe.models.fastdvdnet import FastDVDnet
from stdpipe.models.rbpn import RBPN
from stdpipe.models.sofvsr import SOFVSR
from stdpipe.models.toflow import TOFlow
from stdpipe.models.vdsr import VDSR
from stdpipe.models.vespcn import VESPCN
from stdpipe.models.vsrnet import VSRNet

SMALL: dict[str, Any] = {
    "num_feat": 8,
    "num_frame": 5,
    "num_extract_block": 1,
    "num_reconstruct_block": 1,
}
SMALL_RBPN: dict[str, Any] = {"num_frame": 5, "num_feat": 8, "num_base": 8, "num_resblock": 1}
SMALL_TOFLOW: dict[str, Any] = {"num_frame": 3, "num_feat": 8, "num_flow_feat": 4}
NETWORKS: dict[str, Callable[[], Network]] = {
    "bicubic": Bicubic,
    "bicubic-phase-0": lambda: Bicubic(phase=0.0),
    "edvr": lambda: EDVR(**SMALL),
    "edvr-without-tsa": lambda: EDVR(**SMALL, with_tsa=False),
    "fastdvdnet": lambda: FastDVDnet(waist=16, phase=0.0),
    "fastdvdnet-batch": lambda: FastDVDnet(waist=16, norm="batch"),
    "vdsr": lambda: VDSR(num_feat=8, num_layer=4),
    "vdsr-y": lambda: VDSR(num_feat=8, num_layer=4, channels=1, phase=0.0),
    "vsrnet": lambda: VSRNet(num_frame=5),
    "vsrnet-y-flow": lambda: VSRNet(num_frame=5, channels=1, motion="flow", phase=0.0),
    "vsrnet-deep": lambda: VSRNet(num_frame=3, form="deep"),
    "vespcn": VESPCN,
    "vespcn-deep": lambda: VESPCN(form="deep"),
    "vespcn-y": lambda: VESPCN(num_frame=5, channels=1, residual=False),
    "sofvsr": lambda: SOFVSR(num_feat=16),
    "sofvsr-y": lambda: SOFVSR(num_feat=16, num_frame=5, channels=1, phase=0.0),
    "d3dnet": lambda: D3DNet(num_feat=8, num_frame=5, num_deform_block=2, num_block=1),
    "d3dnet-y": lambda: D3DNet(8, num_frame=3, num_deform_block=1, num_block=1, channels=1),
    "rbpn": lambda: RBPN(**SMALL_RBPN),
    "rbpn-published": lambda: RBPN(**SMALL_RBPN, published_head=True),
    "toflow": lambda: TOFlow(**SMALL_TOFLOW, phase=0.0),
    "toflow-official": lambda: TOFlow(**SMALL_TOFLOW, adapt_official_weights=True),
    "duf": lambda: DUF(num_layer=16, num_feat=8),
}


SLOW = ("vsrnet-deep", "vespcn-deep", "rbpn-published", "toflow-official", "fastdvdnet-batch")


def slow_or_not(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name


@pytest.fixture(params=map(slow_or_not, NETWORKS))
def net(request: pytest.FixtureRequest, scramble: Callable[[nn.Module], nn.Module]) -> Network:
    network: Any = scramble(NETWORKS[request.param]())
    return network.eval()  # type: ignore[no-any-return]


def clip(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("batch", [1, 2])
def test_a_clip_is_its_windows(net: Network, batch: int) -> None:
    """forward_clip == forward on each window, edges repeated, for sizes that are not 4's."""
    frames = clip(batch, 4, 3, 18, 22)
    with torch.no_grad():
        together = net.forward_clip(frames)
        windows = window_indices(4, net.num_frame, range(4))
        one_by_one = torch.stack([net(frames[:, w]) for w in windows], 1)
    assert together.shape == (batch, 4, 3, 72, 88)
    torch.testing.assert_close(together, one_by_one, rtol=1e-5, atol=1e-5)


def test_some_centres(net: Network) -> None:
    """Asking for some centres, in any order, gives those frames of the whole."""
    frames = clip(1, 5, 3, 8, 8)
    with torch.no_grad():
        some, all_of_them = net.forward_clip(frames, [3, 0]), net.forward_clip(frames)
    torch.testing.assert_close(some, all_of_them[:, [3, 0]], rtol=1e-5, atol=1e-5)


def test_batch_entries_do_not_touch(net: Network) -> None:
    """A clip's result is the same whatever lies beside it in the batch (norms at evaluation)."""
    frames = clip(2, 3, 3, 8, 12)
    with torch.no_grad():
        both, first = net.forward_clip(frames), net.forward_clip(frames[:1])
    torch.testing.assert_close(both[:1], first, rtol=1e-5, atol=1e-5)


def test_stages_have_their_sizes(net: Network) -> None:
    """f_lr and trunk at LR, f_sr and sr at HR, padding cut from all; and they are each other's."""
    frames = clip(2, 3, 3, 10, 14)
    with torch.no_grad():
        stages = net.features_clip(frames)
        assert stages.f_lr.shape[:2] == stages.trunk.shape[:2] == (2, 3)
        assert stages.f_lr.shape[3:] == stages.trunk.shape[3:] == (10, 14)
        assert stages.f_sr.shape == (2, 3, net.f_sr_channels, 40, 56)
        assert stages.sr.shape == (2, 3, 3, 40, 56)
        window = frames[:, window_indices(3, net.num_frame, [1])[0]]
        for whole, single in zip(stages, net.features(window), strict=True):
            torch.testing.assert_close(whole[:, 1], single, rtol=1e-5, atol=1e-5)


def test_same_twice(net: Network) -> None:
    """Bit for bit the same on one machine with one thread."""
    frames = clip(1, 3, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(net.forward_clip(frames), net.forward_clip(frames))


def test_gradients_reach_every_parameter(net: Network) -> None:
    """No layer lies beside the path from LR to SR; and they reach the input."""
    frames = clip(2, 3, 3, 8, 8).requires_grad_()
    net.train().forward_clip(frames).square().mean().backward()
    for name, parameter in (*net.named_parameters(), ("input", frames)):
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("name", ["edvr", "fastdvdnet"])
def test_f_sr_is_what_the_last_convolution_sees(
    name: str, scramble: Callable[[nn.Module], nn.Module]
) -> None:
    """F^SR is the input of conv_last, after the activation, not changed in place afterwards."""
    net: Any = scramble(NETWORKS[name]())
    seen: list[Tensor] = []
    net.conv_last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        f_sr = net.features(clip(1, net.num_frame, 3, 8, 8)).f_sr
    assert torch.equal(f_sr, seen[0])
    assert (f_sr < 0).any()  # LeakyReLU's, where a ReLU would show none


def test_window_indices() -> None:
    """Edges repeat, also where the clip is shorter than a window."""
    assert window_indices(4, 5, [0, 2]) == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 3]]
    assert window_indices(1, 3, [0]) == [[0, 0, 0]]


def test_padding_repeats_right_and_bottom_edges() -> None:
    """And leaves alone what fits, whatever axes lead."""
    x = torch.arange(6.0).reshape(1, 1, 1, 2, 3)
    padded = pad_to_multiple(x, 4)
    assert padded.shape == (1, 1, 1, 4, 4)
    assert padded[0, 0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    assert pad_to_multiple(x, 1) is x
