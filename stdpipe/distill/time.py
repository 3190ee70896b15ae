"""Time distillation through shared temporal memory cells (paper, Section 3.2, Eqs. 6 and 7)."""

import torch.nn.functional as F
from torch import Tensor, nn

from stdpipe import distributed

COLLAPSE = 1e-8  # below this L_TD the paper fixes the ConvLSTM


def memory_cells(memory: nn.Module, teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """C_T^SR and C_S^SR of two f_sr sequences (B, T, C, H, W), in one batch: (B, C, H, W) each.

    The teacher's f_sr gets no gradient; the ConvLSTM gets one from both sides, as Eq. 7 has it.
    Cells are float32 whatever f_sr is. Under autocast the ConvLSTM's convolutions round to its
    precision: of no account while student and teacher differ, but near the 1e-8 at which training
    it ends, the gradient loses its direction (benchmarks/RESULTS.md).
    """
    cells: Tensor = memory(teacher.detach(), student)
    cell_teacher, cell_student = cells.chunk(2)
    return cell_teacher, cell_student


def td_loss(cell_teacher: Tensor, cell_student: Tensor) -> Tensor:
    """L_TD, Eq. 7: mean square distance of the cells (B, C, H, W)."""
    return F.mse_loss(cell_student.float(), cell_teacher.float())


def cell_variance(cell: Tensor) -> Tensor:
    """How much a cell (B, C, H, W) remembers: over pixels, channel by channel, since constant
    channels that differ are no memory either. Over the clips of all ranks, with gradient."""
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
        self.memory = memory
        self.frozen = False
        if frozen:
            self.freeze()

    def watch(self, td: float | None) -> None:
        """Look at the step's L_TD, None where it was not computed."""
        if td is not None and td < COLLAPSE and not self.frozen:
            self.freeze()

    def freeze(self) -> None:
        """No gradient reaches the ConvLSTM's own weights from here on."""
        self.frozen = True
        self.memory.requires_grad_(False)
