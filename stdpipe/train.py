"""Stage two: train a student from a cache of targets, without running the teacher.

setup -> build -> fit -> save. The same command resumes from the last checkpoint.
Axes: B batch, T frames of a clip, H W HR size.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stdpipe import distributed
from stdpipe.cache.errors import UserError
from stdpipe.data.camera import encoder
from stdpipe.data.degrade import degradation, same_grid
from stdpipe.data.frames import Clip
from stdpipe.data.named import with_option
from stdpipe.data.pairs import find_pairs
from stdpipe.data.patch import check_patch
from stdpipe.data.samples import Stream, finish
from stdpipe.data.sizes import check_sizes
from stdpipe.device import keep_memory, pick_device
from stdpipe.distill.names import mark
from stdpipe.distill.terms import build_helpers
from stdpipe.evaluate import evaluate
from stdpipe.evaluation.job import Evaluation
from stdpipe.features.info import provenance
from stdpipe.features.targets import to_device
from stdpipe.models import checkpoints, zoo
from stdpipe.models.base import Network, check_scale
from stdpipe.training import clip_sums, metrics_log, run_folder, speed, stopping, warm
from stdpipe.training.clips import clip_stream
from stdpipe.training.config import StudentTraining
from stdpipe.training.held_out import held_out, score
from stdpipe.training.jobs import StudentRun
from stdpipe.training.source import Source, looked_at, open_source
from stdpipe.training.student import StudentTrainer

Job = tuple[StudentRun, StudentTraining]

# by all students that train together
SHARED = ("patch", "batch", "accumulate", "stream_seed", "workers", "amp", "hold_out")


def train_student(run: StudentRun, options: StudentTraining) -> dict[str, Any]:
    """Train, or resume, into OUT/weights.pt; return the facts and the last losses."""
    return train_students([(run, options)])[0]


def train_students(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Train several at once from one stream, each as if it were trained alone.

    Runs may differ in student, init and out, and options in all but SHARED. Raises UserError where
    they differ elsewhere and, when the others are done, for a student whose loss is not finite.
    """
    run, options = jobs[0]
    _check_together(jobs)
    device = pick_device(run.device)
    keep_memory(device)
    with distributed.group(device), ExitStack() as opened:
        parts = run_folder.parts_of_caches(run.out for run, _ in jobs)
        source = open_source(run, [o for _, o in jobs], device, parts)
        stream = clip_stream(
            run.data,
            source.reader,
            source.degradation,
            options.patch,
            options.stream_seed,
            frames=run.frames,
            hold_out=options.hold_out,
            resumes=bool(parts),
            targets=source.targets,
        )
        _check_labelled(jobs, stream, source)
        stream.targets_from = _first_taught(jobs) * options.batch
        stream.unfinished = device.type != "cpu"
        if any(o.evaluate_every for _, o in jobs):
            _check_tested(run.data, stream.clips, source.degradation)  # now, not after hours
        facts = {
            "data": str(run.data),
            "degradation": source.degradation,
            **({"encoder": encoder()} if degradation(source.degradation).camera else {}),
            "cache": run.cache,
            "cache_id": source.reader.manifest.cache_id if source.reader else None,
            **({"cache_parts": source.cache_parts()} if source.readers else {}),
            **({"cache_sources": source.cache_sources()} if source.readers else {}),
            "clips": run_folder.digest(v.clip for v in stream.views),
            "live_teacher": run.live_teacher and checkpoints.file_sha256(Path(run.live_teacher)),
            "live_teacher_file": run.live_teacher,
            **_several(run, source),
        }
        trainers = [_trainer(*job, facts, source, stream, device, opened) for job in jobs]
        for trainer in trainers:
            trainer.settle()
        stream.lead = warm.lead([t.student for t in trainers], [o for _, o in jobs])
        with stopping.heard() as stop:
            _fit(trainers, stream, source, _first_taught(jobs), device, stop)
    return [
        {
            "weights": str(run.out / "weights.pt"),
            "network": str(_spec(run, source.degradation)),
            "scheme": options.scheme,
            "steps": options.steps,
            **trainer.metrics.last,
        }
        for (run, options), trainer in zip(jobs, trainers, strict=True)
    ]


