"""How long is a step of STD from each source of targets, against one with them in memory already?

python benchmarks/step.py [--json] [--quick] [--batch 1] [--patch 256] [--amp none] [--threads 2]
                          [--device cpu]
FastDVDnet learns from EDVR-L (random weights: its sizes matter here) on the embedded clips. LR and
HR are in memory for all. Reading is done in the training process, so nothing of it is hidden:
  free         f_sr in memory as float32, as if a teacher cost nothing
  int8         read from a cache of f_sr, dequantised
  trunk-int8   read from a cache of the trunk with its halo, dequantised, put through the tail
  live         the teacher runs in the loop
and with the teacher's image, the scheme `output`, in place of STD:
  sr           read from a cache
  sr free      in memory
  none         L_rec alone
  measured     sr free, in a step that measures the terms' gradients for their shares
Ratios are of medians of interleaved steps: `int8_over_free`, `trunk-int8_over_free`,
`live_over_trunk-int8`, `sr_over_free`, `sr_over_none`, and `shares_over_weights`, with one step of
share_every measured; `--only sr` leaves STD out. `predicted_` ones are what multiply-accumulates
alone make of them.
`--wait 4` trains that many steps from the trunk-int8 cache as train-student does, with 1 and with 2
workers; `wait_1` and `wait_2` are the shares of time, after the first step, waited for data.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import medians, report
from torch import Tensor
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from stdpipe import cache
from stdpipe.data.box import Box
from stdpipe.data.frames import read_with_crc32
from stdpipe.data.layouts import find_clips
from stdpipe.data.samples import Stream
from stdpipe.data.views import View, full_views
from stdpipe.device import autocast, pick_device
from stdpipe.distill.term import LossInputs
from stdpipe.distill.terms import build_helpers, scheme_loss
from stdpipe.features.targets import CachedTargets, Decoder, LiveTeacher
from stdpipe.features.teacher import tail_of
from stdpipe.models import zoo
from stdpipe.models.base import Network
from stdpipe.resample import SCALE
from stdpipe.train import train_student
from stdpipe.training import metrics_log, run_folder, speed
from stdpipe.training.config import StudentTraining
from stdpipe.training.distillation import SchemeLosses
from stdpipe.training.jobs import StudentRun

FRAMES = 7
QUICK_TEACHER = "edvr:num_feat=8,deformable_groups=2,num_extract_block=1,num_reconstruct_block=1"
Batch = Mapping[str, Tensor]


class Stage:
    """A student and what learns beside it: one step on a batch of targets that are f_sr."""

    def __init__(self, student: str, options: StudentTraining, device: torch.device) -> None:
        torch.manual_seed(0)
        self.options = options
        self.device = device
        with device:
            self.student = zoo.parse(student).build().train()
            self.learners = build_helpers(options.terms, (self.student.f_sr_channels, 64))
        speed.prepare_student(self.student, self.learners, options)
        parts = (self.student, *self.learners.values())
        trained = [p for part in parts for p in part.parameters()]
        self.stepper = run_folder.Stepper(trained, options, device)

    def parts(self, batch: Batch, **how: Any) -> dict[str, Tensor]:
        with autocast(self.device, self.options.amp):
            features = self.student.features_clip(batch["lr"])
            inputs = LossInputs(features, batch, self.learners, **how)
            return scheme_loss(inputs, self.options.terms)[0]

    def step(self, batch: Batch, **how: Any) -> None:
        self.stepper.backward(self.parts(batch, **how)["loss"])
        self.stepper.step(0)

    def taught(self, batch: Batch, scheme: bool = True, measures: bool = False) -> None:
        """A step as train-student takes it, of its scheme or of L_rec alone."""
        losses = SchemeLosses(self.learners, self.options)
        with autocast(self.device, self.options.amp):
            features = self.student.features_clip(batch["lr"])
            terms = self.options.terms if scheme else {}
            parts = losses(features, batch, terms, 0, measures)
        self.stepper.backward(parts["loss"])
        self.stepper.step(0)
        metrics_log.to_floats([{name: part.detach() for name, part in parts.items()}])


def write_caches(folder: Path, data: Path, teacher: Network, name: str) -> dict[str, Path]:
    """Random codes for every training clip of `data`, as the cache of each encoding holds them."""
    clips = {clip.key: clip for clip in find_clips(data, "train", FRAMES)}
    views = full_views(list(clips), 0, 1)
    height, width = read_with_crc32(next(iter(clips.values())))[0].shape[1:3]
    channels = {"f_sr": 64, "trunk": teacher.get_submodule("upconv1").in_channels}
    numbers = np.random.default_rng(0)
    paths = {}
    for encoding in ("int8", "trunk-int8"):
        stored = cache.ENCODINGS[encoding].stored
        manifest = cache.Manifest(
            made_by={"teacher": name, "degradation": "bd", "teacher_sha256": "random:0"},
            entries=tuple(map(str, views)),
            frames=FRAMES,
            channels=channels[stored],
            height=height,
            width=width,
            targets=("f_sr",),
            encoding=encoding,
        )
        shape = manifest.arrays[stored].shape[1:]
        scale = np.stack([np.full(shape[1], 0.01), np.zeros(shape[1])]).astype(np.float32)
        path = paths[encoding] = folder / f"{encoding}.zarr"
        tail = tail_of(teacher) if stored == "trunk" else None
        with cache.open_writer(path, manifest, tail=tail) as writer:
            for view in views:
                codes = numbers.integers(-127, 128, shape, dtype=np.int8)
                crc32 = read_with_crc32(clips[view.clip])[1]
                arrays = {stored: codes, f"{stored}_scale": scale}
                writer.write(str(view), arrays, {"source_crc32": crc32})
            writer.finalise()
    return paths


def windows(data: Path, patch: int, batch: int) -> tuple[Batch, list[tuple[View, Box, int]]]:
    """LR and HR of a batch, and where in which clip they lie."""
    clips = {clip.key: clip for clip in find_clips(data, "train", FRAMES)}
    where: list[tuple[View, Box, int]] = []

    def note(view: View, box: Box, crc32: int) -> Mapping[str, Tensor]:
        where.append((view, box, crc32))
        return {}

    stream = Stream(clips, full_views(list(clips), 0, 1), "bd", patch, 0, note)
    return default_collate([stream[p] for p in range(batch)]), where


def from_cache(
    path: Path, amp: str, base: Batch, where: Any, device: torch.device, name: str = "f_sr"
) -> Callable[[], Batch]:
    """Reads the batch's windows as a worker does, and decodes them as training does."""
    reader = cache.open_reader(path)
    decode = Decoder(reader, device, amp=amp)
    targets = CachedTargets(reader, (name,), decode.halo)

    def batch() -> Batch:
        read = default_collate([targets(*window) for window in where])
        return decode({**base, **_on(device, read)})

    return batch


