"""The processes of one training: those that torchrun started, or one alone.

All of them see the same stream, and of every step's clips each rank takes its own slices; the mean
over slices and ranks is the result that one process has for the whole batch.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stdpipe.cache.errors import UserError

Made = TypeVar("Made")

PATIENCE = timedelta(days=365)  # if a process dies, torchrun ends those that wait for it


def from_torchrun() -> tuple[int, int]:
    """Return this process's rank and the number of processes, by torchrun; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


_patient: Any = None  # a process group that waits for as long as an evaluation takes


@contextmanager
def group(device: torch.device) -> Iterator[None]:
    """Join torchrun's other processes, if any, until all of them have finished the body."""
    global _patient
    if from_torchrun()[1] == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    _patient = dist.new_group(backend="gloo", timeout=PATIENCE)
    yield
    dist.barrier(_patient)  # nobody leaves before rank 0 has written everything
    dist.destroy_process_group()
    _patient = None


def size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def first() -> bool:
    """Return whether this process is the one that writes files."""
    return rank() == 0


def slices(batch: int, accumulate: int) -> list[range]:
    """Return the clips of a step that this rank takes, a range for each of `accumulate` passes.

    Raises UserError where ranks and passes do not divide the batch.
    """
    count, left = divmod(batch, size() * accumulate)
    if left:
        raise UserError(
            f"batch ({batch}) is shared by {size()} processes with accumulate ({accumulate}): make "
            f"it a multiple of {size() * accumulate}"
        )
    starts = ((turn * size() + rank()) * count for turn in range(accumulate))
    return [range(start, start + count) for start in starts]


def from_first(make: Callable[[], Made]) -> Made:
    """Return on all ranks, which wait without a timeout, the result of `make` on rank 0; raise its
    ValueError or OSError on all of them."""
    if size() == 1:
        return make()
    made: list[Any] = [None, None]  # the result and the error
    if first():
        try:
            made[0] = make()
        except (ValueError, OSError) as error:
            made[1] = error
    dist.broadcast_object_list(made, src=0, group=_patient)
    if made[1] is not None:
        raise made[1]
    result: Made = made[0]
    return result


def mean(values: Tensor) -> Tensor:
    """Return the mean over ranks, without gradient."""
    return _Total.apply(values.detach()) / size() if size() > 1 else values


def total(values: Tensor) -> Tensor:
    """Return the sum over ranks; its gradient is the sum over every rank's result."""
    result: Tensor = _Total.apply(values) if size() > 1 else values
    return result


def largest(values: Tensor) -> Tensor:
    """Return, of a tensor on the CPU, the largest of each value over ranks."""
    found = values.clone()
    if size() > 1:
        dist.all_reduce(found, dist.ReduceOp.MAX, group=_patient)
    return found


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, values: Tensor) -> Tensor:
        summed = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Total.forward(ctx, gradient)


def data_parallel(losses: nn.Module) -> nn.Module:
    """Return a module whose backward pass averages gradients over ranks, if there are several.

    It looks at every step which parameters the loss reaches: warm-up, train_only and a frozen
    ConvLSTM change them.
    """
    if size() == 1:
        return losses
    device = next(losses.parameters()).device
    # without a parameter that no loss reaches, torch warns on stderr in every process
    losses.register_parameter("never_reached", nn.Parameter(torch.zeros(1, device=device)))
    return DistributedDataParallel(losses, find_unused_parameters=True)


def apart(losses: nn.Module, more_to_come: bool) -> AbstractContextManager[None]:
    """Return the context of a pass; ranks exchange no gradients in it if more slices follow."""
    if more_to_come and isinstance(losses, DistributedDataParallel):
        context: AbstractContextManager[None] = losses.no_sync()
        return context
    return nullcontext()
