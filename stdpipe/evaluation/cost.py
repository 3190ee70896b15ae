"""The cost of running a network: time and memory of one output frame, at the paper's size."""

import statistics
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stdpipe.evaluation.metrics import COST

Run = Callable[..., object]
HEIGHT, WIDTH, WARM_UP, REPEATS = 120, 180, 1, 5  # size of LR; figures.yaml states them, too


def running_cost(
    net: nn.Module, shapes: Sequence[Sequence[int]], frames: int, device: torch.device, run: Run
) -> dict[str, Any]:
    """Measure seconds and bytes as metrics.COST defines them.

    `run` calls `net`, which is on `device`, with inputs of these shapes, for that many frames of
    output, which share the time.
    """
    inputs = [torch.rand(*shape, device=device) for shape in shapes]
    return {
        "seconds_per_frame": _seconds(run, inputs) / frames,
        "peak_memory_bytes": _peak_memory(net, run, inputs),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "text": COST,
    }


def device_name(device: torch.device) -> str:
    """Return the GPU's model, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@torch.inference_mode()
def _seconds(run: Run, inputs: Sequence[Tensor]) -> float:
    def now() -> float:
        if inputs[0].is_cuda:
            torch.cuda.synchronize(inputs[0].device)
        return time.perf_counter()

    times = []
    for _ in range(WARM_UP + REPEATS):
        began = now()
        run(*inputs)
        times.append(now() - began)
    return statistics.median(times[WARM_UP:])


@torch.no_grad()
def _peak_memory(net: nn.Module, run: Run, inputs: Sequence[Tensor]) -> int:
    own = [*net.parameters(), *net.buffers(), *inputs]
    if inputs[0].is_cuda:
        device = inputs[0].device
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run(*inputs)
        peak = torch.cuda.max_memory_allocated(device) - before
    else:
        with _LiveTensors(own) as live:
            run(*inputs)
        peak = live.peak
    return peak + sum(tensor.nbytes for tensor in own)


class _LiveTensors(TorchDispatchMode):
    """Adds up the storages that operations allocate, and subtracts each when it is freed."""

    def __init__(self, there: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in there}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self.known:
                    self.known.add(storage._cdata)
                    self.bytes += storage.nbytes()
                    self.peak = max(self.peak, self.bytes)
                    weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        return out

    def _freed(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.bytes -= size
