"""Stage two: train a student from cached targets beside LR/HR clips; the teacher never runs.

setup -> build -> fit -> save. The same command resumes from the last checkpoint.
Axes: B batch, T frames of a clip, H W HR size.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stdpipe import cache, runs, speed
from stdpipe.config import StudentTraining
from stdpipe.data.clips import Stream, finish
from stdpipe.data.degrade import degradation
from stdpipe.data.layouts import find_clips
from stdpipe.data.views import NUM_ORIENTATIONS, View, full_views
from stdpipe.distill.schemes import needs
from stdpipe.distill.terms import MEMORIES, Lesson, helpers, scheme_loss
from stdpipe.distill.time import CollapseGuard
from stdpipe.models import checkpoints, zoo
from stdpipe.models.base import SCALE, Network
from stdpipe.targets import CachedTargets, Decoder, LiveTeacher, check_teacher

LOG = logging.getLogger(__name__)

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
    init: Path | None = None
    """Weights to start from: the student's own, or those of a `pisr` around it."""
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
    if run.init:
        _start_from(student, run.init, str(name))
    live, targets, decode = _targets(run, options, reader, str(name), device)
    lr_channels = _lr_channels(student, str(spec), options, reader, live)
    # built after the student, whose weights are then the same in every scheme
    learners = helpers(options.terms, student.f_sr_channels, lr_channels)
    stream = _stream(run, options, reader, str(name), targets)
    stream.unfinished = device.type != "cpu"
    facts = {
        "network": str(spec),
        "data": str(run.data),
        "degradation": name,
        "cache": run.cache,
        "cache_id": reader.manifest.cache_id if reader else None,
        "clips": runs.digest(v.clip for v in stream.views),
        "live_teacher": _sha256(run.live_teacher),
        "init": str(run.init) if run.init else None,
        "init_sha256": _sha256(run.init),
    }
    weights = run.out / "weights.pt"
    learners = {role: module.to(device) for role, module in learners.items()}
    speed.prepare(student.to(device), learners, options)
    with runs.open_run(run.out, facts, options):
        last = _fit(
            student,
            learners,
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
        if options.terms and run.live_teacher is None:
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
    if random and options.terms:
        LOG.warning("stdpipe: the teacher of %s has random weights: only good for tests", run.cache)
    return reader


def _check_student(student: Network, name: str) -> None:
    if not any(p.requires_grad for p in student.parameters()):
        raise ValueError(f"{name} has nothing to train")
    if student.scale != 4:
        raise ValueError(f"{name} has no F^SR at 4 times the LR size")


def _start_from(student: Network, init: Path, degradation_name: str) -> None:
    """Fill the student from its own weights, or from the part of a privileged teacher it is."""
    state, header = checkpoints.read_checkpoint(init)
    facts = {"weights": str(init), "degradation": header.get("degradation")}
    checkpoints.trained_for(facts, degradation_name)
    if str(header.get("network")).partition(":")[0] == "pisr":
        state = {
            k.removeprefix("student."): v for k, v in state.items() if k.startswith("student.")
        }
    checkpoints.load_state(student, state, str(init))


def _sha256(weights: str | Path | None) -> str | None:
    return checkpoints.file_sha256(Path(weights)) if weights else None


def _lr_channels(
    student: Network,
    name: str,
    options: StudentTraining,
    reader: cache.Reader | None,
    live: Network | None,
) -> tuple[int, int]:
    """Channels of the student's f_lr and the teacher's; 0 where no term looks at them."""
    if "f_lr" not in needs(options.terms):
        return 0, 0
    mine = _probe(student)
    if not mine.requires_grad:
        raise ValueError(
            f"scheme {options.scheme!r} teaches F^LR, but {name} trains nothing before it (it is "
            "the input itself there); choose a scheme on F^SR, such as std"
        )
    if live:
        return mine.shape[1], _probe(live).shape[1]
    assert reader is not None
    return mine.shape[1], reader.manifest.f_lr_channels


def _probe(net: Network) -> Tensor:
    """f_lr of a small black window."""
    side = 16 * SCALE if net.sees_hr else 16
    device = next(net.parameters()).device
    f_lr = net.eval().features(torch.zeros(1, net.num_frame, 3, side, side, device=device)).f_lr
    return f_lr


def _targets(
    run: StudentRun,
    options: StudentTraining,
    reader: cache.Reader | None,
    degradation_name: str,
    device: torch.device,
) -> tuple[Network | None, CachedTargets | None, Decode | None]:
    """A teacher that runs in the loop; what workers read; what the device makes of it. Nothing
    where the scheme needs none."""
    names = needed_targets(options)
    if not names:
        return None, None, None
    wanted = needs(options.terms, options.attention)
    if run.live_teacher:
        made = sorted({"f_sr" if name == "attention" else name for name in wanted})
        with torch.random.fork_rng(devices=[]):  # what is drawn next is as with a cache
            teacher, facts = checkpoints.load_network(None, run.live_teacher)
        check_teacher(teacher, facts, made)
        checkpoints.trained_for(facts, degradation_name)
        return teacher, None, LiveTeacher(teacher, device, options.amp, made)
    assert reader is not None
    _check_targets(run, options, reader.manifest.targets, names)
    decode = Decoder(reader, device, "sr" in wanted, options.amp)
    return None, CachedTargets(reader, names, decode.halo), decode


def _check_targets(
    run: StudentRun, options: StudentTraining, held: tuple[str, ...], names: tuple[str, ...]
) -> None:
    for name in names:
        if name not in held:
            all_of_them = ",".join(n for n in cache.TARGETS if n in (*held, *names))
            raise ValueError(
                f"scheme {options.scheme!r} needs {name}, which {run.cache} does not hold (it has "
                f"{', '.join(held)}); extract again with --targets {all_of_them}"
            )


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
    """What the scheme's terms read of the cache; "sr" is made of f_sr."""
    wanted = needs(options.terms, options.attention)
    stored = {"f_sr" if name == "sr" else name for name in wanted}
    return tuple(name for name in cache.TARGETS if name in stored)


def _fit(
    student: Network,
    learners: dict[str, nn.Module],
    stream: Stream,
    decode: Decode | None,
    save_weights: Callable[[], None],
    out: Path,
    options: StudentTraining,
    device: torch.device,
) -> dict[str, float]:
    terms = options.terms
    guards = _guards(learners, options)
    parts = {"student": student, **learners}
    trained = [p for part in parts.values() for p in part.parameters()]
    stepper = runs.Stepper(trained, options, device)
    start = _resume(out, guards, {**parts, "stepper": stepper})
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
        with runs.autocast(device, options.amp):
            lesson = Lesson(
                student.features_clip(batch["lr"]),
                batch,
                learners,
                attention=options.attention,
                attention_norm=options.attention_norm,
                td_scale=options.td_scale,
            )
            losses = scheme_loss(lesson, terms if warm else {})
        stepper.step(losses["loss"], step)
        values = runs.to_floats(losses)
        runs.stop_on_nan(out, step, values, batch)
        for term, guard in guards.items():
            guard.watch(values.get(term))
        metrics.add(values)
        bar.update()
        done = step + 1
        if done % options.log_every == 0 or done == options.steps:
            norms = {f"{role}_norm": _norm(learners[role]) for role in _memories(learners).values()}
            bar.set_postfix(metrics.log(done, lr=stepper.lr, **norms))
        if done % options.save_every == 0 or done == options.steps:
            frozen = {_frozen(term): guard.frozen for term, guard in guards.items()}
            runs.save_checkpoint(out, done, **parts, stepper=stepper, **frozen)
            save_weights()
    bar.close()
    return metrics.last


def _memories(learners: Mapping[str, nn.Module]) -> dict[str, str]:
    """Term -> its ConvLSTM among the learners; td's is always there."""
    return {term: role for term, role in MEMORIES.items() if role in learners}


def _guards(
    learners: Mapping[str, nn.Module], options: StudentTraining
) -> dict[str, CollapseGuard]:
    """Of each memory, by the term whose value it watches."""
    frozen = options.memory == "frozen"
    return {t: CollapseGuard(learners[role], frozen) for t, role in _memories(learners).items()}


def _frozen(term: str) -> str:
    """A guard's place in checkpoint.pt: "frozen" for td, "frozen_lr" for td-lr."""
    return term.replace("td", "frozen").replace("-", "_")


def _resume(
    out: Path, guards: Mapping[str, CollapseGuard], parts: Mapping[str, nn.Module | runs.Stepper]
) -> int:
    saved = runs.load_checkpoint(out)
    if saved is None:
        return 0
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    for term, guard in guards.items():
        if saved[_frozen(term)]:
            guard.freeze()
    return int(saved["step"])


def _norm(memory: nn.Module) -> float:
    """Of all the ConvLSTM's weights, to watch for collapse: L_TD falling by its doing alone."""
    return float(torch.stack([p.detach().norm() for p in memory.parameters()]).norm())
