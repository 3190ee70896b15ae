"""Score a student in training on clips of the train list that it never sees."""

from collections.abc import Mapping, Sequence

import torch

from stdpipe.cache.errors import UserError
from stdpipe.data.frames import Clip
from stdpipe.data.samples import read_frames, view_lr
from stdpipe.data.views import View
from stdpipe.evaluation.protocols import protocol, psnr_y
from stdpipe.models.base import Network


def held_out(clips: Mapping[str, Clip], count: int) -> list[str]:
    """Return `count` clips that have HR, spread over the sorted keys, the same for every seed."""
    ordered = sorted(key for key, clip in clips.items() if clip.has_hr)
    if count and not ordered:
        raise UserError(f"hold_out={count} needs clips with HR, and all have LR alone")
    return [ordered[(2 * i + 1) * len(ordered) // (2 * count)] for i in range(count)]


@torch.no_grad()
def score(student: Network, clips: Sequence[Clip], degradation: str) -> float:
    """Return the mean PSNR of luma, in dB, of the clips' middle frames, by protocol vid4's rules.

    Raises the errors of `read_frames`.
    """
    device, rules = next(student.parameters()).device, protocol("vid4")
    found = []
    student.eval()
    for clip in clips:
        frames = read_frames(clip, student.factor)
        hr, middle = frames.hr, len(frames.hr) // 2
        lr = view_lr(clip, frames, View(clip.key, 0), degradation)[0]
        sr = student.forward_clip(lr.to(device)[None], [middle])[0, 0]
        found.append(psnr_y(sr, hr[middle].to(device) / 255, rules))
    student.train()
    return sum(found) / len(found)
