"""How a student's step is run, not what it computes: memory layout, recomputation, compilation."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from stdpipe.cache.errors import UserError
from stdpipe.device import likes_channels_last, to_channels_last
from stdpipe.models.base import Features, Network
from stdpipe.models.convlstm import ConvLSTM
from stdpipe.training.config import StudentTraining


def prepare_student(
    student: Network, helpers: Mapping[str, nn.Module], options: StudentTraining
) -> None:
    """Set up a student, and what is trained beside it, as `channels_last`, `recompute` and
    `compile` say; state_dicts keep their names and values.

    Raises UserError where that cannot be done.
    """
    device = next(student.parameters()).device
    if options.channels_last and likes_channels_last(device, options.amp):
        for module in (student, *helpers.values()):
            to_channels_last(module)
    for module in helpers.values():
        if isinstance(module, ConvLSTM):
            module.recompute = options.recompute
    plain = fast = student.features_clip
    if options.compile:
        _check_compiler(device)
        fast = torch.compile(fast, dynamic=False)
    if options.recompute:
        _check_repeatable(student)
        fast = _recomputed(fast)
    if fast is not plain:
        student.features_clip = _in_training(plain, fast)  # type: ignore[method-assign]


FeaturesClip = Callable[..., Features]


def _recomputed(features_clip: FeaturesClip) -> FeaturesClip:
    def run(clip: Tensor) -> Features:
        found: Features = checkpoint(features_clip, clip, use_reentrant=False)
        return found

    return run


def _in_training(plain: FeaturesClip, fast: FeaturesClip) -> FeaturesClip:
    """The fast way for steps; a look at some frames in between is no reason to compile again."""

    def features_clip(clip: Tensor, centres: Sequence[int] | None = None) -> Features:
        if centres is None and torch.is_grad_enabled():
            return fast(clip)
        return plain(clip, centres)

    return features_clip


def _check_compiler(device: torch.device) -> None:
    name = os.environ.get("CXX", "g++")
    if device.type == "cpu" and not shutil.which(name):
        raise UserError(
            f"compile: true needs a C++ compiler on a CPU, and there is no {name}: install one, "
            "name it in CXX, or set compile=false"
        )


def _check_repeatable(student: Network) -> None:
    if any(isinstance(module, _BatchNorm) for module in student.modules()):
        raise UserError(
            "recompute: true would have this student's batch norm count every batch twice; set "
            "recompute=false, or choose a student without it"
        )