def _on(device: torch.device, batch: Batch) -> Batch:
    return {name: values.to(device) for name, values in batch.items()}


def measure(folder: Path, arguments: argparse.Namespace, options: StudentTraining) -> None:
    torch.manual_seed(0)
    teacher = zoo.parse(arguments.teacher).build()
    paths = write_caches(folder, arguments.data, teacher, arguments.teacher)
    device = pick_device(arguments.device)
    base, where = windows(arguments.data, options.patch, options.batch)
    base = _on(device, base)
    sources: dict[str, Callable[[], Batch]] = {
        name: from_cache(path, options.amp, base, where, device) for name, path in paths.items()
    }
    ready = sources["int8"]()
    sources = {"free": lambda: ready, **sources}
    sources["live"] = partial(LiveTeacher(teacher, device, options.amp), base)
    seconds, ratios = images(folder, arguments, options, base, where, device)
    if arguments.only == "sr":
        report_all(arguments, ratios, {"seconds": seconds})
        return
    stage = Stage(arguments.student, options, device)
    baselines = {n: lambda get=get: stage.step(get()) for n, get in sources.items()}
    seconds |= medians(baselines, arguments.repeats)
    targets = {n: get for n, get in sources.items() if n in paths}
    seconds |= {f"targets of {n}": s for n, s in medians(targets, arguments.repeats).items()}
    giga = {name: count / 1e9 for name, count in macs(arguments, options, teacher).items()}
    predicted = predict(giga)
    ratios |= {
        "int8_over_free": seconds["int8"] / seconds["free"],
        "trunk-int8_over_free": seconds["trunk-int8"] / seconds["free"],
        "live_over_trunk-int8": seconds["live"] / seconds["trunk-int8"],
        **predicted,
    }
    if arguments.wait:
        ratios |= {f"wait_{n}": wait(folder, paths, n, arguments, options) for n in (1, 2)}
    report_all(arguments, ratios, {"seconds": seconds, "gmacs": giga})


def report_all(arguments: Any, ratios: Mapping[str, float], measured: Mapping[str, Any]) -> None:
    names = ("student", "teacher", "batch", "patch", "amp", "threads", "device", "repeats", "wait")
    settings = {name: getattr(arguments, name) for name in names}
    report("step", settings, ratios, arguments.json, measured)


