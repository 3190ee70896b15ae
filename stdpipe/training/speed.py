"""Ways to run a student's step that leave its result: memory layout, recomputation, compilation."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stdpipe.cache.errors import UserError
from stdpipe.device import likes_channels_last, to_channels_last
from stdpipe.models.base import Features, Network
from stdpipe.models.convlstm import ConvLSTM
from stdpipe.models.layers import has_batch_norm
from stdpipe.training.config import StudentTraining


def prepare_student(
    student: Network, helpers: Mapping[str, nn.Module], options: StudentTraining
) -> None:
    """Set up a student and its helpers as `channels_last`, `recompute` and `compile` say.

    State_dicts keep their names and values. Raises UserError where that cannot be done.
    """
    device = next(student.parameters()).device
    if options.channels_last and likes_channels_last(device, options.amp):
        for module in (student, *helpers.values()):
            to_channels_last(module)
    for module in helpers.values():
        if isinstance(module, ConvLSTM):
            module.recompute = options.recompute
    plain = student.features_clip
    step: Callable[..., Features] = plain
    if options.compile:
        _check_compiler(device)
        step = torch.compile(step, dynamic=False)
    if options.recompute:
        if has_batch_norm(student):
            raise UserError(
                "recompute: true would have this student's batch norm count every batch twice; set "
                "recompute=false, or choose a student without it"
            )
        step = partial(checkpoint, step, use_reentrant=False)

    def features_clip(clip: Tensor, centres: Sequence[int] | None = None, **state: Any) -> Features:
        # a picture of some frames between two steps is no reason to compile again
        in_step = centres is None and torch.is_grad_enabled()
        return step(clip, **state) if in_step else plain(clip, centres, **state)

    if options.compile or options.recompute:
        student.features_clip = features_clip  # type: ignore[method-assign]


def _check_compiler(device: torch.device) -> None:
    name = os.environ.get("CXX", "g++")
    if device.type == "cpu" and not shutil.which(name):
        raise UserError(
            f"compile: true needs a C++ compiler on a CPU, and there is no {name}: install one, "
            "name it in CXX, or set compile=false"
        )
