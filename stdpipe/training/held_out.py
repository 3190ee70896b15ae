"""Score a student in training on clips of the train list that it never sees."""

from collections.abc import Sequence

import torch
from torch import Tensor

from stdpipe.data.degrade import degrade
from stdpipe.data.frames import Clip
from stdpipe.data.samples import read_frames
from stdpipe.evaluation.metrics import luma
from stdpipe.models.base import Network


def held_out(keys: Sequence[str], count: int) -> list[str]:
    """Return `count` clips spread over the sorted keys, the same for every seed."""
    ordered = sorted(keys)
    return [ordered[(2 * i + 1) * len(ordered) // (2 * count)] for i in range(count)]


@torch.no_grad()
def score(student: Network, clips: Sequence[Clip], degradation: str) -> float:
    """Return the mean PSNR of luma, in dB, of the clips' middle frames."""
    device = next(student.parameters()).device
    student.eval()
    found = [_psnr(student, clip, degradation, device) for clip in clips]
    student.train()
    return sum(found) / len(found)


def _psnr(student: Network, clip: Clip, degradation: str, device: torch.device) -> float:
    hr = read_frames(clip).hr
    middle = len(hr) // 2
    sr = student.forward_clip(degrade(hr, degradation).to(device)[None], [middle])[0, 0]
    truth: Tensor = luma(hr[middle].to(device) / 255)
    error = luma((sr.clamp(0, 1) * 255).round() / 255) - truth
    return float(10 * torch.log10(255.0**2 / error.square().mean().clamp(min=1e-6)))
