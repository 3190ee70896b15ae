"""Names: BasicSR -> mmagic's and the original EDVR's, and back through to_basicsr."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stdpipe.models.edvr import EDVR
from stdpipe.models.foreign import to_basicsr

State = dict[str, Tensor]
Keys = Callable[[str], dict[str, Any]]

# BasicSR -> the original EDVR, from the published conversion's list of differences.
TO_ORIGINAL = [
    (r"^conv_l(\d)_(\d)\.", r"fea_L\1_conv\2."),
    (r"\.dcn_pack\.l(\d)\.", r".L\1_dcnpack."),
    (r"\.offset_conv(\d)\.l(\d)\.", r".L\2_offset_conv\1."),
    (r"\.feat_conv\.l(\d)\.", r".L\1_fea_conv."),
    (r"\.conv_offset\.", ".conv_offset_mask."),
    (r"^fusion\.temporal_attn1\.", "fusion.tAtt_2."),  # crosswise
    (r"^fusion\.temporal_attn2\.", "fusion.tAtt_1."),
    (r"^fusion\.feat_fusion\.", "fusion.fea_fusion."),
    (r"^fusion\.spatial_attn_add(\d)\.", r"fusion.sAtt_add_\1."),
    (r"^fusion\.spatial_attn_l(\d)\.", r"fusion.sAtt_L\1."),
    (r"^fusion\.spatial_attn(\d)\.", r"fusion.sAtt_\1."),
    (r"^fusion\.", "tsa_fusion."),
    (r"^reconstruction\.", "recon_trunk."),
    (r"^conv_hr\.", "HRconv."),
    (r"^predeblur\.conv_first\.", "pre_deblur.conv_first_1."),
    (r"^predeblur\.stride_conv_hr1\.", "pre_deblur.conv_first_2."),
    (r"^predeblur\.stride_conv_hr2\.", "pre_deblur.conv_first_3."),
    (r"^predeblur\.stride_conv_l(\d)\.", r"pre_deblur.deblur_L\1_conv."),
    (r"^predeblur\.resblock_l3\.", "pre_deblur.RB_L3_1."),
    (r"^predeblur\.resblock_l2_(\d)\.", r"pre_deblur.RB_L2_\1."),
]


def original(key: str) -> str:
    for pattern, name in TO_ORIGINAL:
        key = re.sub(pattern, name, key)
    return re.sub(
        r"^predeblur\.resblock_l1\.(\d)\.", lambda m: f"pre_deblur.RB_L1_{int(m[1]) + 1}.", key
    )


def state_of(**options: Any) -> State:
    """A small EDVR's parameters, each told from all others by its values."""
    net = EDVR(num_feat=8, num_frame=3, num_reconstruct_block=2, **options)
    return {k: torch.full_like(v, n) for n, (k, v) in enumerate(net.state_dict().items())}


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], expected[k]) for k in expected)


@pytest.mark.parametrize("size", ["M5", "L7"])
def test_from_mmagic(edvr_keys: Keys, size: str) -> None:
    """All names of mmagic's published networks, under its prefix and with its step counter."""
    values = {k: torch.tensor(n) for n, k in enumerate(edvr_keys(size))}
    theirs = {f"generator.{name}": values[k] for k, (name, _) in edvr_keys(size).items()}
    theirs["step_counter"] = torch.zeros(1)
    assert sum("pcd_alignment" in k for k in theirs) == 40  # not BasicSR's names already
    assert_same(to_basicsr(theirs), values)


@pytest.mark.parametrize(
    "options",
    [{}, {"with_tsa": False}, {"with_predeblur": True, "hr_in": True}],
    ids=["tsa", "no-tsa", "predeblur"],
)
def test_from_the_original(options: dict[str, Any]) -> None:
    """Every parameter finds back; the two temporal attentions cross over."""
    ours = state_of(**options)
    theirs = {original(k): v for k, v in ours.items()}
    assert len(theirs) == len(ours)
    assert_same(to_basicsr(theirs), ours)


def test_examples_of_the_originals_names() -> None:
    """The reverse table above is checked at its corners: names as in the original's own file."""
    known = {
        "tsa_fusion.tAtt_1.weight": "fusion.temporal_attn2.weight",
        "tsa_fusion.tAtt_2.weight": "fusion.temporal_attn1.weight",
        "pcd_align.L3_dcnpack.conv_offset_mask.bias": "pcd_align.dcn_pack.l3.conv_offset.bias",
        "pcd_align.cas_dcnpack.conv_offset_mask.bias": "pcd_align.cas_dcnpack.conv_offset.bias",
        "pcd_align.L2_offset_conv3.bias": "pcd_align.offset_conv3.l2.bias",
        "recon_trunk.9.conv1.weight": "reconstruction.9.conv1.weight",
        "fea_L3_conv2.weight": "conv_l3_2.weight",
        "HRconv.weight": "conv_hr.weight",
    }
    assert list(to_basicsr({k: torch.zeros(1) for k in known})) == list(known.values())


@pytest.mark.parametrize("prefix", ["module.", "generator.", "module.generator."])
def test_wrappers_prefixes(prefix: str) -> None:
    """DataParallel's and mmagic's wrappers leave their names in front; names inside stay."""
    ours = state_of()
    assert_same(to_basicsr({prefix + k: v for k, v in ours.items()}), ours)


def test_basicsrs_names_stay() -> None:
    """What needs no translation gets none."""
    assert_same(to_basicsr(state_of()), state_of())
