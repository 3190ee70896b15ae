"""EDVR, the teacher: Wang et al., "EDVR: Video Restoration with Enhanced Deformable Convolutional
Networks", CVPRW 2019. Parameter names are BasicSR's, so that its published checkpoints load.

Axes: B batch, T frames of a clip, N neighbours, C = num_feat, h w LR size.
A pyramid is [L1, L2, L3], at h, h/2 and h/4.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.cache.errors import UserError
from stdpipe.models.base import Network, window_indices
from stdpipe.models.deform import DeformConvPack
from stdpipe.models.layers import (
    ResidualBlock,
    bilinear_base,
    conv3x3,
    first_step,
    leaky,
    phase_at,
    residual_blocks,
    up2,
)
from stdpipe.models.options import Positive, Scale, Window

Pyramid = list[Tensor]
LEVELS = ("l1", "l2", "l3")


def _half(conv: nn.Module, x: Tensor, reference: bool) -> Tensor:
    """Return one half of conv(cat(neighbour, reference)); the bias is in the reference's half.

    The halves add up, so each can run once a frame.
    """
    assert isinstance(conv, nn.Conv2d)
    channels = conv.in_channels // 2
    weight = conv.weight[:, channels:] if reference else conv.weight[:, :channels]
    return F.conv2d(x, weight, conv.bias if reference else None, padding=1)


class PCDAlignment(nn.Module):
    """Pyramid, cascading and deformable alignment of a neighbour to the reference (EDVR, 3.2)."""

    def __init__(self, channels: int, deformable_groups: int) -> None:
        super().__init__()
        self.offset_conv1 = nn.ModuleDict()
        self.offset_conv2 = nn.ModuleDict()
        self.offset_conv3 = nn.ModuleDict()
        self.dcn_pack = nn.ModuleDict()
        self.feat_conv = nn.ModuleDict()
        for level in reversed(LEVELS):
            coarsest = level == "l3"
            self.offset_conv1[level] = conv3x3(2 * channels, channels)
            self.offset_conv2[level] = conv3x3(channels * (1 if coarsest else 2), channels)
            self.dcn_pack[level] = DeformConvPack(channels, deformable_groups)
            if not coarsest:
                self.offset_conv3[level] = conv3x3(channels, channels)
                self.feat_conv[level] = conv3x3(2 * channels, channels)
        self.cas_offset_conv1 = conv3x3(2 * channels, channels)
        self.cas_offset_conv2 = conv3x3(channels, channels)
        self.cas_dcnpack = DeformConvPack(channels, deformable_groups)

    def halves(self, pyramid: Pyramid, reference: bool) -> list[Tensor]:
        """Return the halves of frames (B, T, C, ., .) in the first offset convolutions: as
        neighbours, or as references, which the cascade's first also needs."""
        convs = [self.offset_conv1[level] for level in LEVELS]
        if reference:
            convs, pyramid = [*convs, self.cas_offset_conv1], [*pyramid, pyramid[0]]
        lead = pyramid[0].shape[:2]
        flat = (x.flatten(0, 1) for x in pyramid)
        each = zip(convs, flat, strict=True)
        return [_half(conv, x, reference).unflatten(0, lead) for conv, x in each]

    def forward(self, neighbour: Pyramid, joint: Pyramid, cascade_half: Tensor) -> Tensor:
        """Align L1 of N neighbours: pyramids of (N, C, ., .), `joint` of both halves' sum, and
        cascade_half (N, C, h, w) -> (N, C, h, w)."""
        offset = leaky(self.offset_conv2["l3"](leaky(joint[2])))
        aligned = leaky(self.dcn_pack["l3"](neighbour[2], offset))
        for i in (1, 0):
            level = LEVELS[i]
            offset = torch.cat((leaky(joint[i]), 2 * up2(offset)), 1)  # x2 pixels, x2 offsets
            offset = leaky(self.offset_conv2[level](offset))
            offset = leaky(self.offset_conv3[level](offset))
            sampled = self.dcn_pack[level](neighbour[i], offset)
            aligned = self.feat_conv[level](torch.cat((sampled, up2(aligned)), 1))
            if i:  # no activation at L1: the cascade follows
                aligned = leaky(aligned)
        offset = leaky(_half(self.cas_offset_conv1, aligned, reference=False) + cascade_half)
        offset = leaky(self.cas_offset_conv2(offset))
        return leaky(self.cas_dcnpack(aligned, offset))


