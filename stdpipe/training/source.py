"""The source of a training's targets: a cache, or a teacher that runs in the loop."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from stdpipe import cache, distributed
from stdpipe.cache.errors import UserError
from stdpipe.data.degrade import at_scale, degradation as named_degradation, same_grid
from stdpipe.data.pairs import degradation_of
from stdpipe.distill.schemes import needs
from stdpipe.distill.terms import TERMS
from stdpipe.features.info import sources_digest
from stdpipe.features.targets import (
    CachedTargets,
    Decoder,
    LiveTeacher,
    SeveralDecoders,
    SeveralTargets,
    open_targets,
    refuse_missing,
)
from stdpipe.features.teacher import check_teacher
from stdpipe.models import checkpoints, zoo
from stdpipe.models.base import Network, check_scale
from stdpipe.training.config import StudentTraining
from stdpipe.training.jobs import StudentRun
from stdpipe.training.run_folder import CachePart

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """The source of the teacher's maps; its parts are None where no scheme needs them."""

    degradation: str
    readers: tuple[cache.Reader, ...] = ()
    live: Network | None = None
    """The teacher that runs in the loop."""
    targets: CachedTargets | SeveralTargets | None = None
    """Reads the caches, in workers."""
    decode: Decoder | SeveralDecoders | LiveTeacher | None = None
    """Adds the teachers' maps to a batch, on the training device."""

    @property
    def reader(self) -> cache.Reader | None:
        """The first cache, whose clips and orientations all others share."""
        return self.readers[0] if self.readers else None

    @property
    def held(self) -> set[str]:
        """The targets that all caches hold; none without one."""
        return _held_by_all(self.readers)

    def cache_parts(self) -> list[CachePart]:
        """Return what a run says of the part of each cache that it uses."""
        return [
            {
                "entries": len(made.entries),
                "targets": list(made.targets),
                "encoding": made.encoding if made.targets != ("sr",) else None,
            }
            for made in (reader.manifest for reader in self.readers)
        ]

    def cache_sources(self) -> list[str]:
        """Return 16 hex digits for the frames that each cache's part was made of."""
        return [sources_digest(reader) for reader in self.readers]


def open_source(
    run: StudentRun,
    every: Sequence[StudentTraining],
    device: torch.device,
    parts: Sequence[cache.Part] = (),
) -> Source:
    """Open the caches, or load the live teacher, that the schemes of all students need.

    parts: those of the caches that a run to resume began with; none: all that is finished of them.
    Raises UserError where it is missing or does not fit.
    """
    if run.degradation or not run.cache:
        run = replace(run, degradation=degradation_of(run.data, run.degradation))
    readers = _open_caches(run, [options.scheme for options in every if options.terms], parts)
    made_by = readers[0].manifest.made_by if readers else {}
    if readers and not run.degradation:
        degradation_of(run.data, str(made_by.get("degradation") or "bd"))  # for what it refuses
    default = at_scale("bd", zoo.parse(run.student).scale)
    degradation = str(run.degradation or made_by.get("degradation") or default)
    needed = [looked_at(run, options, _held_by_all(readers)) for options in every]
    wanted = set().union(*needed)
    if not wanted:
        return Source(degradation, readers)
    amp = every[0].amp
    if run.live_teacher:
        with torch.random.fork_rng(devices=[]):  # students begin as they do with a cache
            teacher, facts = checkpoints.load_network(None, run.live_teacher)
        check_teacher(teacher, facts, sorted(wanted))
        checkpoints.trained_for(facts, degradation, fits=same_grid)
        check_scale(teacher, facts["network"], degradation, named_degradation(degradation).scale)
        decode = LiveTeacher(teacher, device, amp, sorted(wanted))
        return Source(degradation, readers, live=teacher, decode=decode)
    targets, decoders = [], []
    for reader in readers:
        _warn_of_another_teacher(str(reader.manifest.made_by.get("teacher")), every)
        for options, names in zip(every, needed, strict=True):
            refuse_missing(reader, names, f"scheme {options.scheme!r}")
        read, decode_one = open_targets(reader, wanted, device, amp)
        targets.append(read)
        decoders.append(decode_one)
    if len(readers) == 1:
        return Source(degradation, readers, targets=targets[0], decode=decoders[0])
    several = SeveralTargets(targets)
    return Source(degradation, readers, targets=several, decode=SeveralDecoders(decoders))


def looked_at(run: StudentRun, options: StudentTraining, held: Collection[str]) -> set[str]:
    """Return the teacher's maps that one student's terms look at in a batch; held: Source.held."""
    return needs(options.terms, options.attention, bool(run.live_teacher), held)


def _held_by_all(readers: Sequence[cache.Reader]) -> set[str]:
    return set.intersection(*({*r.manifest.targets} for r in readers)) if readers else set()


def _open_caches(
    run: StudentRun, taught: Sequence[str], parts: Sequence[cache.Part]
) -> tuple[cache.Reader, ...]:
    if run.cache is None:
        if taught and run.live_teacher is None:
            how = "give --cache, made by extract-teacher, or choose --scheme none"
            raise UserError(f"scheme {taught[0]!r} learns from a teacher: {how}")
        return ()
    expect: dict[str, Any] = {"frames": run.frames}
    if run.degradation:
        expect["degradation"] = run.degradation
    if run.teacher_weights:
        expect["teacher_sha256"] = checkpoints.file_sha256(run.teacher_weights)
    of_each = [*parts, *(None for _ in run.caches)]
    readers = [cache.open_reader(run.cache, expect, part=of_each[0])]
    expect.pop("teacher_sha256", None)
    others = zip(run.other_caches, of_each[1:], strict=False)
    readers += [cache.open_reader(url, expect, part=part) for url, part in others]
    for url, reader in zip(run.caches, readers, strict=True):
        if told := _apart(readers[0].manifest, reader.manifest):
            both = f"{run.cache} and {url} cannot teach one student: {told}"
            raise UserError(f"{both}; extract both from the same clips in the same way")
        random = str(reader.manifest.made_by.get("teacher_sha256")).startswith("random:")
        if random and taught and distributed.first():
            LOG.warning("stdpipe: the teacher of %s has random weights: only good for tests", url)
    return tuple(readers)


def _apart(first: cache.Manifest, other: cache.Manifest) -> str:
    """Tell in which degradation, clip or orientation two caches differ; "" where in none."""
    one, two = (str(made.made_by.get("degradation")) for made in (first, other))
    if one != two:
        return f"their degradations are {one} and {two}"
    odd = sorted({*first.entries} ^ {*other.entries})
    holds = "first" if odd and odd[0] in first.index else "second"
    return f"{odd[0]} is a view of the {holds} alone" if odd else ""


def _warn_of_another_teacher(teacher: str, every: Sequence[StudentTraining]) -> None:
    expected = [name for options in every for name in options.terms if TERMS[name].privileged]
    known = zoo.ZOO.get(teacher.partition(":")[0])
    if expected and not (known and known[0].sees_hr) and distributed.first():
        told = "stdpipe: %s did not see HR, and scheme %s expects a teacher that does"
        LOG.warning(told, teacher, expected[0])
