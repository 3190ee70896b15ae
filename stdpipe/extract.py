"""Stage one: run the teacher once over the training set and commit its features to the cache.

prepare -> read ahead -> teacher -> encode on the device -> write behind -> finalise. The same
command resumes. Threads read the next clips and write the last ones while the teacher works.
Axes: B clips at once, T frames of a clip, H W HR size, h w LR size.
"""

import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from stdpipe import cache, distributed
from stdpipe.data.degrade import degradation
from stdpipe.data.layouts import Clip, find_clips
from stdpipe.data.samples import read_frames
from stdpipe.data.views import View, baked_views, full_views
from stdpipe.device import keep_memory, pick_device, settle
from stdpipe.features.disk import refuse_full_disk, weigh
from stdpipe.features.encoding import Entry, encode, encoding_error
from stdpipe.features.targets import check_teacher, kept_parameters, refuse_trunk
from stdpipe.features.teacher import group_features, seen_frames, teacher_features
from stdpipe.models import checkpoints
from stdpipe.models.base import Features, Network
from stdpipe.models.checkpoints import load_network
from stdpipe.suggest import nearest

EXTRACTOR = 1  # raise it when the same teacher would yield other numbers
READERS = 2  # threads that read and degrade; each group of clips is one task


@dataclass(frozen=True)
class Extraction:
    """What to extract, from what, to where."""

    data: Path
    cache: str
    teacher: str | None = None
    """Network's name; None where the weights file says it."""
    weights: str | None = None
    degradation: str | None = None
    """None takes what the weights were trained for, where they say it."""
    encoding: str | None = None
    """None takes that of the cache to resume, or float16."""
    targets: tuple[str, ...] | None = None
    """None takes those of the cache to resume, or f_sr and attention."""
    compression: str | None = None
    """Of what is stored, without loss: "none" or "zstd"; None takes that of the cache to resume."""
    views: str = "full"
    """"full" frames, of which any crop can be read, or "baked": fixed crops, seen alone."""
    orientations: int = 1
    """Full views: of the eight flips and quarter turns, how many a clip, by seed and clip key."""
    baked: int = 4
    """Baked views: how many a clip, each in an orientation of its own."""
    patch: int = 256
    """Baked views: side of the crop in HR pixels."""
    seed: int = 0
    frames: int = 7
    """T of a clip; longer sequences are cut."""
    part: tuple[int, int] | None = None
    """(i, n): do the i-th of n shares, counted from 0; several may run at once. Under torchrun, its
    ranks divide that share among them."""
    batch: int | None = None
    """Clips through the teacher at once; None takes that of the cache to resume, or 1. Groups are
    fixed runs of so many views of the share, computed whole where one of them is missing, so that
    a resumed cache has the bytes of an unbroken one. Another batch, or other shares, may round
    otherwise in the last bits: it is noted in the manifest, but is no part of a cache's identity.
    Clips turned on their side go through apart from upright ones."""
    device: str = "auto"
    amp: str = "none"


@dataclass(frozen=True)
class Prepared:
    """Everything an extraction stands on, before anything is written."""

    teacher: Network
    device: torch.device
    clips: dict[str, Clip]
    views: list[View]
    manifest: cache.Manifest
    size: tuple[int, int]
    """(H, W) of every clip, padded to multiples of 4."""
    batch: int
    committed: Collection[str] | None
    """Keys in the cache to resume; None where there is no cache yet."""
    amp: str

    def read(self, view: View) -> tuple[Tensor, int]:
        """What the teacher sees of a view, as seen_frames has it, and the crc32 of its source."""
        frames = read_frames(self.clips[view.clip])
        if tuple(frames.hr.shape[-2:]) != self.size:
            raise ValueError(
                f"clip {view.clip} is {frames.hr.shape[-1]} x {frames.hr.shape[-2]}, but this "
                f"cache began with {self.size[1]} x {self.size[0]}; one cache holds clips of one "
                "size, so extract the others from a data folder of their own to a second cache"
            )
        name = str(self.manifest.made_by["degradation"])
        seen = seen_frames(self.teacher, frames.hr, view, name)
        return seen.pin_memory() if self.device.type == "cuda" else seen, frames.crc32

    def run(self, seen: Tensor) -> Features:
        """The teacher on one clip as `read`: each (T, C, ., .)."""
        return teacher_features(self.teacher, seen, self.device, self.amp)


class Computed(NamedTuple):
    """One view after the teacher."""

    view: View
    crc32: int
    seen: Tensor
    features: Features


