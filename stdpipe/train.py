"""Stage two: train a student from cached targets beside LR/HR clips; the teacher never runs.

setup -> build -> fit -> save. The same command resumes from the last checkpoint.
Axes: B batch, T frames of a clip, H W HR size.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stdpipe import cache, runs
from stdpipe.config import StudentTraining
from stdpipe.data.clips import Stream, finish
from stdpipe.data.degrade import degradation
from stdpipe.data.layouts import find_clips
from stdpipe.data.views import NUM_ORIENTATIONS, View, full_views
from stdpipe.distill.std import Weights, scheme_weights, std_loss
from stdpipe.distill.time import CollapseGuard
from stdpipe.models import checkpoints, zoo
from stdpipe.models.base import Features, Network
from stdpipe.models.convlstm import ConvLSTM
from stdpipe.targets import CachedTargets, Decoder, LiveTeacher, check_teacher

LOG = logging.getLogger(__name__)

TAUGHT = 64  # channels of F^SR in every network that can teach, and of the ConvLSTM
Decode = Decoder | LiveTeacher


@dataclass(frozen=True)
class StudentRun:
    """Where and on what; how is a StudentTraining."""

    data: Path
    student: str
    out: Path
    cache: str | None = None
    """None is enough for scheme "none", which then sees every orientation of a clip. To compare it
    with a distilled student, give both the cache: they see the same clips in the same order."""
    degradation: str | None = None
    """None takes the cache's, or `bd` without a cache."""
    teacher_weights: Path | None = None
    """Where given, a cache made with other weights is refused."""
    live_teacher: str | None = None
    """Weights of a teacher to run in the loop instead of reading targets, for comparison."""
    frames: int = 7
    """T of a clip; longer sequences are cut."""
    device: str = "auto"


def train_student(run: StudentRun, options: StudentTraining) -> dict[str, Any]:
    """Train, or resume; returns what was done. Weights end up in OUT/weights.pt."""
    device = runs.pick_device(run.device)
    reader = _open_cache(run, options)
    name = run.degradation or (reader.manifest.made_by.get("degradation") if reader else "bd")
    spec = zoo.parse(run.student).with_phase(degradation(str(name)).phase)
    torch.manual_seed(options.seed)
    student = spec.build()
    _check_student(student, str(spec))
    memory = ConvLSTM()  # built after the student, whose weights are then the same in every scheme
    adapter = _adapter(student.f_sr_channels)
    live = run.live_teacher
    targets, decode = _targets(run, options, reader, str(name), device)
    stream = _stream(run, options, reader, str(name), targets)
    stream.unfinished = device.type != "cpu"
    facts = {
        "network": str(spec),
        "data": str(run.data),
        "degradation": name,
        "cache": run.cache,
        "cache_id": reader.manifest.cache_id if reader else None,
        "clips": runs.digest(v.clip for v in stream.views),
        "live_teacher": checkpoints.file_sha256(Path(live)) if live else None,
    }
    weights = run.out / "weights.pt"
    with runs.open_run(run.out, facts, options):
        last = _fit(
            student.to(device),
            memory.to(device),
            adapter.to(device),
            stream,
            decode,
            lambda: checkpoints.save_network(weights, student, str(spec), str(name)),
            run.out,
            options,
            device,
        )
    return {
        "weights": str(weights),
        "network": str(spec),
        "scheme": options.scheme,
        "steps": options.steps,
        **last,
    }


def _open_cache(run: StudentRun, options: StudentTraining) -> cache.Reader | None:
    if run.cache is None:
        if options.scheme != "none" and run.live_teacher is None:
            raise ValueError(
                f"scheme {options.scheme!r} learns from a teacher: give --cache, made by "
                "extract-teacher, or choose --scheme none"
            )
        return None
    expect: dict[str, Any] = {"frames": run.frames}
    if run.degradation:
        expect["degradation"] = run.degradation
    if run.teacher_weights:
        expect["teacher_sha256"] = checkpoints.file_sha256(run.teacher_weights)
    reader = cache.open_reader(run.cache, expect)
    random = str(reader.manifest.made_by.get("teacher_sha256")).startswith("random:")
    if random and options.scheme != "none":
        LOG.warning("stdpipe: the teacher of %s has random weights: only good for tests", run.cache)
    return reader


def _check_student(student: Network, name: str) -> None:
    if not any(p.requires_grad for p in student.parameters()):
        raise ValueError(f"{name} has nothing to train")
    if student.scale != 4:
        raise ValueError(f"{name} has no F^SR at 4 times the LR size")


def _adapter(channels: int) -> nn.Module:
    """What brings the student's F^SR to the teacher's channels for the distillation losses.

    A 1x1 convolution, trained with the student and left behind: it lies in checkpoint.pt, to
    resume, and not in weights.pt. Nothing at all where the channels agree.
    """
    return nn.Identity() if channels == TAUGHT else nn.Conv2d(channels, TAUGHT, 1)


def _adapted(adapter: nn.Module, features: Features) -> Features:
    """The features whose f_sr (B, T, C, H, W) the distillation losses see; sr stays."""
    f_sr: Tensor = adapter(features.f_sr.flatten(0, 1)).unflatten(0, features.f_sr.shape[:2])
    return features._replace(f_sr=f_sr)


