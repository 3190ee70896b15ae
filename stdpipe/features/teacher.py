"""The teacher on clips: what it is shown of a view, and all its features of it.

Axes: T frames of a clip, C channels, H W HR size, h w LR size.
"""

import torch
from torch import Tensor

from stdpipe.data.samples import view_hr, view_pair
from stdpipe.data.views import View
from stdpipe.device import autocast
from stdpipe.models.base import Features, Network


def seen_frames(teacher: Network, hr: Tensor, view: View, degradation_name: str) -> Tensor:
    """What the teacher is shown of a view: LR (T, 3, h, w), or HR (T, 3, H, W) if it is privileged;
    float32 in [0, 1]."""
    if teacher.sees_hr:
        return view_hr(hr, view).float() / 255
    return view_pair(hr, view, degradation_name)[1]


@torch.inference_mode()
def group_features(
    teacher: Network, seen: list[Tensor], device: torch.device, amp: str
) -> list[Features]:
    """All features of some clips' frames (T, 3, ., .), as seen_frames has them, those of one size
    at once: each (T, C, ., .)."""
    found: dict[int, Features] = {}
    for shape in dict.fromkeys(clip.shape for clip in seen):
        alike = [i for i, clip in enumerate(seen) if clip.shape == shape]
        with autocast(device, amp):
            batch = teacher.features_clip(
                torch.stack([seen[i].to(device, non_blocking=True) for i in alike])
            )
        found |= {i: Features(*(x[n] for x in batch)) for n, i in enumerate(alike)}
    return [found[i] for i in range(len(seen))]


def teacher_features(teacher: Network, seen: Tensor, device: torch.device, amp: str) -> Features:
    """All features of one clip's frames: each (T, C, ., .)."""
    return group_features(teacher, [seen], device, amp)[0]
