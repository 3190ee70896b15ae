"""Stage two: train a student from cached targets beside LR/HR clips; the teacher never runs.

setup -> build -> fit -> save. The same command resumes from the last checkpoint.
Axes: B batch, T frames of a clip, H W HR size.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stdpipe import cache, distributed
from stdpipe.cache.errors import UserError
from stdpipe.data.degrade import degradation
from stdpipe.data.layouts import find_clips
from stdpipe.data.samples import Stream, check_sizes, finish
from stdpipe.data.views import NUM_ORIENTATIONS, View, full_views
from stdpipe.device import keep_memory, pick_device
from stdpipe.distill.schemes import needs
from stdpipe.distill.terms import build_helpers
from stdpipe.evaluate import evaluate
from stdpipe.evaluation.job import Evaluation
from stdpipe.features.targets import CachedTargets, Decoder, LiveTeacher, to_device
from stdpipe.features.teacher import check_teacher
from stdpipe.models import checkpoints, zoo
from stdpipe.models.base import SCALE, Network
from stdpipe.training import metrics_log, run_folder, speed
from stdpipe.training.config import StudentTraining
from stdpipe.training.jobs import StudentRun
from stdpipe.training.student import StudentTrainer

LOG = logging.getLogger(__name__)

Decode = Decoder | LiveTeacher

# what the stream is made of, and how it is walked through
SHARED = ("patch", "batch", "accumulate", "stream_seed", "workers", "amp")


def train_student(run: StudentRun, options: StudentTraining) -> dict[str, Any]:
    """Train, or resume; returns what was done. Weights end up in OUT/weights.pt."""
    return train_students([(run, options)])[0]


def train_students(jobs: Sequence[tuple[StudentRun, StudentTraining]]) -> list[dict[str, Any]]:
    """Several at once from one stream, each as if it were trained alone.

    Runs may differ in student, init and out, options in all but what the stream is made of
    (SHARED). Raises UserError where they differ elsewhere, and, when the others are done, where a
    student's loss was not finite.
    """
    run, options = jobs[0]
    _check_together(jobs)
    device = pick_device(run.device)
    keep_memory(device)
    with distributed.group(device), ExitStack() as opened:
        reader = _open_cache(run, [o for _, o in jobs])
        name = run.degradation or (reader.manifest.made_by.get("degradation") if reader else "bd")
        live, targets, decode = _targets(run, [o for _, o in jobs], reader, str(name), device)
        stream = _stream(run, options, reader, str(name), targets)
        stream.targets_from = _first_taught(jobs) * options.batch
        stream.unfinished = device.type != "cpu"
        if any(o.evaluate_every for _, o in jobs):
            find_clips(run.data, "test")  # told now rather than after hours, where there are none
        facts = {
            "data": str(run.data),
            "degradation": name,
            "cache": run.cache,
            "cache_id": reader.manifest.cache_id if reader else None,
            "clips": run_folder.digest(v.clip for v in stream.views),
            "live_teacher": _sha256(run.live_teacher),
        }
        trainers = [_trainer(*job, facts, reader, live, device, opened) for job in jobs]
        _fit(trainers, stream, decode, _first_taught(jobs), device)
    return [
        {
            "weights": str(run.out / "weights.pt"),
            "network": str(_spec(run, str(name))),
            "scheme": options.scheme,
            "steps": options.steps,
            **trainer.metrics.last,
        }
        for (run, options), trainer in zip(jobs, trainers, strict=True)
    ]


def _check_together(jobs: Sequence[tuple[StudentRun, StudentTraining]]) -> None:
    _, first = jobs[0]
    for run, options in jobs:
        for key in SHARED:
            mine, other = getattr(options, key), getattr(first, key)
            if mine != other:
                key = "data_seed" if key == "stream_seed" else key
                raise UserError(
                    f"students that train together share {key}: {mine} for {run.out.name}, "
                    f"{other} for {jobs[0][0].out.name}; set it once for all"
                )
    if len({run.out.resolve() for run, _ in jobs}) < len(jobs):
        raise UserError("students that train together need a folder each")


def _first_taught(jobs: Sequence[tuple[StudentRun, StudentTraining]]) -> int:
    """The first step at which a student looks at the teacher."""
    return min((o.warmup_steps for _, o in jobs if o.terms), default=0)


def _spec(run: StudentRun, degradation_name: str) -> zoo.Spec:
    return zoo.parse(run.student).with_phase(degradation(degradation_name).phase)


def _trainer(
    run: StudentRun,
    options: StudentTraining,
    facts: Mapping[str, Any],
    reader: cache.Reader | None,
    live: Network | None,
    device: torch.device,
    opened: ExitStack,
) -> StudentTrainer:
    """A student with its helpers; `opened` keeps its folder for the time of training."""
    name, weights = str(facts["degradation"]), run.out / "weights.pt"
    spec = _spec(run, name)
    torch.manual_seed(options.seed)
    student = spec.build()
    _check_student(student, str(spec), options)
    if run.init:
        _start_from(student, run.init, name)
    lr_channels = _lr_channels(student, str(spec), options, reader, live)
    # built after the student, whose weights are then the same in every scheme
    helpers = build_helpers(options.terms, student.f_sr_channels, lr_channels)
    helpers = {role: module.to(device) for role, module in helpers.items()}
    speed.prepare(student.to(device), helpers, options)
    init = {"init": str(run.init) if run.init else None, "init_sha256": _sha256(run.init)}
    of_network = {"network": str(spec), **checkpoints.revised(student)}
    opened.enter_context(run_folder.open_run(run.out, {**of_network, **facts, **init}, options))
    return StudentTrainer(
        run.out,
        student,
        helpers,
        options,
        device,
        lambda: checkpoints.save_network(weights, student, str(spec), name),
        lambda out: evaluate(
            Evaluation(
                run.data,
                weights=str(weights),
                out=out,
                overwrite=True,
                device=run.device,
                amp=options.amp,
            )
        ),
    )


def _open_cache(run: StudentRun, every: Sequence[StudentTraining]) -> cache.Reader | None:
    taught = [options.scheme for options in every if options.terms]
    if run.cache is None:
        if taught and run.live_teacher is None:
            raise UserError(
                f"scheme {taught[0]!r} learns from a teacher: give --cache, made by "
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
    if random and taught and distributed.first():
        LOG.warning("stdpipe: the teacher of %s has random weights: only good for tests", run.cache)
    return reader


def _check_student(student: Network, name: str, options: StudentTraining) -> None:
    if not any(p.requires_grad for p in student.parameters()):
        raise UserError(f"{name} has nothing to train")
    if student.scale != 4:
        raise UserError(f"{name} has no F^SR at 4 times the LR size")
    run_folder.check_slices(student, name, options)


def _start_from(student: Network, init: Path, degradation_name: str) -> None:
    """Fill the student from its own weights, or from the part of a privileged teacher it is."""
    state, header = checkpoints.read_checkpoint(init)
    facts = {"weights": str(init), "degradation": header.degradation}
    checkpoints.trained_for(facts, degradation_name)
    if str(header.network).partition(":")[0] == "pisr":
        state = {
            k.removeprefix("student."): v for k, v in state.items() if k.startswith("student.")
        }
    checkpoints.load_state(student, state, str(init))
    checkpoints.check_revision(student, header, str(init))


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
        raise UserError(
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
    every: Sequence[StudentTraining],
    reader: cache.Reader | None,
    degradation_name: str,
    device: torch.device,
) -> tuple[Network | None, CachedTargets | None, Decode | None]:
    """A teacher that runs in the loop; what workers read; what the device makes of it. Nothing
    where no scheme needs any."""
    read = {name for options in every for name in needed_targets(options)}
    names = tuple(name for name in cache.TARGETS if name in read)
    if not names:
        return None, None, None
    wanted = set().union(*(needs(options.terms, options.attention) for options in every))
    if run.live_teacher:
        made = sorted({"f_sr" if name == "attention" else name for name in wanted})
        with torch.random.fork_rng(devices=[]):  # what is drawn next is as with a cache
            teacher, facts = checkpoints.load_network(None, run.live_teacher)
        check_teacher(teacher, facts, made)
        checkpoints.trained_for(facts, degradation_name)
        return teacher, None, LiveTeacher(teacher, device, every[0].amp, made)
    assert reader is not None
    name = str(reader.manifest.made_by.get("teacher"))
    follows = any(term.startswith("pisr") for options in every for term in options.terms)
    if follows and not name.startswith("pisr") and distributed.first():
        LOG.warning("stdpipe: %s did not see HR: with it, scheme pisr is not Lee et al.'s", name)
    for options in every:
        _check_targets(run, options, reader.manifest.targets, needed_targets(options))
    decode = Decoder(reader, device, "sr" in wanted, every[0].amp)
    return None, CachedTargets(reader, names, decode.halo), decode


def _check_targets(
    run: StudentRun, options: StudentTraining, held: tuple[str, ...], names: tuple[str, ...]
) -> None:
    for name in names:
        if name not in held:
            all_of_them = ",".join(n for n in cache.TARGETS if n in (*held, *names))
            raise UserError(
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
        views = full_views(list(clips), options.stream_seed, NUM_ORIENTATIONS)
    else:
        views = [View.parse(entry) for entry in reader.manifest.entries]
        _check_clip_list(run, clips.keys(), {v.clip for v in views})
    check_sizes(list(clips.values()), options.patch)
    return Stream(clips, views, degradation_name, options.patch, options.stream_seed, targets)


def _check_clip_list(run: StudentRun, here: Any, cached: set[str]) -> None:
    for some, others, where in ((cached, here, f"cache {run.cache}"), (here, cached, run.data)):
        odd = sorted(set(some) - set(others))
        if odd:
            raise UserError(
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
    trainers: Sequence[StudentTrainer],
    stream: Stream,
    decode: Decode | None,
    first_taught: int,
    device: torch.device,
) -> None:
    shared = trainers[0].options
    start, stop = min(p.done for p in trainers), max(p.options.steps for p in trainers)
    batches = iter(run_folder.loader(stream, start, stop, shared, device))
    bar = metrics_log.progress("train-student", start, stop)
    clock = metrics_log.Clock()
    for step in range(start, stop):
        learning = [trainer for trainer in trainers if trainer.learns(step)]
        inputs = []
        for slices_left in reversed(range(shared.accumulate)):
            with clock.waiting():
                batch = to_device(next(batches), device)
            batch = finish(batch, stream.degradation)
            inputs.append(batch)
            if decode and step >= first_taught:
                batch = decode(batch)
            for trainer in learning:
                trainer.learn(batch, step, more_to_come=slices_left > 0)
        waited = clock.lap()
        for trainer in learning:
            try:
                trainer.update(step, inputs, waited)
            except run_folder.NotFiniteError as error:
                trainer.failed = error
                continue
            if shown := trainer.write(batch):
                of_whom = {} if len(trainers) == 1 else {"of": trainer.out.name}
                bar.set_postfix({**of_whom, **shown})
        bar.update()
        if all(trainer.failed or trainer.done == trainer.options.steps for trainer in trainers):
            break
    bar.close()
    failed = [trainer.failed for trainer in trainers if trainer.failed]
    if failed:
        raise failed[0]
