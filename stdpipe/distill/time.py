"""Time distillation through shared memory cells, terms td and td-lr (paper, Section 3.2)."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe import distributed
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


def cell_variance(cell: Tensor) -> Tensor:
    """Return the variance of a cell (B, C, H, W) over pixels and the clips of all ranks, averaged
    over channels, with gradient. Constant channels that differ are no memory, so do not count."""
    cell = cell.float()
    if distributed.size() == 1:
        return cell.var(dim=(0, 2, 3)).mean()
    count = distributed.size() * cell[:, 0].numel()
    mean = distributed.total(cell.sum(dim=(0, 2, 3), keepdim=True)) / count
    squares = distributed.total((cell - mean).square().sum(dim=(0, 2, 3)))
    return (squares / (count - 1)).mean()


class CollapseGuard:
    """Freezes the ConvLSTM for good once L_TD falls below 1e-8 (end of Section 3.2)."""

    def __init__(self, memory: nn.Module, frozen: bool = False) -> None:
        self.memory, self.frozen = memory, frozen
        memory.requires_grad_(not frozen)

    def watch(self, td: float | None) -> None:
        """Freeze where the step's L_TD, None where it was not computed, is too small."""
        self.frozen |= td is not None and td < COLLAPSE
        self.memory.requires_grad_(not self.frozen)


def term(level: FeatureLevel) -> Term:
    """Return L_TD on one level, with a ConvLSTM of the teacher's channels."""
    role, frozen, variance = (f"{x}{level.suffix}" for x in ("memory", "frozen", "cell_var"))
    return Term(
        partial(_compute, level, role),
        needs=level.features,
        weight=100.0,
        weight_key="lambda2",
        source="paper, Eq. 7" if level is F_SR else "paper, Table 4",
        about=f"L_TD: the mean square distance of a ConvLSTM's last cells over {level.title}.",
        helpers={**adapter(level), role: lambda channels: _memory(channels[level.features][1])},
        logs=(variance,),
        memory=role,
        frozen=frozen,
    )


def _memory(channels: int) -> ConvLSTM:
    return ConvLSTM(channels, channels)


def _compute(level: FeatureLevel, role: str, x: LossInputs) -> Value:
    """Return L_TD; td_scale="variance" divides it by the variance of the teacher's cell, so that
    training the shared ConvLSTM gains nothing from shrinking all cells."""
    cell_teacher, cell_student = memory_cells(
        x.helpers[role], x.batch[level.features], x.aligned(level)
    )
    variance = cell_variance(cell_teacher)
    # with its gradient: a constant divisor would leave the pull towards small cells as it is
    scale = variance.clamp(min=1e-12) if x.td_scale == "variance" else 1.0
    return Value(td_loss(cell_teacher, cell_student), scale, (variance.detach(),))


TERMS = {"td": term(F_SR), "td-lr": term(F_LR)}
