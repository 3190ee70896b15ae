"""Our TOFlow against the plain reference: same weights, frames enlarged beforehand."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stdpipe.models.base import pad_to_multiple, window_indices
from stdpipe.models.bicubic import Bicubic
from stdpipe.models.toflow import TOFlow

Scramble = Callable[[nn.Module, int], nn.Module]


@pytest.fixture(scope="module")
def reference(load_reference: Callable[[str], ModuleType]) -> ModuleType:
    return load_reference("toflow")


def enlarged(lr: Tensor, phase: float) -> Tensor:
    """(B, T, 3, h, w) -> (B, T, 3, 4h, 4w), by bicubic."""
    out: Tensor = Bicubic(phase)(lr.flatten(0, 1)[:, None]).unflatten(0, lr.shape[:2])
    return out


@pytest.mark.parametrize("official", [False, True])
def test_a_clip(reference: ModuleType, scramble: Scramble, read_state: Any, official: bool) -> None:
    """Every window of a clip, whose width is padded to 4s: f_sr and sr; every name is used.

    Not shown: a published checkpoint, none of which can be shipped here.
    """
    net = TOFlow(num_frame=5, num_feat=8, num_flow_feat=6, adapt_official_weights=official, phase=0)
    scramble(net, 0)
    net.eval()
    clip = torch.rand(2, 3, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    state = read_state(net)
    flows = []
    net.spynet.register_forward_hook(lambda *call: flows.append(call[2]))
    with torch.no_grad():
        ours = net.features_clip(clip)._asdict()
        frames = enlarged(pad_to_multiple(clip, 4), 0.0)
        for t, window in enumerate(window_indices(3, 5, range(3))):
            theirs = reference.toflow(state, frames[:, window], official)
            for stage in ("f_sr", "sr"):
                cut = theirs[stage][..., :40]
                torch.testing.assert_close(ours[stage][:, t], cut, rtol=1e-4, atol=1e-4)
    assert state.unread() == set()
    assert torch.stack(flows).abs().quantile(0.9) > 1  # frames were really moved


def test_each_pair_is_aligned_once(scramble: Scramble) -> None:
    """Seven frames have 42 pairs of a centre and a neighbour in its window, 32 of them distinct."""
    net = scramble(TOFlow(num_feat=4, num_flow_feat=2), 0).eval()
    calls = []
    net.get_submodule("spynet").register_forward_hook(lambda *call: calls.append(call))
    with torch.no_grad():
        net.forward_clip(torch.rand(1, 7, 3, 4, 4))  # type: ignore[operator]
    assert len(calls) == 32
