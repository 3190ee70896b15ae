"""Networks at scales 2 and 3; those at scale 4 begin with the weights that they had before."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from stdpipe.cache.errors import UserError
from stdpipe.models import zoo
from stdpipe.models.base import Network, check_scale
from stdpipe.models.layers import bicubic_base, bilinear_base
from stdpipe.models.macs import count_macs
from stdpipe.models.pisr import PISR

GOLDEN = Path(__file__).with_name("golden") / "initial_weights.json"
SMALL_EDVR = "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1"
NETWORKS = {  # the base that each is added to; None where none is
    "bicubic": bicubic_base,
    SMALL_EDVR: bilinear_base,
    "fastdvdnet-eighth": bilinear_base,
    "fastdvdnet:width=0.1,waist=8": bilinear_base,
    "rrn-8": bilinear_base,
    "rrn-8:head=f_sr": bilinear_base,
    "swrn": bilinear_base,
    "rlsp": bilinear_base,
    "rlsp:published=true": None,
    "vdsr:num_layer=4": bicubic_base,
    "vsrnet:num_frame=3,motion=flow": bicubic_base,
    "vespcn": bilinear_base,
    "vespcn-deep": bilinear_base,
}


def spec(name: str, scale: int) -> zoo.Spec:
    return zoo.parse(f"{name}{',' if ':' in name else ':'}scale={scale}")


def build(name: str, scale: int, phase: float) -> Network:
    torch.manual_seed(0)
    return spec(name, scale).with_phase(phase).build().eval()


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512",
    reason="recorded on a CPU with AVX512; others draw normal numbers with another last bit",
)
def test_initial_weights_at_scale_4_are_as_ever() -> None:
    """The sha256 of each network's parameters and their names, as the last commit without scales
    drew them from seed 0."""
    found = {}
    for name in zoo.ZOO:
        torch.manual_seed(0)
        digest = hashlib.sha256()
        for key, value in zoo.parse(name).build().state_dict().items():
            digest.update(key.encode())
            digest.update(value.contiguous().numpy().tobytes())
        found[name] = digest.hexdigest()
    assert found == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_and_base(name: str, scale: int) -> None:
    """Every stage has its size, for frames that are no multiples, too; with its last convolution at
    zero, a network is its base at the degradation's phase."""
    for phase in (0.0, (scale - 1) / 2):
        net = build(name, scale, phase)
        assert (net.scale, net.factor, net.phase) == (scale, scale, phase)
        clip = torch.rand(1, 2, 3, 9, 10)
        with torch.no_grad():
            features = net.features_clip(clip)
            assert features.f_sr.shape[-2:] == (9 * scale, 10 * scale)
            assert features.f_sr.shape[2] == net.f_sr_channels
            assert features.f_lr.shape[-2:] == features.trunk.shape[-2:] == (9, 10)
            if base := NETWORKS[name]:
                for part, parameter in net.named_parameters():
                    if "conv_last" in part:
                        parameter.zero_()
                clip = torch.rand(1, 2, 3, 8, 12)  # no padding, which another border would show
                expected = base(clip.flatten(0, 1), phase, scale).unflatten(0, (1, 2))
                torch.testing.assert_close(net.features_clip(clip).sr, expected)


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("name", [SMALL_EDVR, "vespcn", "vespcn-deep"])
def test_the_halo_is_all_that_a_tail_sees(name: str, scale: int) -> None:
    """A window of the trunk with its halo gives that window of f_sr."""
    net = build(name, scale, 0.0)
    channels = net.features_clip(torch.rand(1, 1, 3, 8, 8)).trunk.shape[2]
    trunk = torch.rand(1, channels, 40, 40)
    with torch.no_grad():
        whole = net.upsample(trunk)
        low, high = 16 - net.halo, 24 + net.halo
        part = net.upsample(trunk[..., low:high, low:high])
    inner = slice(scale * net.halo, scale * (net.halo + 8))
    window = slice(scale * 16, scale * 24)
    torch.testing.assert_close(part[..., inner, inner], whole[..., window, window])


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("rrn:scale=4", "rrn"),
        ("rrn:scale=2", "rrn:scale=2"),
        ("rrn:phase=0.5,scale=2", "rrn:scale=2"),
        ("rrn:phase=1.5,scale=2", "rrn:phase=1.5,scale=2"),
        ("rrn:phase=0,scale=3", "rrn:phase=0.0,scale=3"),
        ("bicubic:scale=3", "bicubic:scale=3"),
        ("pisr:student=rrn:scale=2", "pisr:student=rrn:scale=2"),
    ],
)
def test_names(name: str, written: str) -> None:
    """The phase of a name that gives none is the middle of the LR pixel, whatever the scale."""
    found = zoo.parse(name)
    assert str(found) == written
    assert str(zoo.parse(written)) == written
    net = zoo.parse(written).build()
    assert net.factor == found.scale
    assert getattr(net, "phase", None) == found.option("phase") or isinstance(net, PISR)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sofvsr:scale=2", "sofvsr has no option 'scale'.*; bicubic, edvr, fastdvdnet, .*have it"),
        ("rrn:scale=5", "rrn: scale: Input should be 2, 3 or 4, got 5"),
        ("edvr:hr_in=true,with_predeblur=true,scale=2", "shrinks its input by 4, and scale is 2"),
    ],
)
def test_what_there_is_not(name: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        zoo.parse(name).build()


def test_a_privileged_teacher_shrinks_by_its_students_scale() -> None:
    net = zoo.parse("pisr:student=fastdvdnet-eighth:scale=3").build().eval()
    assert (net.scale, net.factor) == (1, 3)
    with torch.no_grad():
        features = net.features_clip(torch.rand(1, 2, 3, 27, 39))
    assert features.sr.shape == (1, 2, 3, 27, 39)
    assert features.f_lr.shape[-2:] == (9, 13)
    assert count_macs(net, 9, 13).total > 0


def test_scales_that_differ() -> None:
    """Both are named, and what to do."""
    check_scale(build("rrn-8", 2, 0.0), "rrn-8:scale=2", "bd:scale=2", 2)
    with pytest.raises(UserError, match=r"rrn-8 is for scale 4, and .* 'bi:scale=2' is of scale 2"):
        check_scale(zoo.parse("rrn-8").build(), "rrn-8", "bi:scale=2", 2)
