"""What is a step of STD worth whose TD sees one square of the patch (`td_crop`)?

python benchmarks/td_crop.py [--json] [--quick] [--crops 32,16] [--batch 2] [--patch 64]
                             [--steps 100] [--threads 2] [--device cpu]
A small FastDVDnet learns from the embedded EDVR on an embedded clip, LR and targets in memory, for
`--steps` steps; then, for each side N of a square:
  time_N      a step with it over a step with the whole patch: medians of interleaved steps, in CPU
              seconds unless it is a GPU
  cosine_N    between its gradient on the student and the whole patch's, averaged over all squares
  td_cosine_N     the same, of L_TD's gradient alone
  mean_cosine_N   of L_TD's gradient, averaged over all squares, with the whole patch's
"""

import argparse
import itertools
import time
from importlib.resources import files
from pathlib import Path

import torch
import torch.nn.functional as F
from step import Batch, Stage, windows
from timing import medians, report
from torch import Tensor

from stdpipe.device import pick_device
from stdpipe.distill.time import Crop
from stdpipe.features.targets import LiveTeacher
from stdpipe.models.checkpoints import load_network
from stdpipe.training.config import StudentTraining

ASSETS = Path(str(files("stdpipe.assets")))


def crops_of(patch: int, side: int) -> list[Crop]:
    starts = range(0, patch, side)
    return [Crop(y, x, side) for y, x in itertools.product(starts, starts)]


def gradients(stage: Stage, batch: Batch, crop: Crop | None) -> tuple[Tensor, Tensor]:
    """On the student, flat: of the whole loss, and of L_TD alone."""
    parts = stage.parts(batch, td_crop=crop)
    weights = list(stage.student.parameters())
    found = []
    for loss in (parts["loss"], parts["td"]):
        made = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        found.append(torch.cat([g.flatten() for g in made if g is not None]))
    return found[0], found[1]


def measure(arguments: argparse.Namespace, options: StudentTraining) -> dict[str, float]:
    device = pick_device(arguments.device)
    teacher, _ = load_network(None, str(ASSETS / "teacher.pt"))
    base, _ = windows(ASSETS / "sample", options.patch, options.batch)
    batch = LiveTeacher(teacher, device, "none")({k: v.to(device) for k, v in base.items()})
    stage = Stage(arguments.student, options, device)
    turns = {side: itertools.cycle(crops_of(options.patch, side)) for side in arguments.crops}
    for _ in range(arguments.steps):
        stage.step(batch, td_crop=next(turns[min(turns)]))
    whole = gradients(stage, batch, None)
    found = {}
    for side in arguments.crops:
        pairs = [gradients(stage, batch, crop) for crop in crops_of(options.patch, side)]
        for name, true, each in zip(
            ("cosine", "td_cosine"), whole, zip(*pairs, strict=True), strict=True
        ):
            found[f"{name}_{side}"] = float(
                torch.stack([F.cosine_similarity(g, true, dim=0) for g in each]).mean()
            )
        mean = torch.stack([td for _, td in pairs]).mean(0)
        found[f"mean_cosine_{side}"] = float(F.cosine_similarity(mean, whole[1], dim=0))
    steps = {"whole": lambda: stage.step(batch)}
    steps |= {f"{n}": lambda n=n: stage.step(batch, td_crop=next(turns[n])) for n in turns}
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds = medians(steps, arguments.repeats, clock)
    return {f"time_{n}": seconds[f"{n}"] / seconds["whole"] for n in turns} | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: tests that it runs")
    parser.add_argument("--student", default="fastdvdnet-quarter:light=true")
    parser.add_argument("--crops", default="32,16")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.crops, arguments.patch, arguments.batch = "16", 32, 1
        arguments.steps, arguments.repeats, arguments.threads = 1, 1, 1
    settings = {k: v for k, v in vars(arguments).items() if k != "json"}
    arguments.crops = [int(side) for side in arguments.crops.split(",")]
    torch.set_num_threads(arguments.threads)
    options = StudentTraining(
        steps=10**6, warmup_steps=0, batch=arguments.batch, patch=arguments.patch, lr=1e-3
    )
    report("td_crop", settings, measure(arguments, options), arguments.json)


if __name__ == "__main__":
    main()
