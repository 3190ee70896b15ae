"""What every student must do besides its stages: learn, be saved, export, run in half precision."""

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from torch import Tensor

from stdpipe.data.degrade import degradation, degrade
from stdpipe.distill.charbonnier import charbonnier
from stdpipe.models import zoo
from stdpipe.models.base import Network
from stdpipe.models.checkpoints import load_network, save_network
from stdpipe.models.layers import bicubic_base, bilinear_base, init_relu

SMALL_D3D = "num_feat=32,num_frame=3,num_deform_block=1,num_block=1"
STUDENTS = {  # name: what upsamples the frame that it adds to
    "fastdvdnet-quarter": bilinear_base,
    "vdsr:num_layer=6": bicubic_base,
    "vdsr:num_layer=6,channels=1": bicubic_base,
    "vsrnet:num_frame=3": bicubic_base,
    "vsrnet:num_frame=3,channels=1,motion=flow": bicubic_base,
    "vsrnet-deep:num_frame=3": bicubic_base,
    "vespcn": bilinear_base,
    "vespcn:channels=1": bilinear_base,
    "vespcn-deep": bilinear_base,
    "sofvsr:num_feat=64": bilinear_base,
    "sofvsr:num_feat=64,channels=1": bilinear_base,
    f"d3dnet:{SMALL_D3D}": bilinear_base,
    f"d3dnet:{SMALL_D3D},channels=1": bilinear_base,
}
WITH_TAIL = ["vespcn", "vespcn-deep", "sofvsr:num_feat=16", f"d3dnet:{SMALL_D3D}"]


def marked(names: Iterable[str]) -> list[Any]:
    """Deepened networks do what their published forms do, at ten times the cost."""
    deep = pytest.mark.slow
    return [pytest.param(name, marks=deep) if "-deep" in name else name for name in names]


EXPORTED = [
    "fastdvdnet-quarter",
    "vdsr:num_layer=3",
    "vdsr:num_layer=3,channels=1",
    "vsrnet:num_frame=3",
    "vsrnet:num_frame=3,channels=1,motion=flow",
    "vsrnet-deep:num_frame=3",
    "vespcn",
    "vespcn-deep:channels=1",
    "vespcn:channels=1,residual=false",
    "sofvsr:num_feat=16",
    "sofvsr:num_feat=16,channels=1",
    f"d3dnet:{SMALL_D3D}",
    f"d3dnet:{SMALL_D3D},channels=1",
]


def build(name: str, phase: float = 0.0) -> Network:
    torch.manual_seed(0)
    return zoo.parse(name).with_phase(phase).build()


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    """LR (1, 7, 3, 12, 12) and HR of a real clip that moves, under `bd`."""
    folder = files("stdpipe.assets") / "sample/sequences/00001/0005"
    frames = [iio.imread(str(folder / f"im{i}.png")) for i in range(1, 8)]
    hr = torch.from_numpy(np.stack(frames))[:, 100:148, 170:218].permute(0, 3, 1, 2)
    return degrade(hr, "bd")[None], hr[None].float() / 255


@pytest.mark.parametrize("name", marked(STUDENTS))
def test_it_begins_at_its_base_and_leaves_it(name: str, pair: tuple[Tensor, Tensor]) -> None:
    """Thirty steps at three times the paper's learning rate on one clip. That it generalises is not
    shown: benchmarks train for longer."""
    lr, hr = pair
    net = build(name, degradation("bd").phase)
    target = hr[:, 3:4]
    base = charbonnier(STUDENTS[name](lr[:, 3], net.phase), target[:, 0]).item()
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-4)
    losses = []
    for _ in range(30):
        loss = charbonnier(net.forward_clip(lr, [3]), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] < 1.02 * base
    assert losses[-1] < 0.95 * base


