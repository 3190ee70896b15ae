"""Memory cells, L_TD and the collapse guard."""

import numpy as np
import pytest
import torch

from stdpipe.distill.time import (
    COLLAPSE,
    CollapseGuard,
    Crop,
    cropped_cells,
    draw_crop,
    memory_cells,
    td_loss,
)
from stdpipe.models.convlstm import ConvLSTM


def f_sr(seed: int) -> torch.Tensor:
    """(B, T, C, H, W) = (2, 3, 4, 5, 6)."""
    return torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(seed))


def test_cells_are_the_two_sequences_each_alone() -> None:
    """One batch through the memory equals two, and teacher comes first."""
    memory = ConvLSTM(4, 4)
    teacher, student = memory_cells(memory, f_sr(0), f_sr(1))
    torch.testing.assert_close(teacher, memory(f_sr(0)))
    torch.testing.assert_close(student, memory(f_sr(1)))


def test_a_teacher_in_storage_precision() -> None:
    """A float16 target from the cache is brought to the student's dtype."""
    teacher, _ = memory_cells(ConvLSTM(4, 4), f_sr(0).half(), f_sr(1))
    assert teacher.dtype == torch.float32


def test_no_gradient_enters_the_teachers_features() -> None:
    """Not even where it asks for one; student and memory get theirs, memory from both sides."""
    memory = ConvLSTM(4, 4)
    teacher, student = f_sr(0).requires_grad_(), f_sr(1).requires_grad_()
    cell_teacher, cell_student = memory_cells(memory, teacher, student)
    td_loss(cell_teacher, cell_student).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().max() > 0
    weight = memory.input_gates.weight
    from_both = weight.grad
    weight.grad = None
    td_loss(memory(f_sr(0)).detach(), memory(f_sr(1))).backward()
    assert not torch.allclose(from_both, weight.grad, atol=1e-6)  # type: ignore[arg-type]


def test_cells_are_float32_in_mixed_precision() -> None:
    """The convolutions alone round: features a third apart still give L_TD to a percent."""
    memory = ConvLSTM(4, 4)
    near = f_sr(0) + 0.3 * f_sr(1)
    exact = td_loss(*memory_cells(memory, f_sr(0), near))
    with torch.autocast("cpu", torch.bfloat16):
        cells = memory_cells(memory, f_sr(0), near.bfloat16())
    assert cells[0].dtype == cells[1].dtype == torch.float32
    torch.testing.assert_close(td_loss(*cells), exact, rtol=0.01, atol=0)


def test_td_by_hand() -> None:
    """Mean of squares over all of (B, C, H, W), Eq. 7; zero for equal cells."""
    one = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 2, 2)
    assert td_loss(one, one + torch.tensor([[0.0, 2.0], [0.0, 4.0]])) == (4 + 16) / 4
    assert td_loss(one, one) == 0
    assert td_loss(one.half(), one.half()).dtype == torch.float32


def test_guard_freezes_below_the_bound_and_only_then() -> None:
    """1e-8 itself is not below; once frozen it stays, whatever comes."""
    memory = ConvLSTM(4, 4)
    guard = CollapseGuard(memory)
    for td in (None, 1.0, COLLAPSE):
        guard.watch(td)
        assert not guard.frozen
        assert all(p.requires_grad for p in memory.parameters())
    guard.watch(0.99 * COLLAPSE)
    assert guard.frozen
    guard.watch(1.0)
    assert guard.frozen
    assert not any(p.requires_grad for p in memory.parameters())


def test_a_frozen_memory_still_teaches_the_student() -> None:
    """Its weights get no gradient, the student does; frozen from the start if asked."""
    memory = ConvLSTM(4, 4)
    assert CollapseGuard(memory, frozen=True).frozen
    student = f_sr(1).requires_grad_()
    td_loss(*memory_cells(memory, f_sr(0), student)).backward()
    assert student.grad is not None
    assert student.grad.abs().max() > 0
    assert all(p.grad is None for p in memory.parameters())


def test_the_bound_is_the_papers() -> None:
    """End of Section 3.2."""
    assert pytest.approx(1e-8) == COLLAPSE


@pytest.mark.parametrize("side", [4, 8, 16])
def test_the_mean_over_all_crops_is_the_whole(side: int) -> None:
    """L_TD, and its gradient on the student's map and on the ConvLSTM: borders of the patch and of
    crops alike, since the ConvLSTM sees around a crop what its last cell depends on."""
    memory = ConvLSTM(2, 2)
    numbers = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 1, 3, 2, 16, 16, generator=numbers).unbind()
    student.requires_grad_()
    leaves = [student, *memory.parameters()]
    whole = td_loss(*memory_cells(memory, teacher, student))
    expected = [whole, *torch.autograd.grad(whole, leaves)]
    places = [(y, x) for y in range(0, 16, side) for x in range(0, 16, side)]
    crops = [td_loss(*cropped_cells(memory, teacher, student, Crop(y, x, side))) for y, x in places]
    mean = torch.stack(crops).mean()
    for found, true in zip([mean, *torch.autograd.grad(mean, leaves)], expected, strict=True):
        torch.testing.assert_close(found, true, rtol=1e-5, atol=1e-8)


def test_a_crop_is_one_of_the_squares_that_tile_the_patch() -> None:
    """Each is drawn as often as the others."""
    drawn = [draw_crop(np.random.default_rng(n), 16, 48) for n in range(900)]
    counts = {crop: drawn.count(crop) for crop in drawn}
    assert counts.keys() == {Crop(y, x, 16) for y in (0, 16, 32) for x in (0, 16, 32)}
    assert min(counts.values()) > 60
