"""EDVR's parameters, its sizes and what it refuses. Its numbers: tests/parity/test_edvr.py."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from stdpipe.models.base import count_parameters
from stdpipe.models.edvr import EDVR
from stdpipe.models.macs import count_macs

M5: dict[str, Any] = {}
L7 = {"num_feat": 128, "num_frame": 7, "num_reconstruct_block": 40}


@pytest.mark.parametrize(("size", "options"), [("M5", M5), ("L7", L7)])
def test_names_and_shapes_are_basicsrs(
    edvr_keys: Callable[[str], dict[str, Any]], size: str, options: dict[str, Any]
) -> None:
    """Every key and shape of the published files, none more, none less."""
    with torch.device("meta"):
        state = EDVR(**options).state_dict()
    published = {name: shape for name, (_, shape) in edvr_keys(size).items()}
    assert {name: list(value.shape) for name, value in state.items()} == published


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        (M5, 3_300_131),
        ({"num_frame": 7}, 3_316_515),
        ({"num_frame": 7, "with_tsa": False}, 3_004_451),
        (L7, 20_699_363),
    ],
)
def test_number_of_parameters(options: dict[str, Any], parameters: int) -> None:
    """Those of BasicSR's networks, counted there."""
    with torch.device("meta"):
        assert count_parameters(EDVR(**options)) == parameters


def share_of_lr(name: str) -> float:
    """Pixels that a published layer's result has, as a share of LR's."""
    levels = {
        "conv_l2": 1 / 4, "conv_l3": 1 / 16, ".l2.": 1 / 4, ".l3.": 1 / 16, "upconv2": 4,
        "conv_hr": 16, "conv_last": 16, "spatial_attn2": 1 / 4, "spatial_attn3": 1 / 4,
        "spatial_attn4": 1 / 4, "attn_l1": 1 / 4, "attn_l2": 1 / 16, "attn_l3": 1 / 16,
    }  # fmt: skip
    return next((share for part, share in levels.items() if part in name), 1)


def times(name: str, num_frame: int) -> int:
    """How often a published layer runs in a window: before the fusion, for each frame."""
    behind = ("fusion.", "reconstruction.", "upconv", "conv_hr", "conv_last")
    each = not name.startswith(behind) or "temporal_attn2" in name
    return num_frame if each else 1


@pytest.mark.parametrize(("size", "options", "tmac"), [("M5", M5, 0.183), ("L7", L7, 0.985)])
def test_macs_by_hand(
    edvr_keys: Callable[[str], dict[str, Any]], size: str, options: dict[str, Any], tmac: float
) -> None:
    """Of the published files' weights, at 180 x 120; ours are fewer by the reference's half of the
    first offset convolutions, run once instead of for every neighbour."""
    num_frame = options.get("num_frame", 5)
    pixels = {k: share_of_lr(k) * 180 * 120 for k in edvr_keys(size)}
    weights = {k: math.prod(v) for k, (_, v) in edvr_keys(size).items() if k.endswith("weight")}
    by_hand = {k: n * pixels[k] * times(k, num_frame) for k, n in weights.items()}
    firsts = [k for k in weights if "offset_conv1" in k]
    saved = sum(weights[k] / 2 * pixels[k] * (num_frame - 1) for k in firsts)
    deformable = sum(n for k, n in by_hand.items() if re.search(r"dcn_?pack(\.l\d)?\.weight", k))
    assert len(firsts) == 4
    assert sum(by_hand.values()) / 1e12 == pytest.approx(tmac, abs=5e-4)
    with torch.device("meta"):
        macs = count_macs(EDVR(**options))
    assert macs.deformable == deformable
    assert macs.total == sum(by_hand.values()) - saved


def test_predeblur_takes_hr_input() -> None:
    """With hr_in the output has the input's size, and f_sr too; 20 x 36 is padded to 16s.

    Not shown: equality with the published deblurring networks, which need their checkpoints.
    """
    net = EDVR(num_feat=8, num_frame=3, num_reconstruct_block=1, hr_in=True, with_predeblur=True)
    clip = torch.rand(1, 2, 3, 20, 36)
    with torch.no_grad():
        features = net.features_clip(clip)
        window = net(clip[:, [0, 0, 1]])
    assert features.sr.shape == (1, 2, 3, 20, 36)
    assert features.f_sr.shape == (1, 2, 64, 20, 36)
    assert features.f_lr.shape == (1, 2, 8, 5, 9)
    torch.testing.assert_close(features.sr[:, 0], window, rtol=1e-5, atol=1e-5)


def test_under_autocast(scramble: Callable[[nn.Module], nn.Module]) -> None:
    """Bfloat16 within; the image in float32, within 1 %; gradients are finite. Offsets are in."""
    net = EDVR(num_feat=16, num_frame=3, num_extract_block=1, num_reconstruct_block=1)
    scramble(net)
    window = torch.rand(1, 3, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    full = net.features(window)
    with torch.autocast("cpu", torch.bfloat16):
        half = net.features(window)
    assert half.f_sr.dtype == torch.bfloat16
    assert half.sr.dtype == torch.float32
    assert (half.sr - full.sr).norm() < 0.01 * full.sr.norm()
    half.sr.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_feat": 12}, "multiple of deformable_groups"),
        ({"hr_in": True}, "with_predeblur=true"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], told: str) -> None:
    """Contradictions fail at once, and name what to change."""
    with pytest.raises(ValueError, match=told):
        EDVR(**options)


def test_starts_as_a_bilinear_upsampler_at_its_phase() -> None:
    """Untrained, with its last convolution at zero, EDVR shows its base: the ramp under `bd`."""
    net = EDVR(num_feat=8, num_frame=3, num_reconstruct_block=1, phase=0.0)
    for parameter in net.conv_last.parameters():
        torch.nn.init.zeros_(parameter)
    ramp = (4 * torch.arange(8.0) / 32).expand(1, 3, 3, 8, 8)
    with torch.no_grad():
        sr = net(ramp)
    expected = (torch.arange(29.0) / 32).expand(1, 3, 32, 29)  # beyond 28 there is no sample
    torch.testing.assert_close(sr[..., :29], expected, rtol=0, atol=1e-6)
