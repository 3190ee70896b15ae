"""VSRNet against the published layers, written out frame by frame."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from stdpipe.models.base import count_parameters
from stdpipe.models.bicubic import Bicubic
from stdpipe.models.luma import luma
from stdpipe.models.macs import count_macs
from stdpipe.models.vsrnet import VSRNet

HR = 720 * 480


@pytest.mark.parametrize(
    ("num_frame", "channels", "parameters", "tmac"),
    [(5, 1, 272_577, 0.098), (7, 1, 380_225, 0.137), (7, 3, 423_299, 0.162)],
)
def test_layers_are_the_published(
    num_frame: int, channels: int, parameters: int, tmac: float
) -> None:
    """9x9 to 64, shared by frames equally far from the centre; 5x5 to 32; 5x5."""
    with torch.device("meta"):
        net = VSRNet(num_frame, channels)
    first = (64, channels, 9, 9)
    shapes = [*[first] * (num_frame // 2 + 1), (32, 64 * num_frame, 5, 5), (channels, 32, 5, 5)]
    assert [tuple(p.shape) for p in net.parameters() if p.ndim == 4] == shapes
    assert count_parameters(net) == parameters
    by_hand = 25 * 32 * (64 * num_frame + channels) + num_frame * 64 * channels * 81
    assert count_macs(net) == (by_hand * HR, 0, 0)
    assert by_hand * HR / 1e12 == pytest.approx(tmac, abs=5e-4)


def test_the_deep_form_costs_what_the_paper_says() -> None:
    """0.23 TMAC with a 64-channel F^SR: VDSR's layers over seven frames."""
    with torch.device("meta"):
        net = VSRNet(form="deep")
    assert net.f_sr_channels == 64
    assert count_parameters(net) == 668_227 + 6 * 3 * 64 * 9
    assert count_macs(net).total / 1e12 == pytest.approx(0.23, abs=5e-3)


def published(state: dict[str, torch.Tensor], y: torch.Tensor) -> torch.Tensor:
    """Five upsampled Y frames (B, 5, 1, H, W) -> Y of the centre."""
    filters = [0, 1, 2, 1, 0]  # from the outermost frames inwards
    maps = [
        F.conv2d(y[:, i], state[f"merge.conv1.{2 - f}.weight"], state[f"merge.conv1.{2 - f}.bias"],
                 padding=4)
        for i, f in enumerate(filters)
    ]  # fmt: skip
    x = F.relu(torch.cat(maps, 1))
    x = F.relu(F.conv2d(x, state["merge.conv2.weight"], state["merge.conv2.bias"], padding=2))
    return F.conv2d(x, state["conv_last.weight"], state["conv_last.bias"], padding=2)


def test_parity() -> None:
    """The whole image, not a residual, is what the published network predicts."""
    net = VSRNet(5, channels=1, residual=False)
    window = torch.rand(2, 5, 3, 6, 5)
    up = torch.stack([Bicubic()(window[:, i : i + 1]) for i in range(5)], 1)
    sr = net(window)
    torch.testing.assert_close(luma(sr), published(net.state_dict(), luma(up)))
    chroma = sr - up[:, 2]  # the same in all channels: only Y changed
    torch.testing.assert_close(chroma, chroma[:, :1].expand_as(chroma))


def test_motion_moves_frames_at_hr() -> None:
    """With a flow of one LR pixel to the right everywhere, neighbours that were shifted by it enter
    as copies of the centre: equal to a window that stood still."""
    net: Any = VSRNet(3, motion="flow")

    def right(neighbour: torch.Tensor, _centre: torch.Tensor) -> torch.Tensor:
        flow = torch.zeros(len(neighbour), 2, *neighbour.shape[-2:])
        flow[:, 0] = 1
        return flow

    frame = torch.rand(1, 3, 8, 12)
    moved = frame.roll(1, -1)
    still: Any = VSRNet(3)
    still.load_state_dict({k: v for k, v in net.state_dict().items() if "flow" not in k})
    net.flow.forward = right
    seen = net.upsample(net.fuse(torch.stack((moved, frame, moved), 1)))
    expected = still.upsample(still.fuse(torch.stack((frame, frame, frame), 1)))
    inside = (..., slice(8, -8), slice(12, -16))  # away from what rolled around
    torch.testing.assert_close(seen[inside], expected[inside], rtol=1e-4, atol=1e-5)
