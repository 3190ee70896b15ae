"""The source of a training's targets: a cache, or a teacher that runs in the loop."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stdpipe import cache, distributed
from stdpipe.cache.errors import UserError
from stdpipe.distill.schemes import needs, stored
from stdpipe.distill.terms import TERMS
from stdpipe.features.targets import CachedTargets, Decoder, LiveTeacher
from stdpipe.features.teacher import check_teacher
from stdpipe.models import checkpoints, zoo
from stdpipe.models.base import Network
from stdpipe.training.config import StudentTraining
from stdpipe.training.jobs import StudentRun

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """The source of the teacher's maps; its parts are None where no scheme needs them."""

    degradation: str
    reader: cache.Reader | None = None
    live: Network | None = None
    """The teacher that runs in the loop."""
    targets: CachedTargets | None = None
    """Reads the cache, in workers."""
    decode: Decoder | LiveTeacher | None = None
    """Adds the teacher's maps to a batch, on the training device."""

    @property
    def held(self) -> tuple[str, ...]:
        """The targets of the cache; none without one."""
        return self.reader.manifest.targets if self.reader else ()

    def cache_facts(self) -> dict[str, Any]:
        """Return what a run says of its cache: what made it, and the part that the run uses."""
        if self.reader is None:
            return {"cache_id": None}
        made = self.reader.manifest
        return {
            "cache_id": made.cache_id,
            "cache_entries": len(made.entries),
            "cache_targets": list(made.targets),
            "cache_encoding": made.encoding if {*made.targets} - {"sr"} else None,
        }


def open_source(
    run: StudentRun,
    every: Sequence[StudentTraining],
    device: torch.device,
    part: cache.Part | None = None,
) -> Source:
    """Open the cache, or load the live teacher, that the schemes of all students need.

    part: the part of the cache that a run to resume began with; None: all that is finished.
    Raises UserError where it is missing or does not fit.
    """
    reader = _open_cache(run, [options.scheme for options in every if options.terms], part)
    made_by = reader.manifest.made_by if reader else {}
    degradation = str(run.degradation or made_by.get("degradation") or "bd")
    held = reader.manifest.targets if reader else ()
    needed = [looked_at(run, options, held) for options in every]
    wanted = set().union(*needed)
    if not wanted:
        return Source(degradation, reader)
    amp = every[0].amp
    if run.live_teacher:
        with torch.random.fork_rng(devices=[]):  # students begin as they do with a cache
            teacher, facts = checkpoints.load_network(None, run.live_teacher)
        check_teacher(teacher, facts, sorted(wanted))
        checkpoints.trained_for(facts, degradation)
        decode = LiveTeacher(teacher, device, amp, sorted(wanted))
        return Source(degradation, reader, live=teacher, decode=decode)
    assert reader is not None
    _warn_of_another_teacher(str(made_by.get("teacher")), every)
    for options, names in zip(every, needed, strict=True):
        both = [name for name in cache.TARGETS if name in {*held, *stored(names, held)}]
        if missing := [name for name in both if name not in held]:
            raise UserError(
                f"scheme {options.scheme!r} needs {missing[0]}, which {run.cache} does not hold "
                f"(it has {', '.join(held)}); extract again with --targets {','.join(both)}"
            )
    decoder = Decoder(reader, device, "sr" in wanted and "sr" not in held, amp)
    read = tuple(name for name in cache.TARGETS if name in stored(wanted, held))
    return Source(
        degradation, reader, targets=CachedTargets(reader, read, decoder.halo), decode=decoder
    )


def looked_at(run: StudentRun, options: StudentTraining, held: Sequence[str]) -> set[str]:
    """Return the teacher's maps that one student's terms look at in a batch; held: the cache's."""
    return needs(options.terms, options.attention, bool(run.live_teacher), held)


def _open_cache(
    run: StudentRun, taught: Sequence[str], part: cache.Part | None
) -> cache.Reader | None:
    if run.cache is None:
        if taught and run.live_teacher is None:
            how = "give --cache, made by extract-teacher, or choose --scheme none"
            raise UserError(f"scheme {taught[0]!r} learns from a teacher: {how}")
        return None
    expect: dict[str, Any] = {"frames": run.frames}
    if run.degradation:
        expect["degradation"] = run.degradation
    if run.teacher_weights:
        expect["teacher_sha256"] = checkpoints.file_sha256(run.teacher_weights)
    reader = cache.open_reader(run.cache, expect, part=part)
    random = str(reader.manifest.made_by.get("teacher_sha256")).startswith("random:")
    if random and taught and distributed.first():
        LOG.warning("stdpipe: the teacher of %s has random weights: only good for tests", run.cache)
    return reader


def _warn_of_another_teacher(teacher: str, every: Sequence[StudentTraining]) -> None:
    expected = [name for options in every for name in options.terms if TERMS[name].privileged]
    known = zoo.ZOO.get(teacher.partition(":")[0])
    if expected and not (known and known[0].sees_hr) and distributed.first():
        told = "stdpipe: %s did not see HR, and scheme %s expects a teacher that does"
        LOG.warning(told, teacher, expected[0])