def extract_teacher(job: Extraction) -> dict[str, Any]:
    """Fill the cache, or resume; returns what lies there now."""
    ready = prepare(job)
    index, count = _share(job.part)
    share = ready.views[index::count]
    groups = _unfinished(share, ready)
    _refuse_full_disk(job.cache, ready)
    kept = kept_parameters(ready.teacher, ready.manifest)
    with _threads(READERS) as reading:
        computed = _compute(reading, ready, groups)
        manifest = ready.manifest
        if ready.committed is None:
            first = ready.views[::count][: ready.batch]  # as the first share begins: same rounding
            manifest, computed = _measured(ready, computed, _compute(reading, ready, [first]))
        with cache.open_writer(job.cache, manifest, f"{index}-of-{count}", kept) as writer:
            _write_all(writer, computed, share, ready.batch)
            missing = writer.missing()
            if not missing:
                writer.finalise()
    return {
        "cache": job.cache,
        "cache_id": manifest.cache_id,
        "teacher": manifest.made_by["teacher"],
        "entries": len(ready.views),
        "missing": len(missing),
        "encoding": manifest.encoding,
        "error": writer.manifest.notes.get("error"),
        "bytes": cache.open_reader(job.cache, allow_incomplete=True).total_bytes(),
    }


def prepare(job: Extraction) -> Prepared:
    """Find the clips, load the teacher, list the views, say what the cache is or will be."""
    device = pick_device(job.device)
    keep_memory(device)
    made, committed = _found(job.cache)
    clips = {c.key: c for c in find_clips(job.data, "train", length=job.frames)}
    phase = degradation(job.degradation or "bd").phase
    teacher, facts = load_network(job.teacher, job.weights, phase)
    targets = job.targets or (made.targets if made else ("f_sr", "attention"))
    check_teacher(teacher, facts, targets)
    name = checkpoints.trained_for(facts, job.degradation)
    teacher = settle(teacher, device, job.amp)
    first = read_frames(next(iter(clips.values()))).hr
    views, (height, width), viewed = _views(job, list(clips), first)
    encoding = job.encoding or (made.encoding if made else "float16")
    batch = job.batch or (made.notes.get("batch", 1) if made else 1)
    refuse_trunk(encoding, facts["network"], teacher, height, width)
    manifest = cache.Manifest(
        made_by={
            "degradation": name,  # before the teacher, whose phase follows from it
            "teacher": facts["network"],
            **{f"teacher_{key}": value for key, value in checkpoints.revised(teacher).items()},
            "teacher_sha256": facts["sha256"],
            "lr_8bit": True,
            **viewed,
            "seed": job.seed,
            "amp": job.amp,
            "extractor": EXTRACTOR,
        },
        entries=tuple(str(v) for v in views),
        frames=job.frames,
        channels=_channels(teacher, device, cache.ENCODINGS[encoding].stored),
        f_lr_channels=_channels(teacher, device, "f_lr") if "f_lr" in targets else 0,
        height=height,
        width=width,
        targets=targets,
        encoding=encoding,
        compression=job.compression or (made.compression if made else "none"),
        notes={
            "torch": torch.__version__,
            "device": device.type,  # not which one: ranks have one each
            "data": str(job.data.resolve()),
            "batch": batch,
        },
    )
    size = (first.shape[-2], first.shape[-1])
    return Prepared(teacher, device, clips, views, manifest, size, batch, committed, job.amp)


def _found(url: str) -> tuple[cache.Manifest | None, Collection[str] | None]:
    """What lies at the cache's place already: its manifest, and the keys committed so far."""
    if not cache.manifest_exists(cache.open_place(url)):
        return None, None
    reader = cache.open_reader(url, allow_incomplete=True)
    return reader.manifest, reader.entries.keys()


def _views(
    job: Extraction, clips: list[str], first: Tensor
) -> tuple[list[View], tuple[int, int], dict[str, str | int]]:
    """Every view of the cache, the size of its maps, and what of it belongs to its identity."""
    height, width = first.shape[-2:]
    if job.views == "baked":
        if job.baked < 1 or job.patch < 16 or job.patch % 16:
            raise ValueError(
                f"baked views need at least 1 crop whose side is a multiple of 16, got "
                f"--baked {job.baked} --patch {job.patch}"
            )
        views = baked_views(clips, job.seed, job.baked, job.patch, height, width)
        identity: dict[str, str | int] = {"views": "baked", "baked": job.baked, "patch": job.patch}
        return views, (job.patch, job.patch), identity
    if job.views != "full":
        raise ValueError(f"views {job.views!r} is unknown{nearest(job.views, ('full', 'baked'))}")
    views = full_views(clips, job.seed, job.orientations)
    return views, (height, width), {"views": "full", "orientations": job.orientations}


def _channels(teacher: Network, device: torch.device, name: str) -> int:
    """Of f_sr, of the trunk or of f_lr; a tiny frame tells the latter two."""
    if name == "f_sr":
        return teacher.f_sr_channels
    features = teacher_features(teacher, torch.zeros(1, 3, 16, 16), device, "none")
    values: Tensor = getattr(features, name)
    return values.shape[1]


def _share(part: tuple[int, int] | None) -> tuple[int, int]:
    """Which share of how many is this process's own: --part's, divided among torchrun's ranks."""
    (index, count), (rank, world) = part or (0, 1), distributed.from_torchrun()
    return index * world + rank, count * world


