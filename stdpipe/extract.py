"""Stage one: run the teacher once over the training set and commit its features to the cache.

prepare -> measure the teacher -> read ahead -> teacher -> encode on the device -> write behind ->
finalise. The same command resumes, and one that asks for more adds to what is there. Threads read
the next clips and write the last ones while the teacher works.
Axes: B clips at once, T frames of a clip, H W HR size, h w LR size.
"""

import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor
from tqdm import tqdm

from stdpipe import cache, distributed
from stdpipe.cache.errors import UserError
from stdpipe.data.frames import Clip, files_sign
from stdpipe.data.sizes import count_sizes
from stdpipe.data.views import View
from stdpipe.features.encoding import EncodedClip, encode, encoding_error, weigh
from stdpipe.features.extraction import Extraction, Prepared, prepare
from stdpipe.features.info import HAS_HR
from stdpipe.features.same_frames import SIGN, refuse_other_frames
from stdpipe.features.teacher import group_features, kept_parameters
from stdpipe.models.base import Features

Read = tuple[int, Tensor, int]  # sign, what the teacher sees, crc32 of the source
READERS = 2  # threads that read and degrade; each group of clips is one task


class Computed(NamedTuple):
    """One view with the teacher's features."""

    view: View
    sign: int  # of its clip's files before they were read
    crc32: int
    seen: Tensor
    features: Features


def extract_teacher(job: Extraction) -> dict[str, Any]:
    """Fill the cache, or resume; return a summary of what it holds now."""
    ready = prepare(job)
    if ready.is_new and "quality" not in ready.manifest.notes:
        ready = _with_quality(ready, job.accept_teacher)
    # this process's share: --part, divided among torchrun's ranks
    (index, count), (rank, world) = job.part or (0, 1), distributed.from_torchrun()
    index, count = index * world + rank, count * world
    share, done = ready.views[index::count], ready.committed
    refuse_other_frames(ready, share)
    groups = [g for g in _groups(share, ready) if any(str(view) not in done for view in g)]
    _refuse_full_disk(job.cache, ready)
    kept = kept_parameters(ready.teacher, ready.manifest)
    with ExitStack() as stack:
        reading = ThreadPoolExecutor(READERS)
        stack.callback(reading.shutdown, cancel_futures=True)  # drops reads that have not begun
        computed = _compute(reading, ready, groups)
        manifest = ready.manifest
        if ready.is_new:
            first = _groups(ready.views[::count], ready)[0]  # as in the first share, to round alike
            manifest, computed = _measured(ready, computed, _compute(reading, ready, [first]))
        with cache.open_writer(job.cache, manifest, f"{index}-of-{count}", kept) as writer:
            _write_all(writer, computed, ready.clips, share, ready.batch, job.progress)
            missing = writer.missing()
            if not missing:
                writer.finalise()
    return {
        "cache": job.cache,
        "cache_id": manifest.cache_id,
        "teacher": manifest.made_by["teacher"],
        "entries": len(ready.views),
        "sizes": count_sizes(ready.sizes),
        "lr_alone": ready.lr_alone,
        "missing": len(missing),
        "encoding": manifest.encoding,
        "error": writer.manifest.notes.get("error"),
        "quality": writer.manifest.notes.get("quality"),
        "bytes": cache.open_reader(job.cache, allow_incomplete=True).total_bytes(),
    }


def _groups(views: list[View], ready: Prepared) -> list[list[View]]:
    """Divide views into those that the teacher sees at once, of one size each."""
    alike: dict[str, list[View]] = {}
    for view in views:
        alike.setdefault(ready.manifest.group(str(view)).folder, []).append(view)
    step = ready.batch
    return [some[i : i + step] for some in alike.values() for i in range(0, len(some), step)]


def _with_quality(ready: Prepared, accept: bool) -> Prepared:
    """Note in the manifest how good the teacher is. Raises UserError for one that is not."""
    quality = ready.quality(accept)
    noted = {} if quality is None else {"quality": dataclasses.asdict(quality)}
    manifest = dataclasses.replace(ready.manifest, notes={**ready.manifest.notes, **noted})
    return dataclasses.replace(ready, manifest=manifest)


def _refuse_full_disk(url: str, ready: Prepared) -> None:
    """Refuse if what all shares still have to write does not fit on the disk."""
    manifest, view, free = ready.manifest, ready.views[0], cache.open_place(url).free_bytes()
    raw = {name: ready.raw_bytes(name) for name in manifest.arrays}
    if free is None or sum(raw.values()) <= free:
        return
    weights = weigh(manifest, view, ready.run(ready.read(view)[0]))
    specs = manifest.arrays  # of the first view's size
    needed = sum(weight * (raw[name] / specs[name].raw_bytes) for name, weight in weights.items())
    if needed > free:
        raise UserError(
            f"{ready.missing.total():,} clips as {manifest.encoding} need about "
            f"{needed / 1e9:,.1f} GB, but {free / 1e9:,.1f} GB are free for {url}; "
            "choose a smaller --encoding (--plan weighs them all) or another disk"
        )