def _check_tested(data: Path, trained: Mapping[str, Clip], how: str) -> None:
    """Raise UserError where the clips that evaluate_every scores are broken, or trained on."""
    clips = find_pairs(data, "test", how)
    check_sizes(clips, degradation(how).scale)
    whole = {key.rpartition("/")[0] for key in trained}  # of which runs were cut
    if seen := [clip.key for clip in clips if clip.key in trained or clip.key in whole]:
        raise UserError(
            f"evaluate_every would score {seen[0]}, which is trained on: hold sources out, as in "
            f"--data {with_option(data, 'test=0.2')}, or leave evaluate_every out"
        )


def _check_labelled(jobs: Sequence[Job], stream: Stream, source: Source) -> None:
    """Raise UserError for a scheme that has nothing to say of clips of LR alone."""
    if not stream.has_alone:
        return
    alone = next(clip.key for clip in stream.clips.values() if not clip.has_hr)
    if source.live and source.live.sees_hr:
        raise UserError(f"clip {alone} has LR alone, and the live teacher sees HR: exclude it")
    is_all = not any(clip.has_hr for clip in stream.clips.values())
    for _, options in jobs:
        if not options.terms or "output-hr" in options.terms:
            raise UserError(
                f"clip {alone} has LR alone, of which scheme {options.scheme!r} learns nothing: "
                "choose output, with a --cache, or exclude such clips"
            )
        if is_all and options.share:
            raise UserError(
                "no clip has HR, so that L_rec has no gradient that a share could be of: give the "
                "term a weight"
            )


def _check_together(jobs: Sequence[Job]) -> None:
    first_run, first = jobs[0]
    for run, options in jobs:
        for key in SHARED:
            mine, other = getattr(options, key), getattr(first, key)
            if mine != other:
                key = "data_seed" if key == "stream_seed" else key
                raise UserError(
                    f"students that train together share {key}: {mine} for {run.out.name}, "
                    f"{other} for {first_run.out.name}; set it once for all"
                )
    if len({run.out.resolve() for run, _ in jobs}) < len(jobs):
        raise UserError("students that train together need separate folders")


def _first_taught(jobs: Sequence[Job]) -> int:
    """Return the first step at which a student looks at the teacher."""
    return min((o.first_taught for _, o in jobs if o.terms), default=0)


def _spec(run: StudentRun, degradation_name: str) -> zoo.Spec:
    return zoo.parse(run.student).with_phase(degradation(degradation_name).phase)


def _trainer(
    run: StudentRun,
    options: StudentTraining,
    facts: Mapping[str, Any],
    source: Source,
    stream: Stream,
    device: torch.device,
    opened: ExitStack,
) -> StudentTrainer:
    """Build a student with its helpers; its folder is locked until `opened` closes."""
    spec = _spec(run, source.degradation)
    torch.manual_seed(options.seed)
    student = spec.build()
    run_folder.check_trainable(student, str(spec), options)
    if student.scale == 1:
        raise UserError(f"{spec} enlarges nothing: its input has HR size already")
    scale = degradation(source.degradation).scale
    check_scale(student, str(spec), source.degradation, scale)
    check_patch(options.patch, scale)
    if run.init:
        _start_from(student, spec, run.init, source.degradation)
    seen = looked_at(run, options, source.held)
    if {"f_sr", "attention"} & seen and not student.f_sr_channels:
        raise UserError(
            f"scheme {options.scheme!r} teaches F^SR, and {spec} has none, since its image is "
            "shuffled out of LR features: choose output, or give the network head=f_sr"
        )
    helpers: dict[str, nn.Module] = {}
    for n in range(1, len(run.teachers) + 1):
        taught_lr = "f_lr" in seen
        lr_channels = _lr_channels(student, str(spec), options, source, n) if taught_lr else (0, 0)
        # built after the student, whose weights are then the same in every scheme
        widths = student.f_sr_channels, _teacher_width(source, n) or student.f_sr_channels
        made = build_helpers(options.terms, widths, lr_channels)
        helpers |= {mark(role, n): module.to(device) for role, module in made.items()}
    marked = {mark(name, n) for name in seen for n in range(1, len(run.teachers) + 1)}
    speed.prepare_student(student.to(device), helpers, options)
    of_network = {"network": str(spec), **checkpoints.revised(student)}
    facts = {**of_network, **facts, **checkpoints.init_facts(run.init)}
    opened.enter_context(run_folder.open_run(run.out, facts, options))

    def save_weights(file: Path) -> None:
        checkpoints.save_network(file, student, str(spec), source.degradation)

    def evaluate_into(out: Path) -> None:
        last = run.out / ("last.pt" if options.keep == "best" else "weights.pt")
        how = source.degradation
        job = Evaluation(run.data, weights=str(last), degradation=how, amp=options.amp)
        evaluate(replace(job, out=out, overwrite=True, device=run.device))

    unseen = [stream.clips[key] for key in held_out(stream.clips, options.hold_out)]
    scored = partial(score, student, unseen, source.degradation) if unseen else None
    return StudentTrainer(
        run.out,
        student,
        helpers,
        options,
        device,
        marked,
        clip_sums.ClipSums(stream, run.out),
        save_weights,
        evaluate_into,
        scored,
        run.teachers,
    )


