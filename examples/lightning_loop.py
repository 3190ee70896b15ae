"""The same in Lightning, on two processes of a CPU: python lightning_loop.py DATA CACHE"""

import sys

import lightning
import torch
from foreign_student import PixelNet
from torch.utils.data import DataLoader

import stdpipe


class Distilled(lightning.LightningModule):
    def __init__(self, data: str, cache: str, scheme: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = PixelNet()
        self.distillation = stdpipe.Distillation(scheme, cache, self.student.width)
        targets = sorted(self.distillation.needs)
        self.clips = stdpipe.CachedClips(data, cache, targets, patch=64)
        self.losses: list[float] = []

    def train_dataloader(self) -> DataLoader[dict[str, torch.Tensor]]:
        rank, world = self.trainer.global_rank, self.trainer.world_size
        order = range(rank, self.trainer.max_steps * world, world)  # this process's positions
        return DataLoader(self.clips, batch_size=1, sampler=order, num_workers=1)

    def training_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        sr, f_sr = self.student(batch["lr"])
        loss, _ = self.distillation(batch, sr=sr, f_sr=f_sr)
        self.losses.append(float(self.all_gather(loss.detach()).mean()))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


def main(data: str, cache: str, scheme: str = "output", steps: int = 200) -> list[float]:
    module = Distilled(data, cache, scheme)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=steps,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module)
    return module.losses


if __name__ == "__main__":
    print(*main(*sys.argv[1:3], *map(str, sys.argv[3:4]), *map(int, sys.argv[4:5])))
