"""TOFlow's published names and sizes, precision and export. Its numbers: tests/parity."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stdpipe.models.base import count_parameters
from stdpipe.models.bicubic import Bicubic
from stdpipe.models.checkpoints import load_network, save_network
from stdpipe.models.macs import count_macs
from stdpipe.models.toflow import TOFlow

SMALL: dict[str, Any] = {"num_frame": 3, "num_feat": 8, "num_flow_feat": 4}
NAME = "toflow:num_frame=3,num_feat=8,num_flow_feat=4"


def published() -> dict[str, list[int]]:
    """Every name and shape of BasicSR's network, written from its tof_arch.py."""
    shapes = {"mean": [1, 3, 1, 1], "std": [1, 3, 1, 1]}
    for level in range(4):
        name = f"spynet.basic_module.{level}.basic_module"
        for i, (c_in, c_out) in enumerate([(8, 32), (32, 64), (64, 32), (32, 16)]):
            shapes[f"{name}.{3 * i}.weight"] = [c_out, c_in, 7, 7]
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{name}.{3 * i + 1}.{part}"] = [c_out]
            shapes[f"{name}.{3 * i + 1}.num_batches_tracked"] = []
        shapes |= {f"{name}.12.weight": [2, 16, 7, 7], f"{name}.12.bias": [2]}
    for n, (c_in, c_out, kernel) in enumerate([(21, 64, 9), (64, 64, 9), (64, 64, 1), (64, 3, 1)]):
        shapes[f"conv_{n + 1}.weight"] = [c_out, c_in, kernel, kernel]
        shapes[f"conv_{n + 1}.bias"] = [c_out]
    return shapes


def test_names_and_shapes_are_basicsrs() -> None:
    with torch.device("meta"):
        state = TOFlow().state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == published()


def test_sizes() -> None:
    """1.406M parameters; 0.8145 TMAC at 180 x 120, of the published layers' weights: SPyNet's four
    levels for six neighbours, the coarsest at an eighth of HR. Enlarging frames is not counted."""
    with torch.device("meta"):
        net = TOFlow()
    assert count_parameters(net) == 1_405_899
    by_hand = 0
    for name, shape in published().items():
        if len(shape) == 4 and name.endswith("weight"):
            level = re.match(r"spynet\.basic_module\.(\d)", name)
            times = 6 / 4 ** (3 - int(level[1])) if level else 1
            by_hand += int(math.prod(shape) * 720 * 480 * times)
    assert count_macs(net).total == by_hand
    assert by_hand / 1e12 == pytest.approx(0.8145, abs=5e-5)


def window(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("phase", [0.0, 1.5])
def test_adds_to_bicubic_at_its_phase(phase: float) -> None:
    """With its last convolution at zero, TOFlow shows bicubic."""
    net = TOFlow(**SMALL, phase=phase).eval()
    for parameter in net.conv_4.parameters():
        torch.nn.init.zeros_(parameter)
    frames = window(1, 3, 3, 6, 8)
    with torch.no_grad():
        padded = torch.cat((frames[..., :6, :], frames[..., 5:, :], frames[..., 5:, :]), -2)
        expected = Bicubic(phase)(padded[:, 1:2])[..., :24, :]
        torch.testing.assert_close(net(frames), expected, rtol=1e-5, atol=1e-5)


def test_under_autocast() -> None:
    """Bfloat16 within; flow and image in float32, within 1 %."""
    net = TOFlow(**SMALL).eval()
    flows: list[Tensor] = []
    net.spynet.register_forward_hook(lambda *call: flows.append(call[2]))
    frames = window(1, 3, 3, 8, 12)
    with torch.no_grad():
        full = net.features(frames)
        with torch.autocast("cpu", torch.bfloat16):
            half = net.features(frames)
    assert half.sr.dtype == flows[-1].dtype == torch.float32
    assert half.f_sr.dtype == torch.bfloat16
    assert (half.sr - full.sr).norm() < 0.01 * full.sr.norm()


@pytest.mark.slow
def test_exports_for_any_size() -> None:
    """One program, for sides that are multiples of 4; `stdpipe export` pads the others."""
    net = TOFlow(**SMALL).eval()
    sides = (4 * torch.export.Dim(side, min=2, max=128) for side in ("h", "w"))
    sizes = dict(zip((3, 4), sides, strict=True))
    frames = window(1, 3, 3, 8, 12)
    exported = torch.export.export(net, (frames,), dynamic_shapes={"window": sizes}).module()
    for other in (frames, window(1, 3, 3, 16, 20)):
        with torch.no_grad():
            torch.testing.assert_close(exported(other), net(other), rtol=1e-4, atol=1e-4)


def test_save_and_load(tmp_path: Path) -> None:
    """Our own file, and one under BasicSR's wrapping, which needs its name."""
    net = TOFlow(**SMALL).eval()
    frames = window(1, 3, 3, 4, 4)
    save_network(tmp_path / "w.pt", net, NAME, "bd")
    again, _ = load_network(None, str(tmp_path / "w.pt"))
    assert torch.equal(again.eval()(frames), net(frames))
    torch.save({"params": net.state_dict()}, tmp_path / "theirs.pth")
    theirs, _ = load_network(f"{NAME},adapt_official_weights=true", str(tmp_path / "theirs.pth"))
    assert theirs.centre_first