@pytest.mark.parametrize(
    "name",
    ["fastdvdnet-quarter", "vsrnet:num_frame=3", "vsrnet:num_frame=3,channels=1,motion=flow"],
)
def test_brightness_is_not_seen(name: str) -> None:
    """Where nothing normalises, it silenced these two: it passes by, and the image alone has it."""
    net = build(name)
    window = noise(1, net.num_frame, 3, 12, 16)
    with torch.no_grad():
        torch.testing.assert_close(net(window + 0.5), net(window) + 0.5, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "phase"),
    [
        ("fastdvdnet-quarter", 0.0),
        ("vespcn:channels=1,residual=false", 1.5),
        pytest.param("vsrnet:num_frame=3,channels=1,motion=flow", 0.0, marks=pytest.mark.slow),
        pytest.param("sofvsr:num_feat=16", 0.0, marks=pytest.mark.slow),
        pytest.param(f"d3dnet:{SMALL_D3D}", 0.0, marks=pytest.mark.slow),
    ],
)
def test_export_with_free_sizes(name: str, phase: float) -> None:
    """One exported graph gives the same numbers at another height and width (multiples of 4).

    Phase 0 is the harder one: its bilinear base, too, is made of matrices that depend on the size.
    """
    net = build(name, phase).eval()
    height, width = (4 * torch.export.Dim(side, min=2, max=500) for side in ("h", "w"))
    example = (noise(1, net.num_frame, 3, 16, 24),)
    graph = torch.export.export(net, example, dynamic_shapes=({3: height, 4: width},)).module()
    for size in ((16, 24), (20, 12)):
        window = noise(1, net.num_frame, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(graph(window), net(window), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", marked(EXPORTED))
def test_autocast(name: str) -> None:
    """In bfloat16 the image keeps float32 and most of its precision; gradients are finite."""
    net = build(name)
    window = noise(1, net.num_frame, 3, 8, 12)
    with torch.autocast("cpu", torch.bfloat16):
        features = net.features(window)
    features.sr.square().mean().backward()
    assert features.f_sr.dtype == torch.bfloat16
    assert features.sr.dtype == torch.float32
    assert (features.sr - net(window)).abs().max() < 0.02
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", marked(EXPORTED))
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    """weights.pt alone brings back the network, its options and its output."""
    net = build(name)
    save_network(tmp_path / "weights.pt", net, str(zoo.parse(name).with_phase(0.0)), "bd")
    again, _ = load_network(None, str(tmp_path / "weights.pt"))
    window = noise(1, net.num_frame, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(again(window), net(window))


@pytest.mark.parametrize("name", marked(WITH_TAIL))
def test_a_trunk_window_and_its_halo_are_enough(name: str) -> None:
    """f_sr of a window from the trunk's window and halo is the whole map's; and the halo is no
    wider than it must be.

    In float64: nineteen convolutions add up 1e-6 of float32's rounding, and what the outermost
    pixels contribute is little more. With Kaiming's weights, so that they do contribute.
    """
    net = build(name).double()
    init_relu(net)
    assert net.tail
    with torch.no_grad():
        trunk = net.features(noise(1, net.num_frame, 3, 20, 20).double()).trunk
        whole = net.upsample(trunk)[..., 32:48, 32:48]
        for halo in range(net.halo + 1):
            near = slice(8 - halo, 12 + halo)
            f_sr = net.upsample(trunk[..., near, near])[..., 4 * halo :, 4 * halo :][..., :16, :16]
            same = torch.allclose(f_sr, whole, rtol=1e-12, atol=1e-14)
            assert same == (halo == net.halo), halo


def test_tail_names_what_upsample_runs() -> None:
    """With every other parameter on the meta device, `upsample` still runs."""
    for name in WITH_TAIL:
        net = build(name)
        channels = net.features(noise(1, net.num_frame, 3, 8, 8)).trunk.shape[1]
        for child in (n for n, _ in net.named_children()):
            if child not in net.tail:
                getattr(net, child).to("meta")
        assert net.upsample(noise(1, channels, 4, 4)).shape[1:] == (net.f_sr_channels, 16, 16)


MISTAKES = {
    "vdsr:channels=2": "vdsr: channels: .* 1 or 3, got 2",
    "vdsr:num_layer=1": "num_layer: .* 2, got 1",
    "vsrnet:num_frame=4": "vsrnet: num_frame .* odd .* got 4",
    "vsrnet:motion=flwo": "motion: .* 'none' or 'flow', got 'flwo'",
    "vespcn:form=depe": "form: .* 'published' or 'deep', got 'depe'",
    "vespcn:num_frame=1": "num_frame .* odd",
    "sofvsr:num_feat=5": "num_feat: .* multiple of 2, got 5",
    "fastdvdnet:norm=layer": "norm: .* 'none' or 'batch', got 'layer'",
    "duf:num_layer=50": "num_layer: .* 16, 28 or 52, got 50",
    "rbpn:flow=pyflow": "flow: .* 'tvl1' or 'none', got 'pyflow'",
    "toflow:num_frame=4": "num_frame .* odd",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str) -> None:
    with pytest.raises(ValueError, match=MISTAKES[name]):
        build(name)