def _compute(
    reading: ThreadPoolExecutor, ready: Prepared, groups: list[list[View]]
) -> Iterator[Computed]:
    """Run the teacher on one group after the other, while the next ones are read."""
    for group, clips in _read_ahead(reading, ready, groups):
        signs, frames, crc32s = zip(*clips, strict=True)
        seen = [each.to(ready.device, non_blocking=True) for each in frames]
        features = group_features(ready.teacher, seen, ready.device, ready.amp, ready.members)
        computed = deque(map(Computed, group, signs, crc32s, seen, features))
        del features  # `computed` alone holds them, so that each is freed when it is written
        while computed:
            yield computed.popleft()


def _read_ahead(
    reading: ThreadPoolExecutor, ready: Prepared, groups: list[list[View]]
) -> Iterator[tuple[list[View], list[Read]]]:
    """Yield each group with its clips, in order, while the next READERS groups are read."""

    def read(views: list[View]) -> list[Read]:
        return [(files_sign(ready.clips[view.clip]), *ready.read(view)) for view in views]

    pending: deque[tuple[list[View], Future[list[Read]]]] = deque()
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
    """Return the manifest with its encoding's error, and all of `computed`.

    The error is that of the cache's first view, so that the manifest does not depend on which share
    comes first: another share computes that view from `first_share` before its own.
    """
    first = next(computed, None)
    if first is not None:
        computed = itertools.chain([first], computed)
    if first is None or first.view != ready.views[0]:
        first = next(first_share)
    made, (view, _, _, seen, features) = ready.manifest, first
    with _naming(view):
        error = encoding_error(ready.teacher, features, seen, made.encoding, made.targets)
    error["measured_on"] = str(view)
    return dataclasses.replace(made, notes={**made.notes, "error": error}), computed


def _write_all(
    writer: cache.Writer,
    computed: Iterator[Computed],
    clips: Mapping[str, Clip],
    share: list[View],
    batch: int,
    progress: Callable[[int, int], object] | None,
) -> None:
    """Commit missing clips in order, in a thread of their own.

    Up to batch + 1 encoded clips wait to be written. They are still written when another part fails
    or on Ctrl-C; after a clip that cannot be written, none is.
    """
    done = sum(str(view) in writer.committed for view in share)
    pending: deque[Future[int]] = deque()
    began, written = time.perf_counter(), 0
    bar = tqdm(
        total=len(share),
        initial=done,
        unit="clip",
        desc="extract-teacher",
        disable=True if progress or distributed.from_torchrun()[0] else None,
        smoothing=0,  # clips come in bursts: only the overall rate predicts the time left
    )

    def settle(oldest: Future[int]) -> None:
        nonlocal written, done
        written += oldest.result()
        done += 1
        if progress:
            progress(done, len(share))
        speed = written / 1e6 / (time.perf_counter() - began)
        bar.set_postfix_str(f"{speed:.1f} MB/s", refresh=False)
        bar.update()

    with bar, ThreadPoolExecutor(1) as writing:
        for one in computed:
            if str(one.view) not in writer.committed:
                lacks = writer.lacks(str(one.view))
                entry = encode(one.features, one.view, writer.manifest, lacks)
                before = pending[-1] if pending else None
                has_hr = clips[one.view.clip].has_hr
                said = {SIGN: one.sign} | ({} if has_hr else {HAS_HR: False})
                write = partial(_write, writer, one.view, one.crc32, entry, said, before)
                pending.append(writing.submit(write))
            del one  # features are large, and the next group is computed now
            while pending and (len(pending) > batch + 1 or pending[0].done()):
                settle(pending.popleft())
        while pending:
            settle(pending.popleft())


def _write(
    writer: cache.Writer,
    view: View,
    crc32: int,
    entry: EncodedClip,
    said: dict[str, int],
    before: Future[int] | None,
) -> int:
    """Commit one clip and return the bytes stored; said: what is true of it alone."""
    if before is not None:
        before.result()  # raises an earlier failure: the journal's order must not depend on it
    with _naming(view):
        arrays = entry.arrays()
    return writer.write(str(view), arrays, {"source_crc32": crc32, **said})


@contextmanager
def _naming(view: View) -> Iterator[None]:
    """Name the clip in the error of a value that cannot be stored."""
    try:
        yield
    except UserError as error:
        raise UserError(f"clip {view}, {error}") from None
