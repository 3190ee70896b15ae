"""Score a student in training on clips of the train list that it never sees."""

from collections.abc import Sequence

import torch

from stdpipe.data.degrade import degrade
from stdpipe.data.frames import Clip
from stdpipe.data.samples import read_frames
from stdpipe.evaluation.protocols import protocol, psnr_y
from stdpipe.models.base import Network


def held_out(keys: Sequence[str], count: int) -> list[str]:
    """Return `count` clips spread over the sorted keys, the same for every seed."""
    ordered = sorted(keys)
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
        hr = read_frames(clip, student.factor).hr
        middle = len(hr) // 2
        sr = student.forward_clip(degrade(hr, degradation).to(device)[None], [middle])[0, 0]
        found.append(psnr_y(sr, hr[middle].to(device) / 255, rules))
    student.train()
    return sum(found) / len(found)
