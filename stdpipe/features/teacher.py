"""Run the teacher on clips: make its input of a view, and return its features.

Axes: T frames of a clip, C channels, H W HR size, h w LR size.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stdpipe import cache
from stdpipe.cache.errors import UserError
from stdpipe.data.degrade import degradation
from stdpipe.data.frames import Clip
from stdpipe.data.samples import Frames, view_lr
from stdpipe.data.views import NUM_ORIENTATIONS, View, orient, unorient, view_hr
from stdpipe.device import autocast
from stdpipe.features.targets import Arrays
from stdpipe.models import zoo
from stdpipe.models.base import Features, Network
from stdpipe.resample import centre

TRANSPOSED = 4  # an orientation of stdpipe.data.views


def seen_frames(
    teacher: Network, clip: Clip, frames: Frames, view: View, degradation_name: str
) -> tuple[Tensor, int]:
    """Make the teacher's input of a view, float32 in [0, 1], LR (T, 3, h, w), or HR (T, 3, H, W)
    for a privileged teacher; return it with the crc32 of view_lr."""
    lr, of_source = view_lr(clip, frames, view, degradation_name)
    if not teacher.sees_hr:
        return lr, of_source
    if not clip.has_hr:
        raise UserError(f"clip {clip.key} has LR alone, and this teacher sees HR: leave --lr out")
    return view_hr(frames.hr, view).float() / 255, of_source


class Member(NamedTuple):
    """One way to show a clip to the teacher: turned, and perhaps from its end to its start."""

    orientation: int
    is_reversed: bool


PLAIN = (Member(0, False),)


def ensemble(degradation_name: str) -> tuple[Member, ...]:
    """List the members of a self-ensemble, the plain one first: transposed and reversed in time.

    LR samples that lie amid their HR pixels (`bi`, `bd-centred`) may be flipped, too;
    those of another phase would be no LR that the degradation could have made.
    """
    how = degradation(degradation_name)
    is_centred = how.phase == centre(how.scale)
    turns = range(NUM_ORIENTATIONS) if is_centred else (0, TRANSPOSED)
    return tuple(Member(turn, back) for back in (False, True) for turn in turns)


@torch.inference_mode()
def group_features(
    teacher: Network,
    seen: list[Tensor],
    device: torch.device,
    amp: str,
    members: Sequence[Member] = PLAIN,
) -> list[Features]:
    """Return the features, each (T, C, ., .), of clips from seen_frames (T, 3, ., .); those of one
    size are computed at once. The image alone is the mean over the members."""
    found = _one_way(teacher, seen, device, amp)
    if len(members) == 1:
        return found
    total = [features.sr.float() for features in found]
    for turn, back in members[1:]:
        shown = [orient(clip.flip(0) if back else clip, turn) for clip in seen]
        for i, features in enumerate(_one_way(teacher, shown, device, amp)):
            sr = unorient(features.sr.float(), turn)
            total[i] = total[i] + (sr.flip(0) if back else sr)
    return [one._replace(sr=sr / len(members)) for one, sr in zip(found, total, strict=True)]


def _one_way(
    teacher: Network, seen: list[Tensor], device: torch.device, amp: str
) -> list[Features]:
    found: dict[int, Features] = {}
    for shape in dict.fromkeys(clip.shape for clip in seen):
        alike = [i for i, clip in enumerate(seen) if clip.shape == shape]
        with autocast(device, amp):
            stack = torch.stack([seen[i].to(device, non_blocking=True) for i in alike])
            batch = teacher.features_clip(stack)
        found |= {i: Features(*(x[n] for x in batch)) for n, i in enumerate(alike)}
    return [found[i] for i in range(len(seen))]


def teacher_features(
    teacher: Network,
    seen: Tensor,
    device: torch.device,
    amp: str,
    members: Sequence[Member] = PLAIN,
) -> Features:
    """Return all features of one clip's frames: each (T, C, ., .)."""
    return group_features(teacher, [seen], device, amp, members)[0]


def check_teacher(teacher: Network, facts: dict[str, Any], targets: Collection[str]) -> None:
    """Raise UserError for a network that does not have what the targets ask of it."""
    name = facts["network"]
    if teacher.scale != teacher.factor and not teacher.sees_hr:
        raise UserError(f"{name} has no F^SR larger than its LR: choose another teacher")
    if not teacher.f_sr_channels and {"f_sr", "attention"} & set(targets):
        raise UserError(
            f"{name} has no F^SR, since its image is shuffled out of LR features: give --targets sr"
        )


def kept_parameters(teacher: Network, manifest: cache.Manifest) -> Arrays | None:
    """Return the parameters that the cache keeps where f_sr is served: the tail of a stored trunk,
    and the last convolution, which makes SR of it. None where there are none."""
    tail = tail_of(teacher) if manifest.needs_tail else {}
    head = _parameters(teacher, teacher.head) if "f_sr" in manifest.targets else {}
    return {**tail, **head} or None


def tail_of(teacher: Network) -> Arrays:
    """Return the teacher's parameters that turn the trunk into f_sr, by name.

    Raises UserError where the network has no trunk.
    """
    tail = _parameters(teacher, teacher.tail)
    if not tail:
        raise UserError(
            f"{type(teacher).__name__} has no trunk that a tail turns into f_sr: choose an "
            "encoding that stores f_sr itself (float16, int8)"
        )
    return tail


def best_encoding(name: str, teacher: Network, sizes: Iterable[tuple[int, int]]) -> str:
    """Return the smallest encoding that this teacher allows for frames of all these HR sizes."""
    try:
        for height, width in sizes:
            refuse_trunk("trunk-int8", name, teacher, height, width)
        tail_of(teacher)
    except UserError:
        return "int8"
    return "trunk-int8"


def refuse_trunk(encoding: str, name: str, teacher: Network, height: int, width: int) -> None:
    """Raise UserError where this teacher's trunk cannot be cached for frames of this HR size."""
    if cache.ENCODINGS[encoding].stored != "trunk":
        return
    if zoo.needs_word(name):
        raise UserError(
            f"encoding {encoding!r} has training rebuild the teacher's tail by the name in the "
            f"cache, and {name} would be imported for it; choose float16 or int8, or trust the "
            f"module there and here by --allow-module {name.partition(':')[0]}"
        )
    multiple = teacher.factor * teacher.multiple
    if height % multiple or width % multiple:
        raise UserError(
            f"encoding {encoding!r} needs frames whose sides are multiples of {multiple} (the "
            f"teacher pads others, and its padding is not cached), got {width} x {height}; choose "
            "int8 or float16"
        )


def _parameters(teacher: Network, parts: tuple[str, ...]) -> Arrays:
    return {
        name: value.detach().float().cpu().contiguous().numpy()
        for name, value in teacher.state_dict().items()
        if name.split(".")[0] in parts
    }