def _targets(
    run: StudentRun,
    options: StudentTraining,
    reader: cache.Reader | None,
    degradation_name: str,
    device: torch.device,
) -> tuple[CachedTargets | None, Decode | None]:
    """What workers read, and what the device makes of it; nothing where the scheme needs none."""
    names = needed_targets(options)
    if not names:
        return None, None
    if run.live_teacher:
        teacher, facts = checkpoints.load_network(None, run.live_teacher)
        check_teacher(teacher, facts)
        checkpoints.trained_for(facts, degradation_name)
        return None, LiveTeacher(teacher, device, options.amp)
    assert reader is not None
    for name in names:
        if name not in reader.manifest.targets:
            raise ValueError(
                f"scheme {options.scheme!r} needs {name}, which {run.cache} does not hold (it has "
                f"{', '.join(reader.manifest.targets)}); extract again with --targets"
            )
    decode = Decoder(reader, device)
    return CachedTargets(reader, names, decode.halo), decode


def _stream(
    run: StudentRun,
    options: StudentTraining,
    reader: cache.Reader | None,
    degradation_name: str,
    targets: CachedTargets | None,
) -> Stream:
    clips = {c.key: c for c in find_clips(run.data, "train", length=run.frames)}
    if reader is None:
        views = full_views(list(clips), options.seed, NUM_ORIENTATIONS)
    else:
        views = [View.parse(entry) for entry in reader.manifest.entries]
        _check_clip_list(run, clips.keys(), {v.clip for v in views})
    first = options.warmup_steps * options.batch
    return Stream(clips, views, degradation_name, options.patch, options.seed, targets, first)


def _check_clip_list(run: StudentRun, here: Any, cached: set[str]) -> None:
    for some, others, where in ((cached, here, f"cache {run.cache}"), (here, cached, run.data)):
        odd = sorted(set(some) - set(others))
        if odd:
            raise ValueError(
                f"clip lists differ: {where} has {len(odd)} clips that the other lacks, {odd[0]} "
                f"first ({len(cached)} clips in {run.cache}, {len(here)} in {run.data}); use the "
                "data set of the cache, or extract again"
            )


def needed_targets(options: StudentTraining) -> tuple[str, ...]:
    """What a scheme reads: sd attention maps alone (if sum2), td and std f_sr, none nothing."""
    match options.scheme:
        case "none":
            return ()
        case "sd" if options.attention == "sum2":
            return ("attention",)
    return ("f_sr",)


def _fit(
    student: Network,
    memory: ConvLSTM,
    adapter: nn.Module,
    stream: Stream,
    decode: Decode | None,
    save_weights: Callable[[], None],
    out: Path,
    options: StudentTraining,
    device: torch.device,
) -> dict[str, float]:
    guard = CollapseGuard(memory, frozen=options.memory == "frozen")
    trained = [p for part in (student, memory, adapter) for p in part.parameters()]
    stepper = runs.Stepper(trained, options, device)
    start = _resume(out, guard, student=student, memory=memory, adapter=adapter, stepper=stepper)
    full = scheme_weights(options.scheme, options.lambda1, options.lambda2)
    metrics = runs.Metrics(out, start)
    batches = iter(runs.loader(stream, start, options.steps, options))
    bar = runs.progress("train-student", start, options.steps)
    student.train()
    for step in range(start, options.steps):
        with metrics.waiting():
            batch = {k: v.to(device, non_blocking=True) for k, v in next(batches).items()}
        batch = finish(batch, stream.degradation)
        warm = step >= options.warmup_steps
        if warm and decode:
            batch = decode(batch)
        weights = full if warm else Weights(0, 0)
        with runs.autocast(device, options.amp):
            features = student.features_clip(batch["lr"])
            parts = std_loss(
                _adapted(adapter, features) if any(weights) else features,
                batch,
                weights,
                memory,
                attention=options.attention,
                attention_norm=options.attention_norm,
                td_scale=options.td_scale,
            )
        stepper.step(parts["loss"], step)
        values = runs.to_floats(parts)
        runs.stop_on_nan(out, step, values, batch)
        guard.watch(values.get("td"))
        metrics.add(values)
        bar.update()
        done = step + 1
        if done % options.log_every == 0 or done == options.steps:
            bar.set_postfix(metrics.log(done, lr=stepper.lr, memory_norm=_norm(memory)))
        if done % options.save_every == 0 or done == options.steps:
            runs.save_checkpoint(
                out,
                done,
                student=student,
                memory=memory,
                adapter=adapter,
                stepper=stepper,
                frozen=guard.frozen,
            )
            save_weights()
    bar.close()
    return metrics.last


def _resume(out: Path, guard: CollapseGuard, **parts: nn.Module | runs.Stepper) -> int:
    saved = runs.load_checkpoint(out)
    if saved is None:
        return 0
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    if saved["frozen"]:
        guard.freeze()
    return int(saved["step"])


def _norm(memory: ConvLSTM) -> float:
    """Of all the ConvLSTM's weights, to watch for collapse: L_TD falling by its doing alone."""
    return float(torch.stack([p.detach().norm() for p in memory.parameters()]).norm())
