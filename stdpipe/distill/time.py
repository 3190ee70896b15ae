"""Time distillation through shared memory cells, terms td and td-lr (paper, Section 3.2)."""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe.distill.spread import variance
from stdpipe.distill.term import F_LR, F_SR, FeatureLevel, LossInputs, Term, Value, adapter
from stdpipe.models.convlstm import ConvLSTM

COLLAPSE = 1e-8  # below this L_TD the paper fixes the ConvLSTM


def memory_cells(memory: nn.Module, teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """Return C_T^SR and C_S^SR, (B, C, H, W) each, of two sequences of f_sr (B, T, C, H, W).

    The teacher's f_sr gets no gradient; the ConvLSTM gets one from both sides, as in Eq. 7.
    Cells are float32 whatever f_sr is. The rounding of autocast matters only near an L_TD of 1e-8,
    where training the ConvLSTM ends (benchmarks/RESULTS.md).
    """
    cells: Tensor = memory(teacher.detach(), student)
    cell_teacher, cell_student = cells.chunk(2)
    return cell_teacher, cell_student


def td_loss(cell_teacher: Tensor, cell_student: Tensor) -> Tensor:
    """Return L_TD, Eq. 7: the mean square distance of the cells (B, C, H, W)."""
    return F.mse_loss(cell_student.float(), cell_teacher.float())


class Crop(NamedTuple):
    """A square of a training patch, in HR pixels."""

    y: int
    x: int
    side: int


def draw_crop(rng: np.random.Generator, side: int, patch: int) -> Crop:
    """Draw one of the squares of `side` pixels that tile a patch: each pixel is as likely as any
    other, which it would not be in a square drawn anywhere."""
    y, x = (int(place) * side for place in rng.integers(patch // side, size=2))
    return Crop(y, x, side)


def cropped_cells(
    memory: nn.Module, teacher: Tensor, student: Tensor, crop: Crop
) -> tuple[Tensor, Tensor]:
    """Return the crop of what `memory_cells` returns; crop: in the maps' own pixels.

    The ConvLSTM runs on the crop and the T pixels around it that its last cell sees, so that cells
    are those of the whole patch; the mean over all crops of L_TD, and of its gradient, is too.
    """
    reach, (height, width) = teacher.shape[1], teacher.shape[-2:]
    rows, y = _with_context(crop.y, crop.side, reach, height)
    columns, x = _with_context(crop.x, crop.side, reach, width)
    cells = memory_cells(memory, teacher[..., rows, columns], student[..., rows, columns])
    inside = (..., slice(y, y + crop.side), slice(x, x + crop.side))
    return cells[0][inside], cells[1][inside]


def _with_context(start: int, length: int, reach: int, side: int) -> tuple[slice, int]:
    """Return a span with `reach` pixels more at both ends, within 0..side, and where in it the
    span begins."""
    first = max(start - reach, 0)
    return slice(first, min(start + length + reach, side)), start - first


class CollapseGuard:
    """Freezes the ConvLSTM for good once L_TD falls below 1e-8 (end of Section 3.2)."""

    def __init__(self, memory: nn.Module, frozen: bool = False) -> None:
        self.memory, self.frozen = memory, frozen
        memory.requires_grad_(not frozen)  # and from now on touched only to freeze it

    def watch(self, td: float | None) -> None:
        """Freeze where the step's L_TD, None where it was not computed, is too small."""
        if td is not None and td < COLLAPSE:
            self.frozen = True
            self.memory.requires_grad_(False)


def term(level: FeatureLevel) -> Term:
    """Return L_TD on one level, with a ConvLSTM of the teacher's channels."""
    role, frozen, spread = (f"{x}{level.suffix}" for x in ("memory", "frozen", "cell_var"))
    return Term(
        partial(_compute, level, role),
        needs=level.features,
        weight=100.0,
        weight_key="lambda2",
        source="paper, Eq. 7" if level is F_SR else "paper, Table 4",
        about=f"L_TD: the mean square distance of a ConvLSTM's last cells over {level.title}.",
        helpers={**adapter(level), role: lambda channels: _memory(channels[level.features][1])},
        logs=(spread,),
        memory=role,
        frozen=frozen,
    )


def _memory(channels: int) -> ConvLSTM:
    return ConvLSTM(channels, channels)


def _compute(level: FeatureLevel, role: str, x: LossInputs) -> Value:
    """Return L_TD, on td_crop where there is one; `normalise` divides it by the variance of the
    teacher's cell, so that training the shared ConvLSTM gains nothing from shrinking all cells."""
    memory, teacher, student = x.helpers[role], x.batch[level.features], x.aligned(level)
    if x.td_crop:
        scale = x.batch["hr"].shape[-1] // teacher.shape[-1]
        crop = Crop(*(pixels // scale for pixels in x.td_crop))
        cell_teacher, cell_student = cropped_cells(memory, teacher, student, crop)
    else:
        cell_teacher, cell_student = memory_cells(memory, teacher, student)
    spread = variance(cell_teacher)
    # with its gradient: a constant divisor would leave the pull towards small cells as it is
    divisor = spread.clamp(min=1e-12) if x.normalise or x.td_scale == "variance" else 1.0
    return Value(td_loss(cell_teacher, cell_student), divisor, (spread.detach(),))


TERMS = {"td": term(F_SR), "td-lr": term(F_LR)}
