"""Our RBPN against the plain reference: same weights, same flows, same numbers."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stdpipe.models.base import window_indices
from stdpipe.models.flow import tvl1
from stdpipe.models.rbpn import RBPN

Scramble = Callable[[nn.Module, int], nn.Module]


@pytest.fixture(scope="module")
def reference(load_reference: Callable[[str], ModuleType]) -> ModuleType:
    return load_reference("rbpn")


def small(scramble: Scramble, **options: Any) -> RBPN:
    net = RBPN(num_frame=5, num_feat=8, num_base=16, num_resblock=2, **options)
    scramble(net, 0)
    return net.eval()


def frames(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def given_flows(net: RBPN, window: Tensor) -> list[Tensor]:
    middle = window.shape[1] // 2
    flows = [tvl1(window[:, middle], window[:, t]) for t in (0, 1, 3, 4)]
    return flows if net.flow == "tvl1" else [torch.zeros_like(flow) for flow in flows]


@pytest.mark.parametrize("published_head", [False, True])
@pytest.mark.parametrize("flow", ["tvl1", "none"])
def test_a_window(
    reference: ModuleType, scramble: Scramble, read_state: Any, published_head: bool, flow: str
) -> None:
    """f_sr and sr, to 1e-4 of their size; every published name is used, and no other exists.

    Not shown: a published checkpoint, none of which can be shipped here.
    """
    net = small(scramble, published_head=published_head, flow=flow)
    window = frames(2, 5, 3, 9, 11)
    state = read_state(net)
    with torch.no_grad():
        ours = net.features(window)._asdict()
        theirs = reference.rbpn(state, window, given_flows(net, window))
    for stage in ("f_sr", "sr"):
        size = float(theirs[stage].std())
        torch.testing.assert_close(ours[stage] / size, theirs[stage] / size, rtol=1e-4, atol=1e-4)
    assert state.unread() == set()


def test_a_clip(reference: ModuleType, scramble: Scramble) -> None:
    """Pairs shared between windows, edges repeated: one window after the other."""
    net = small(scramble)
    clip = frames(2, 4, 3, 8, 9)
    with torch.no_grad():
        ours = net.forward_clip(clip)
        for t, indices in enumerate(window_indices(4, 5, range(4))):
            window = clip[:, indices]
            theirs = reference.rbpn(net.state_dict(), window, given_flows(net, window))["sr"]
            size = float(theirs.std())
            torch.testing.assert_close(ours[:, t] / size, theirs / size, rtol=1e-4, atol=1e-4)


def test_gradients(reference: ModuleType, scramble: Scramble) -> None:
    """Of every parameter, in float64."""
    net = small(scramble, flow="none").double()
    window = frames(1, 5, 3, 6, 7).double()
    net(window).square().mean().backward()
    state = {k: v.detach().clone().requires_grad_() for k, v in net.state_dict().items()}
    flows = given_flows(net, window)
    reference.rbpn(state, window, flows)["sr"].square().mean().backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, state[name].grad, rtol=1e-6, atol=1e-9)