class TSAFusion(nn.Module):
    """Temporal and spatial attention over the aligned frames (EDVR, 3.3)."""

    def __init__(self, channels: int, num_frame: int) -> None:
        super().__init__()
        self.temporal_attn1 = conv3x3(channels, channels)
        self.temporal_attn2 = conv3x3(channels, channels)
        self.feat_fusion = nn.Conv2d(num_frame * channels, channels, 1)
        self.spatial_attn1 = nn.Conv2d(num_frame * channels, channels, 1)
        self.spatial_attn2 = nn.Conv2d(2 * channels, channels, 1)
        self.spatial_attn3 = conv3x3(channels, channels)
        self.spatial_attn4 = nn.Conv2d(channels, channels, 1)
        self.spatial_attn5 = conv3x3(channels, channels)
        self.spatial_attn_l1 = nn.Conv2d(channels, channels, 1)
        self.spatial_attn_l2 = conv3x3(2 * channels, channels)
        self.spatial_attn_l3 = conv3x3(channels, channels)
        self.spatial_attn_add1 = nn.Conv2d(channels, channels, 1)
        self.spatial_attn_add2 = nn.Conv2d(channels, channels, 1)

    def forward(self, aligned: Tensor, order: Sequence[int]) -> Tensor:
        """Fuse the window's distinct frames (B, N, C, h, w) -> (B, C, h, w); `order` has the index
        of the frame at each of its 2k+1 places."""
        centre = self.temporal_attn1(aligned[:, order[len(order) // 2]])
        embedding = self.temporal_attn2(aligned.flatten(0, 1)).unflatten(0, aligned.shape[:2])
        likeness = torch.sigmoid((embedding * centre[:, None]).sum(2, keepdim=True))
        weighted = _rearranged(aligned * likeness, order).flatten(1, 2)
        feat = leaky(self.feat_fusion(weighted))
        attention, add = self._spatial(weighted)
        return feat * attention * 2 + add  # * 2: near 1 when untrained

    def _spatial(self, weighted: Tensor) -> tuple[Tensor, Tensor]:
        attn = leaky(self.spatial_attn1(weighted))
        attn = leaky(self.spatial_attn2(_pool(attn)))
        coarse = leaky(self.spatial_attn_l1(attn))
        coarse = leaky(self.spatial_attn_l2(_pool(coarse)))
        coarse = up2(leaky(self.spatial_attn_l3(coarse)))
        attn = leaky(self.spatial_attn3(attn)) + coarse
        attn = up2(leaky(self.spatial_attn4(attn)))
        attn = self.spatial_attn5(attn)
        add = self.spatial_attn_add2(leaky(self.spatial_attn_add1(attn)))
        return torch.sigmoid(attn), add


def _rearranged(frames: Tensor, order: Sequence[int]) -> Tensor:
    """Return frames[:, order], (B, N, ...), without a copy where they have that order."""
    if list(order) == list(range(frames.shape[1])):
        return frames
    return frames[:, torch.tensor(order, device=frames.device)]


def _pool(x: Tensor) -> Tensor:
    """Return max and average pooling to half size, side by side."""
    return torch.cat((F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1)), 1)


class Predeblur(nn.Module):
    """A small U-Net before the pyramid, for blurred input (EDVR's deblurring tracks)."""

    def __init__(self, channels: int, hr_in: bool) -> None:
        super().__init__()
        self.hr_in = hr_in
        self.conv_first = conv3x3(3, channels)
        if hr_in:
            self.stride_conv_hr1 = conv3x3(channels, channels, stride=2)
            self.stride_conv_hr2 = conv3x3(channels, channels, stride=2)
        self.stride_conv_l2 = conv3x3(channels, channels, stride=2)
        self.stride_conv_l3 = conv3x3(channels, channels, stride=2)
        self.resblock_l3 = ResidualBlock(channels)
        self.resblock_l2_1 = ResidualBlock(channels)
        self.resblock_l2_2 = ResidualBlock(channels)
        self.resblock_l1 = residual_blocks(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, C, h, w), a quarter of that size with hr_in."""
        l1 = leaky(self.conv_first(x))
        if self.hr_in:
            l1 = leaky(self.stride_conv_hr2(leaky(self.stride_conv_hr1(l1))))
        l2 = leaky(self.stride_conv_l2(l1))
        l3 = leaky(self.stride_conv_l3(l2))
        l2 = self.resblock_l2_1(l2) + up2(self.resblock_l3(l3))
        l1 = self.resblock_l1[:2](l1) + up2(self.resblock_l2_2(l2))
        return self.resblock_l1[2:](l1)


class EDVR(Network):
    """EDVR of any size. Defaults are BasicSR's (M, 5 frames); `edvr-l` is 128 feat, 40 blocks.

    hr_in: the input has HR size already (needs with_predeblur, which shrinks it by 4). phase: where
    LR samples sit (stdpipe.data.degrade); published checkpoints have 1.5, the plain bilinear base.
    scale: 2 and 3 have one upsampling step of that size in place of two of 2.
    """

    head = ("conv_last",)

    def __init__(
        self,
        num_feat: Positive = 64,
        num_frame: Window = 5,
        deformable_groups: Positive = 8,
        num_extract_block: int = 5,
        num_reconstruct_block: int = 10,
        hr_in: bool = False,
        with_predeblur: bool = False,
        with_tsa: bool = True,
        phase: float | None = None,
        scale: Scale = 4,
    ) -> None:
        super().__init__()
        if num_feat % deformable_groups:
            raise UserError(f"EDVR's num_feat={num_feat} must be a multiple of deformable_groups")
        if hr_in and not with_predeblur:
            raise UserError("EDVR's hr_in=true needs with_predeblur=true, which shrinks the input")
        if hr_in and scale != 4:
            raise UserError(f"EDVR's hr_in=true shrinks its input by 4, and scale is {scale}")
        self.num_frame = num_frame
        self.phase = phase_at(scale, phase)
        self.hr_in = hr_in
        self.scale = 1 if hr_in else scale
        self.multiple = 16 if hr_in else 4
        self.tail = ("upconv1", "upconv2", "conv_hr")
        self.halo = 2  # of 3x3 kernels at LR, x2 and x4: 1 + 1/2 + 1/4 pixels; less at x2 and x3
        if with_predeblur:
            self.predeblur = Predeblur(num_feat, hr_in)
            self.conv_1x1 = nn.Conv2d(num_feat, num_feat, 1)
        else:
            self.conv_first = conv3x3(3, num_feat)
        self.feature_extraction = residual_blocks(num_feat, num_extract_block)
        self.conv_l2_1 = conv3x3(num_feat, num_feat, stride=2)
        self.conv_l2_2 = conv3x3(num_feat, num_feat)
        self.conv_l3_1 = conv3x3(num_feat, num_feat, stride=2)
        self.conv_l3_2 = conv3x3(num_feat, num_feat)
        self.pcd_align = PCDAlignment(num_feat, deformable_groups)
        self.fusion: nn.Module
        if with_tsa:
            self.fusion = TSAFusion(num_feat, num_frame)
        else:
            self.fusion = nn.Conv2d(num_frame * num_feat, num_feat, 1)
        self.reconstruction = residual_blocks(num_feat, num_reconstruct_block)
        if scale == 4:
            self.upconv1 = conv3x3(num_feat, 4 * num_feat)
            self.upconv2: nn.Module = conv3x3(num_feat, 4 * 64)
        else:
            self.upconv1, self.upconv2 = conv3x3(num_feat, scale**2 * 64), nn.Identity()
        self.conv_hr = conv3x3(64, 64)
        self.conv_last = conv3x3(64, 3)

    def fuse_clip(self, clip: Tensor, centres: Sequence[int]) -> Tensor:
        """Fuse windows, with each frame's pyramid and each distinct neighbour computed once."""
        batch, num_frames = clip.shape[:2]
        windows = window_indices(num_frames, self.num_frame, centres)
        pyramid = [x.unflatten(0, (batch, num_frames)) for x in self._pyramid(clip.flatten(0, 1))]
        as_neighbour = self.pcd_align.halves(pyramid, reference=False)
        at_centres = [x[:, list(centres)] for x in pyramid]
        as_reference = self.pcd_align.halves(at_centres, reference=True)
        fused = []
        for n, window in enumerate(windows):
            first, last = window[0], window[-1]
            aligned = self._align(
                [x[:, first : last + 1] for x in pyramid],
                [x[:, first : last + 1] for x in as_neighbour],
                [x[:, n : n + 1] for x in as_reference],
            )
            order = [frame - first for frame in window]
            if isinstance(self.fusion, TSAFusion):
                fused.append(self.fusion(aligned, order))
            else:
                fused.append(self.fusion(_rearranged(aligned, order).flatten(1, 2)))
        return torch.stack(fused, 1)

    def _pyramid(self, frames: Tensor) -> Pyramid:
        """Return features of frames (B, 3, h, w) at three levels; hr_in shrinks them by 4."""
        if hasattr(self, "predeblur"):
            l1 = self.conv_1x1(self.predeblur(frames))
        else:
            l1 = leaky(self.conv_first(frames))
        l1 = self.feature_extraction(l1)
        l2 = leaky(self.conv_l2_2(leaky(self.conv_l2_1(l1))))
        l3 = leaky(self.conv_l3_2(leaky(self.conv_l3_1(l2))))
        return [l1, l2, l3]

    def _align(self, neighbour: Pyramid, as_neighbour: Pyramid, as_reference: Pyramid) -> Tensor:
        """Align (B, N, C, ., .) to a reference (B, 1, C, ., .) at each level -> (B, N, C, h, w)."""
        lead = neighbour[0].shape[:2]
        *reference, cascade = (x.expand(-1, lead[1], -1, -1, -1) for x in as_reference)
        joint = [n + r for n, r in zip(as_neighbour, reference, strict=True)]
        aligned = self.pcd_align(
            [x.flatten(0, 1) for x in neighbour],
            [x.flatten(0, 1) for x in joint],
            cascade.flatten(0, 1),
        )
        return aligned.unflatten(0, lead)

    def reconstruct(self, f_lr: Tensor) -> Tensor:
        return self.reconstruction(f_lr)

    def upsample(self, trunk: Tensor) -> Tensor:
        x = leaky(F.pixel_shuffle(self.upconv1(trunk), first_step(self.factor)))
        if self.factor == 4:
            x = leaky(F.pixel_shuffle(self.upconv2(x), 2))
        return leaky(self.conv_hr(x))

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:
        base = centre if self.hr_in else bilinear_base(centre, self.phase, self.scale)
        return self.conv_last(f_sr) + base