def _unfinished(share: list[View], ready: Prepared) -> list[list[View]]:
    """The share's groups of which anything is missing."""
    groups = (share[i : i + ready.batch] for i in range(0, len(share), ready.batch))
    done = ready.committed or ()
    return [group for group in groups if any(str(view) not in done for view in group)]


def _refuse_full_disk(url: str, ready: Prepared) -> None:
    """Of all that is missing, whichever share will write it."""
    view, done = ready.views[0], len(ready.committed or ())

    def weigh_one() -> int:
        features = ready.run(ready.read(view)[0])
        return sum(weigh(ready.manifest, view, features).values())

    refuse_full_disk(url, ready.manifest, len(ready.views) - done, weigh_one)


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that, when left early, drops what it has not begun."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _compute(
    reading: ThreadPoolExecutor, ready: Prepared, groups: list[list[View]]
) -> Iterator[Computed]:
    """The teacher on one group after the other, while the next are read."""
    for group, clips in _read_ahead(reading, ready, groups):
        seen = [frames.to(ready.device, non_blocking=True) for frames, _ in clips]
        crc32s = [crc32 for _, crc32 in clips]
        features = group_features(ready.teacher, seen, ready.device, ready.amp)
        computed = deque(map(Computed, group, crc32s, seen, features))
        del features  # held by `computed` alone, so that each ends when it is written
        while computed:
            yield computed.popleft()


def _read_ahead(
    reading: ThreadPoolExecutor, ready: Prepared, groups: list[list[View]]
) -> Iterator[tuple[list[View], list[tuple[Tensor, int]]]]:
    """Each group with its clips, in order; the next READERS groups are read meanwhile."""

    def read(group: list[View]) -> list[tuple[Tensor, int]]:
        return [ready.read(view) for view in group]

    pending: deque[tuple[list[View], Future[list[tuple[Tensor, int]]]]] = deque()
    for group in groups:
        pending.append((group, reading.submit(read, group)))
        if len(pending) > READERS:
            oldest, future = pending.popleft()
            yield oldest, future.result()
    for oldest, future in pending:
        yield oldest, future.result()


def _measured(
    ready: Prepared, computed: Iterator[Computed], first_share: Iterator[Computed]
) -> tuple[cache.Manifest, Iterator[Computed]]:
    """The manifest, with its encoding's error, and all of `computed`.

    Measured on the first view of all, so that the manifest does not depend on which share comes
    first: another computes that view from `first_share` before its own.
    """
    first = next(computed, None)
    if first is not None:
        computed = itertools.chain([first], computed)
    if first is None or first.view != ready.views[0]:
        first = next(first_share)
    made, (view, _, seen, features) = ready.manifest, first
    with _naming(view):
        error = encoding_error(ready.teacher, features, seen, made.encoding, made.targets)
    error["measured_on"] = str(view)
    return dataclasses.replace(made, notes={**made.notes, "error": error}), computed


def _write_all(
    writer: cache.Writer, computed: Iterator[Computed], share: list[View], batch: int
) -> None:
    """Commit what is not there yet, in order, in a thread of its own.

    Up to batch + 1 encoded clips wait to be written. They are still written when something else
    fails, or on Ctrl-C; after one that cannot be written, none is.
    """
    done = sum(str(view) in writer.committed for view in share)
    pending: deque[Future[int]] = deque()
    with _progress(len(share), done) as report, ThreadPoolExecutor(1) as writing:
        for one in computed:
            if str(one.view) not in writer.committed:
                entry = encode(one.features, one.view, writer.manifest)
                before = pending[-1] if pending else None
                pending.append(writing.submit(_write, writer, one.view, one.crc32, entry, before))
            del one  # features are large, and the next group is computed now
            while pending and (len(pending) > batch + 1 or pending[0].done()):
                report(pending.popleft().result())
        while pending:
            report(pending.popleft().result())


def _write(
    writer: cache.Writer, view: View, crc32: int, entry: Entry, before: Future[int] | None
) -> int:
    """Commit one clip; the bytes stored."""
    if before is not None:
        before.result()  # of an earlier failure; else the order of the journal would depend on it
    with _naming(view):
        arrays = entry.arrays()
    return writer.write(str(view), arrays, {"source_crc32": crc32})


@contextmanager
def _naming(view: View) -> Iterator[None]:
    """Say which clip a value belongs to that cannot be stored."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"clip {view}, {error}") from None


@contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar of clips/s, MB/s and time left, told the bytes of each clip."""
    began, written = time.perf_counter(), 0
    with tqdm(
        total=total,
        initial=done,
        unit="clip",
        desc="extract-teacher",
        disable=True if distributed.from_torchrun()[0] else None,
        smoothing=0,  # clips come in bursts, of which only the overall rate tells the time left
    ) as bar:

        def report(nbytes: int) -> None:
            nonlocal written
            written += nbytes
            speed = written / 1e6 / (time.perf_counter() - began)
            bar.set_postfix_str(f"{speed:.1f} MB/s", refresh=False)
            bar.update()

        yield report
