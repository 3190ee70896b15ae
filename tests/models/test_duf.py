"""VSR-DUF's published names and sizes, its filters, precision and export. Numbers: tests/parity."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stdpipe.models.base import count_parameters
from stdpipe.models.checkpoints import load_network, save_network
from stdpipe.models.duf import DUF
from stdpipe.models.macs import count_macs


def dense(name: str, channels: int, grown: int) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    for norm in (0, 3):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{norm}.{part}"] = [channels]
        shapes[f"{name}.{norm}.num_batches_tracked"] = []
    for n, out, kernel in ((2, channels, 1), (5, grown, 3)):
        shapes[f"{name}.{n}.weight"] = [out, channels, kernel, kernel, kernel]
        shapes[f"{name}.{n}.bias"] = [out]
    return shapes


def published(blocks: int, grown: int) -> dict[str, list[int]]:
    """Every name and shape of BasicSR's network, written from its duf_arch.py."""
    shapes = {"conv3d1.weight": [64, 3, 1, 3, 3], "conv3d1.bias": [64]}
    for i in range(blocks):
        shapes |= dense(f"dense_block1.dense_blocks.{i}", 64 + i * grown, grown)
    wide = 64 + blocks * grown
    for i in range(3):
        shapes |= dense(f"dense_block2.temporal_reduce{i + 1}", wide + i * grown, grown)
    wide += 3 * grown
    shapes |= {f"bn3d2.{p}": [wide] for p in ("weight", "bias", "running_mean", "running_var")}
    shapes |= {"bn3d2.num_batches_tracked": []}
    for name, c_in, c_out, kernel in (
        ("conv3d2", wide, 256, (1, 3, 3)),
        ("conv3d_r1", 256, 256, (1, 1, 1)),
        ("conv3d_r2", 256, 48, (1, 1, 1)),
        ("conv3d_f1", 256, 512, (1, 1, 1)),
        ("conv3d_f2", 512, 400, (1, 1, 1)),
    ):
        shapes[f"{name}.weight"] = [c_out, c_in, *kernel]
        shapes[f"{name}.bias"] = [c_out]
    return shapes


@pytest.mark.parametrize(("num_layer", "blocks", "grown"), [(16, 3, 32), (28, 9, 16), (52, 21, 16)])
def test_names_and_shapes_are_basicsrs(num_layer: int, blocks: int, grown: int) -> None:
    with torch.device("meta"):
        state = DUF(num_layer).state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == published(blocks, grown)


def frames_of(name: str) -> int:
    """In a published layer's result: seven, until each 3x3x3 of the reduction takes two away."""
    if not name.startswith("dense_block2"):
        return 7 if name.startswith(("conv3d1", "dense_block1")) else 1
    reduction, layer = int(name.split("temporal_reduce")[1][0]), int(name.split(".")[2])
    return 7 - 2 * (reduction - (layer == 2))


def test_sizes() -> None:
    """52 layers: 5.82M parameters, 0.617 TMAC at 180 x 120, of the published layers' weights."""
    with torch.device("meta"):
        net = DUF()
    assert count_parameters(net) == 5_821_952
    weights = {k: math.prod(shape) for k, shape in published(21, 16).items() if len(shape) == 5}
    by_hand = sum(n * frames_of(name) for name, n in weights.items()) * 180 * 120
    assert count_macs(net).total == by_hand
    assert by_hand / 1e12 == pytest.approx(0.6172, abs=5e-5)


def small(num_layer: int = 16) -> DUF:
    return DUF(num_layer, num_feat=8).eval()


def frames(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_filters() -> None:
    """Taps are shares that sum to 1; all on the middle pixel, they enlarge by repeating it."""
    net, window = small(), frames(1, 7, 3, 6, 7)
    with torch.no_grad():
        f_sr = net.features(window).f_sr
    torch.testing.assert_close(f_sr[:, :25].sum(1), torch.ones(1, 24, 28))
    assert f_sr[:, :25].min() >= 0
    middle = torch.zeros_like(f_sr)
    middle[:, 12] = 1
    repeated = F.interpolate(window[:, 3], scale_factor=4, mode="nearest")
    torch.testing.assert_close(net.to_rgb(middle, window[:, 3]), repeated)


def test_under_autocast() -> None:
    """Bfloat16 within; filters and image in float32, within 1 %."""
    net, window = small(), frames(1, 7, 3, 6, 7)
    with torch.no_grad():
        full = net(window)
        with torch.autocast("cpu", torch.bfloat16):
            half = net.features(window)
    assert half.trunk.dtype == torch.bfloat16
    assert half.f_sr.dtype == half.sr.dtype == torch.float32
    torch.testing.assert_close(half.f_sr[:, :25].sum(1), torch.ones(1, 24, 28))
    assert (half.sr - full).norm() < 0.01 * full.norm()


@pytest.mark.slow
def test_exports_for_any_size() -> None:
    """One program, other sizes than it was exported with."""
    net, window = small(), frames(1, 7, 3, 6, 7)
    sizes = {3: torch.export.Dim("h", min=4, max=512), 4: torch.export.Dim("w", min=4, max=512)}
    exported = torch.export.export(net, (window,), dynamic_shapes={"window": sizes}).module()
    for other in (window, frames(1, 7, 3, 9, 5)):
        with torch.no_grad():
            torch.testing.assert_close(exported(other), net(other), rtol=1e-4, atol=1e-4)


def test_save_and_load(tmp_path: Path) -> None:
    """Our own file, and one under BasicSR's wrapping, which needs its name."""
    net, window = small(), frames(1, 7, 3, 4, 5)
    save_network(tmp_path / "w.pt", net, "duf:num_layer=16,num_feat=8", "bd")
    again, _ = load_network(None, str(tmp_path / "w.pt"))
    assert torch.equal(again.eval()(window), net(window))
    torch.save({"params": net.state_dict()}, tmp_path / "theirs.pth")
    name = "duf:num_layer=16,num_feat=8,adapt_official_weights=true"
    theirs, _ = load_network(name, str(tmp_path / "theirs.pth"))
    norms = [m for m in theirs.modules() if isinstance(m, torch.nn.BatchNorm3d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 1e-3)}