def images(
    folder: Path, arguments: Any, options: StudentTraining, base: Batch, where: Any,
    device: torch.device,
) -> tuple[dict[str, float], dict[str, float]]:  # fmt: skip
    """Seconds and ratios of steps with the teacher's image."""
    options = dataclasses.replace(options, scheme="output")
    path = write_images(folder, arguments.data)
    read = from_cache(path, options.amp, base, where, device, "sr")
    ready = read()
    stage = Stage(arguments.student, options, device)
    baselines: dict[str, Callable[[], object]] = {
        "sr": lambda: stage.taught(read()),
        "sr free": lambda: stage.taught(ready),
        "none": lambda: stage.taught(base, scheme=False),
        "measured": lambda: stage.taught(ready, measures=True),
    }
    seconds = medians(baselines, arguments.repeats)
    more = (seconds["measured"] / seconds["sr free"] - 1) / options.share_every
    return seconds, {
        "sr_over_free": seconds["sr"] / seconds["sr free"],
        "sr_over_none": seconds["sr"] / seconds["none"],
        "shares_over_weights": 1 + more,
    }


def write_images(folder: Path, data: Path) -> Path:
    """A cache of random images for every training clip."""
    clips = {clip.key: clip for clip in find_clips(data, "train", FRAMES)}
    views = full_views(list(clips), 0, 1)
    height, width = read_with_crc32(next(iter(clips.values())))[0].shape[1:3]
    manifest = cache.Manifest(
        made_by={"teacher": "t", "degradation": "bd", "teacher_sha256": "random:0"},
        entries=tuple(map(str, views)), frames=FRAMES, channels=1, height=height, width=width,
        targets=("sr",),
    )  # fmt: skip
    numbers = np.random.default_rng(0)
    with cache.open_writer(folder / "sr.zarr", manifest) as writer:
        for view in views:
            image = numbers.integers(256, size=(FRAMES, 3, height, width), dtype=np.uint8)
            crc32 = read_with_crc32(clips[view.clip])[1]
            writer.write(str(view), {"sr": image}, {"source_crc32": crc32})
        writer.finalise()
    return folder / "sr.zarr"


def macs(
    arguments: argparse.Namespace, options: StudentTraining, teacher: Network
) -> dict[str, float]:
    """Of the step without a teacher, of the tail on its window, and of the whole teacher."""
    side = options.patch // SCALE
    lead = (options.batch, FRAMES)
    with torch.device("meta"):
        batch = {
            "lr": torch.empty(*lead, 3, side, side),
            "hr": torch.empty(*lead, 3, options.patch, options.patch),
            "f_sr": torch.empty(*lead, 64, options.patch, options.patch),
        }
        wide = side + 2 * teacher.halo
        trunk = torch.empty(
            lead[0] * FRAMES, teacher.get_submodule("upconv1").in_channels, wide, wide
        )
    plain = dataclasses.replace(options, amp="none")  # which changes no count
    stage = Stage(arguments.student, plain, torch.device("meta"))
    whole = zoo.parse(arguments.teacher).build().to("meta")
    found = {"step": counted(lambda: stage.parts(batch)["loss"].backward())}
    with torch.no_grad():
        found["tail"] = counted(lambda: whole.upsample(trunk))
        found["teacher"] = counted(lambda: whole.features_clip(batch["lr"]))
    return found


def counted(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2


def predict(count: Mapping[str, float]) -> dict[str, float]:
    from_trunk = count["step"] + count["tail"]
    return {
        "predicted_trunk-int8_over_free": from_trunk / count["step"],
        "predicted_live_over_trunk-int8": (count["step"] + count["teacher"]) / from_trunk,
    }


def wait(
    folder: Path,
    paths: Mapping[str, Path],
    workers: int,
    arguments: argparse.Namespace,
    options: StudentTraining,
) -> float:
    """Share of time that training waits for data once its workers have started."""
    out = folder / f"run-{workers}"
    more = {"workers": workers, "steps": arguments.wait, "log_every": 1, "save_every": 10**6}
    url = str(paths["trunk-int8"])
    run = StudentRun(arguments.data, arguments.student, out, url, device=arguments.device)
    train_student(run, StudentTraining(**{**vars(options), **more}))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    waited = sum(line["wait"] / line["steps_per_s"] for line in lines[1:])
    return float(waited / sum(1 / line["steps_per_s"] for line in lines[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: tests that it runs")
    parser.add_argument("--data", type=Path, default=Path(str(files("stdpipe.assets") / "sample")))
    parser.add_argument("--student", default="fastdvdnet")
    parser.add_argument("--teacher", default="edvr-l")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--patch", type=int, default=256)
    parser.add_argument("--amp", choices=("none", "bf16"), default="none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("sr",), help="leave out steps of STD, which take long")
    parser.add_argument("--wait", type=int, default=0, metavar="STEPS")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.student, arguments.teacher = "fastdvdnet-quarter", QUICK_TEACHER
        arguments.patch, arguments.threads, arguments.repeats = 32, 1, 1
    torch.set_num_threads(arguments.threads)
    options = StudentTraining(
        steps=10**6, warmup_steps=0, batch=arguments.batch, patch=arguments.patch, amp=arguments.amp
    )
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments, options)


if __name__ == "__main__":
    main()
