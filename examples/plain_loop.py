"""A training loop of your own, in plain PyTorch: python plain_loop.py DATA CACHE OUT.pt [STEPS]"""

import sys

import torch
from foreign_student import PixelNet
from torch import nn
from torch.utils.data import DataLoader

import stdpipe


def train(
    student: nn.Module,
    data: str,
    cache: str,
    scheme: str = "output",
    steps: int = 200,
    batch: int = 2,
    patch: int = 64,
    lr: float = 1e-3,
    workers: int = 1,
    channels: int = 24,
) -> list[float]:
    """Train a module that returns images and features of LR clips; return the loss of each step."""
    distillation = stdpipe.Distillation(scheme, cache, student_channels=channels)
    clips = stdpipe.CachedClips(data, cache, targets=sorted(distillation.needs), patch=patch)
    order = range(steps * batch)  # shuffled anew in each epoch; a resumed run would begin later
    loader = DataLoader(clips, batch, sampler=order, num_workers=workers)
    optimiser = torch.optim.Adam([*student.parameters(), *distillation.parameters()], lr)
    losses = []
    for seen in loader:
        sr, f_sr = student(seen["lr"])
        loss, log = distillation(seen, sr=sr, f_sr=f_sr)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        if len(losses) % 50 == 0:
            print(len(losses), {name: f"{float(value):.4g}" for name, value in log.items()})
    return losses


if __name__ == "__main__":
    data, cache, out, *steps = sys.argv[1:]
    torch.manual_seed(0)
    student = PixelNet()
    train(student, data, cache, "output", *map(int, steps))
    torch.save(student.state_dict(), out)
    degradation = stdpipe.open_cache(cache).degradation
    result = stdpipe.evaluate_network(student, data, degradation=degradation)
    print(f"PSNR of luma {result['average']['psnr_y']:.2f} dB")