def _start_from(student: Network, spec: zoo.Spec, init: Path, degradation_name: str) -> None:
    """Fill the student from its own weights, or from those of a privileged teacher around it."""
    state, header = checkpoints.read_checkpoint(init, student, spec)
    facts = {"weights": str(init), "degradation": header.degradation}
    checkpoints.trained_for(facts, degradation_name, fits=same_grid)
    if str(header.network).partition(":")[0] == "pisr":
        part = "student."
        state = {k.removeprefix(part): v for k, v in state.items() if k.startswith(part)}
        header = checkpoints.Header()
    checkpoints.load_state(student, state, header, str(init))


def _several(run: StudentRun, source: Source) -> dict[str, Any]:
    """Return the facts of a run with several teachers, or with a weight for one."""
    ids = [reader.manifest.cache_id for reader in source.readers[1:]]
    others = {"other_caches": list(run.other_caches), "other_cache_ids": ids} if ids else {}
    return {**others, **({"cache_weight": list(run.cache_weight)} if run.cache_weight else {})}


def _teacher_width(source: Source, number: int) -> int:
    """Return C_SR of one of the teachers; 0 where there is none."""
    if source.live:
        return source.live.f_sr_channels
    if not source.readers:
        return 0
    return provenance(source.readers[number - 1].manifest).f_sr_channels


def _lr_channels(
    student: Network, name: str, options: StudentTraining, source: Source, number: int
) -> tuple[int, int]:
    """Return the channels of the student's f_lr and of one teacher's."""
    mine = _probe(student)
    if not mine.requires_grad:
        raise UserError(
            f"scheme {options.scheme!r} teaches F^LR, which in {name} is the input itself; choose "
            "a scheme on F^SR, such as std"
        )
    if source.live:
        return mine.shape[1], _probe(source.live).shape[1]
    return mine.shape[1], source.readers[number - 1].manifest.f_lr_channels


def _probe(net: Network) -> Tensor:
    """Compute f_lr of one small black frame."""
    side = 16 * net.factor if net.sees_hr else 16
    device = next(net.parameters()).device
    return net.eval().features_clip(torch.zeros(1, 1, 3, side, side, device=device)).f_lr[:, 0]


def _fit(
    trainers: Sequence[StudentTrainer],
    stream: Stream,
    source: Source,
    first_taught: int,
    device: torch.device,
    stop: stopping.Stop,
) -> None:
    shared = trainers[0].options
    start, end = min(t.done for t in trainers), max(t.options.steps for t in trainers)
    batches = iter(run_folder.loader(stream, start, end, shared, device))
    bar = metrics_log.progress("train-student", start, end)
    clock = metrics_log.Clock()
    for step in range(start, end):
        learning = [trainer for trainer in trainers if trainer.learns(step)]
        inputs = []
        for slices_left in reversed(range(shared.accumulate)):
            with clock.waiting():
                batch = next(batches)
                for trainer in learning:
                    trainer.clip_sums.take(batch)
                batch = to_device(clip_sums.without(batch), device)
            batch = finish(batch, stream.degradation)
            inputs.append(batch)
            if source.decode and step >= first_taught:
                batch = source.decode(batch)
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
        if stop.agreed():
            for trainer in learning:
                trainer.keep(batch)
            break
    bar.close()
    failed = [trainer.failed for trainer in trainers if trainer.failed]
    if failed:
        raise failed[0]
