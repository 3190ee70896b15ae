"""Other people's names for EDVR's parameters -> BasicSR's, which are ours.

The other networks have one published naming each, which is theirs here too: RBPN the original's,
TOFlow and DUF BasicSR's. Of those only a wrapper's prefix is dropped.
Sources: mmagic's editors/edvr/edvr_net.py; BasicSR's scripts/model_conversion/convert_models.py for
the original xinntao/EDVR, whose two temporal attentions are named crosswise.
"""

import re

from torch import Tensor

State = dict[str, Tensor]
PREFIX = re.compile(r"^(module\.|generator\.|generator_ema\.)+")

MMAGIC = [
    (r"\.conv\.(weight|bias)$", r".\1"),  # its ConvModule holds the convolution
    (r"^pcd_alignment\.", "pcd_align."),
    (r"^feat_l(\d)_conv(\d)\.", r"conv_l\1_\2."),
    (r"^upsample(\d)\.upsample_conv\.", r"upconv\1."),
]

ORIGINAL = [
    (r"^pre_deblur\.conv_first_1\.", "predeblur.conv_first."),
    (r"^pre_deblur\.conv_first_2\.", "predeblur.stride_conv_hr1."),
    (r"^pre_deblur\.conv_first_3\.", "predeblur.stride_conv_hr2."),
    (r"^pre_deblur\.deblur_L(\d)_conv\.", r"predeblur.stride_conv_l\1."),
    (r"^pre_deblur\.RB_L3_1\.", "predeblur.resblock_l3."),
    (r"^pre_deblur\.RB_L2_(\d)\.", r"predeblur.resblock_l2_\1."),
    (r"^pre_deblur\.RB_L1_1\.", "predeblur.resblock_l1.0."),
    (r"^pre_deblur\.RB_L1_2\.", "predeblur.resblock_l1.1."),
    (r"^pre_deblur\.RB_L1_3\.", "predeblur.resblock_l1.2."),
    (r"^pre_deblur\.RB_L1_4\.", "predeblur.resblock_l1.3."),
    (r"^pre_deblur\.RB_L1_5\.", "predeblur.resblock_l1.4."),
    (r"^pre_deblur\.", "predeblur."),
    (r"^fea_L(\d)_conv(\d)\.", r"conv_l\1_\2."),
    (r"^pcd_align\.L(\d)_dcnpack\.", r"pcd_align.dcn_pack.l\1."),
    (r"^pcd_align\.L(\d)_offset_conv(\d)\.", r"pcd_align.offset_conv\2.l\1."),
    (r"^pcd_align\.L(\d)_fea_conv\.", r"pcd_align.feat_conv.l\1."),
    (r"\.conv_offset_mask\.", ".conv_offset."),
    (r"^tsa_fusion\.tAtt_2\.", "fusion.temporal_attn1."),
    (r"^tsa_fusion\.tAtt_1\.", "fusion.temporal_attn2."),
    (r"^tsa_fusion\.fea_fusion\.", "fusion.feat_fusion."),
    (r"^tsa_fusion\.sAtt_add_(\d)\.", r"fusion.spatial_attn_add\1."),
    (r"^tsa_fusion\.sAtt_L(\d)\.", r"fusion.spatial_attn_l\1."),
    (r"^tsa_fusion\.sAtt_(\d)\.", r"fusion.spatial_attn\1."),
    (r"^tsa_fusion\.", "fusion."),
    (r"^recon_trunk\.", "reconstruction."),
    (r"^HRconv\.", "conv_hr."),
]


def to_basicsr(state: State) -> State:
    """Drop wrappers' prefixes; where the names are mmagic's or the original EDVR's, translate."""
    state = {PREFIX.sub("", k): v for k, v in state.items()}
    state.pop("step_counter", None)
    if any(k.startswith("pcd_alignment.") for k in state):
        return {_rename(k, MMAGIC): v for k, v in state.items()}
    if any(k.startswith("recon_trunk.") for k in state):
        return {_rename(k, ORIGINAL): v for k, v in state.items()}
    return state


def _rename(key: str, table: list[tuple[str, str]]) -> str:
    for pattern, replacement in table:
        key = re.sub(pattern, replacement, key)
    return key
