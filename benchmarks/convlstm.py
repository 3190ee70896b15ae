"""What does the ConvLSTM's own backward pass gain over the plain form?

python benchmarks/convlstm.py [--json] [--quick] [--patch 128] [--batch 2] [--threads 1]
                              [--device cpu]
L_TD of teacher and student, forward and backward, 7 frames of 64 channels, all weights trained.
  plain      frame by frame, teacher and student apart, both halves of the gates one convolution
  ours       models/lastcell.py in float32;  recompute, bf16: the same with that option
`plain_over_NAME` is of time (medians, interleaved), `memory_plain_over_NAME` of what peak memory
grows by in a process that does one of them alone. A ratio above 1 means that plain takes more.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import medians, report
from torch import Tensor

from stdpipe.device import likes_channels_last, pick_device
from stdpipe.distill.time import memory_cells, td_loss
from stdpipe.models.convlstm import ConvLSTM
from stdpipe.models.layers import to_channels_last

FRAMES, CHANNELS = 7, 64
SIZES = ("patch", "batch", "threads", "device")
FORMS = ("plain", "ours", "recompute", "bf16")


def plain_cell(memory: ConvLSTM, f_sr: Tensor) -> Tensor:
    """(B, T, C, H, W) -> the last cell, as Eq. 6 reads."""
    weight = torch.cat((memory.input_gates.weight, memory.hidden_gates.weight), 1)
    cell = hidden = torch.zeros_like(f_sr[:, 0])
    for frame in f_sr.unbind(1):
        both = torch.cat((frame, hidden), 1)
        gates = F.conv2d(both, weight, memory.input_gates.bias, padding=1)
        i, f, o, g = gates.chunk(4, 1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
    return cell


def once(form: str, memory: ConvLSTM, teacher: Tensor, student: Tensor) -> list[Tensor]:
    """L_TD and its gradients: of the student's features, then of all weights."""
    if form == "plain":
        cells = plain_cell(memory, teacher), plain_cell(memory, student)
    else:
        memory.recompute = form == "recompute"
        with torch.autocast(teacher.device.type, torch.bfloat16, enabled=form == "bf16"):
            cells = memory_cells(memory, teacher, student)
    loss = td_loss(*cells)
    return [loss.detach(), *torch.autograd.grad(loss, [student, *memory.parameters()])]


def build(patch: int, batch: int, device: torch.device) -> Callable[[str], list[Tensor]]:
    """once(form) on features that differ as a student's do."""
    torch.manual_seed(0)
    memories = {form: ConvLSTM().to(device) for form in FORMS}
    for form, memory in memories.items():
        memory.load_state_dict(memories["plain"].state_dict())
        if form != "plain" and likes_channels_last(device, "bf16" if form == "bf16" else "none"):
            to_channels_last(memory)
    teacher = (torch.randn(batch, FRAMES, CHANNELS, patch, patch) * 0.5).to(device)
    student = (teacher + 0.2 * torch.randn_like(teacher)).requires_grad_()
    return lambda form: once(form, memories[form], teacher, student)


def difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest difference of a gradient, relative to its largest value."""
    pairs = zip(found[1:], expected[1:], strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def memory_mb(line: str) -> float:
    """VmRSS now, or VmHWM, the most it has been."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(found.split()[1]) / 1024 for found in status if found.startswith(line))


def peak_mb(run: Callable[[], object], device: torch.device) -> float:
    """What peak memory grows by while it runs."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
    before_mb = memory_mb("VmRSS")
    run()
    return memory_mb("VmHWM") - before_mb


def growth_mb(form: str, arguments: argparse.Namespace) -> float:
    """Of peak memory, in a process of its own."""
    sizes = [f"--{name}={getattr(arguments, name)}" for name in SIZES]
    command = [sys.executable, __file__, "--one", form, *sizes]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: tests that it runs")
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", choices=FORMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.patch, arguments.batch, arguments.repeats = 32, 1, 1
    torch.set_num_threads(arguments.threads)
    device = pick_device(arguments.device)
    run = build(arguments.patch, arguments.batch, device)
    if arguments.one:
        print(peak_mb(lambda: run(arguments.one), device))
        return
    exact = run("plain")
    errors = {form: difference(run(form), exact) for form in FORMS[1:]}
    del exact
    seconds = medians({form: partial(run, form) for form in FORMS}, arguments.repeats)
    memory = {form: growth_mb(form, arguments) for form in FORMS}
    ratios = {f"plain_over_{form}": seconds["plain"] / seconds[form] for form in FORMS[1:]}
    ratios |= {f"memory_plain_over_{form}": memory["plain"] / memory[form] for form in FORMS[1:]}
    settings = {name: getattr(arguments, name) for name in (*SIZES, "repeats")}
    measured = {"seconds": seconds, "peak_mb": memory, "gradient_error": errors}
    report("convlstm", settings, ratios, arguments.json, measured)


if __name__ == "__main__":
    main()
