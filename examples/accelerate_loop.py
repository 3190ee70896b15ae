"""The same with accelerate: torchrun --nproc_per_node 2 accelerate_loop.py DATA CACHE"""

import sys

import torch
from accelerate import Accelerator
from foreign_student import PixelNet
from torch import nn
from torch.utils.data import DataLoader

import stdpipe


class Taught(nn.Module):
    """The student and its loss in one module, whose parameters are averaged over processes."""

    def __init__(self, cache: str, scheme: str) -> None:
        super().__init__()
        self.student = PixelNet()
        self.distillation = stdpipe.Distillation(scheme, cache, self.student.width)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        sr, f_sr = self.student(batch["lr"])
        return self.distillation(batch, sr=sr, f_sr=f_sr)[0]


def main(data: str, cache: str, scheme: str = "output", steps: int = 200) -> list[float]:
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    torch.manual_seed(0)
    taught = Taught(cache, scheme)
    targets = sorted(taught.distillation.needs)
    clips = stdpipe.CachedClips(data, cache, targets, patch=64)
    optimiser = torch.optim.Adam(taught.parameters(), 1e-3)
    # accelerate gives each process every second one of these positions
    order = range(steps * accelerator.num_processes)
    loader = DataLoader(clips, batch_size=1, sampler=order, num_workers=1)
    taught, optimiser, loader = accelerator.prepare(taught, optimiser, loader)
    losses = []
    for batch in loader:
        loss = taught(batch)
        optimiser.zero_grad()
        accelerator.backward(loss)
        optimiser.step()
        losses.append(float(accelerator.reduce(loss.detach(), "mean")))
    if accelerator.is_main_process:
        print(*losses)
    accelerator.end_training()
    return losses


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(str, sys.argv[3:4]), *map(int, sys.argv[4:5]))
