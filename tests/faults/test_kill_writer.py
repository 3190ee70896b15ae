"""kill -9 one of four writers at random moments, resume, and compare with an unbroken run byte for
byte, locks apart. Entries have three sizes.

Not asserted: what a power cut does. SIGKILL leaves the page cache alone, so missing fsyncs would
not show here; tests/cache/test_local.py asserts their order.
"""

import multiprocessing
import random
import time
from pathlib import Path

import numpy as np
import pytest

from stdpipe.cache import (
    CacheError,
    Manifest,
    manifest_exists,
    open_place,
    open_reader,
    open_writer,
    verify,
)
from stdpipe.cache.groups import places_of

# forked, so that a writer is at work at once: nothing here has threads
FORK = multiprocessing.get_context("fork")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
FEATURES = ("f_sr", "attention")
TAIL = {"upconv1.weight": np.arange(60, dtype=np.float32).reshape(3, 4, 5)}


def write_part(
    root: Path, part: int, parts: int, entries: int, targets: tuple[str, ...] = FEATURES
) -> None:
    keys = tuple(f"00001/{i:04d}@0" for i in range(entries))
    sizes = [((40, 100), (40, 100), (24, 36), (100, 40))[index % 4] for index in range(entries)]
    shape = {"frames": 2, "channels": 4, "height": 40, "width": 100}
    shape["groups"] = places_of(2, sizes)
    made_by, how = {"teacher": "t"}, {"encoding": "trunk-int8", "targets": targets}
    manifest = Manifest(made_by=made_by, entries=keys, **shape, **how)
    if manifest_exists(open_place(root)):
        there = open_reader(root, allow_incomplete=True).manifest
        manifest = there.grown(manifest, str(root))
    with open_writer(root, manifest, f"{part}-of-{parts}", TAIL) as writer:
        for index, key in list(enumerate(keys))[part::parts]:
            if key in writer.committed:
                continue
            rng = np.random.default_rng(index)
            specs = manifest.group(key).arrays
            shapes = {name: specs[name].shape[1:] for name in manifest.given}
            arrays = {name: rng.random(shape, dtype=np.float32) for name, shape in shapes.items()}
            if "sr" in arrays:
                arrays["sr"] = (arrays["sr"] * 255).astype(np.uint8)
            lacks = writer.lacks(key)
            given = {name: values for name, values in arrays.items() if name in lacks}
            writer.write(key, given, {"source_crc32": index})
        if not writer.missing():
            writer.finalise()


def start(root: Path, part: int, parts: int, entries: int):
    job = FORK.Process(target=write_part, args=(root, part, parts, entries))
    job.start()
    return job


def run(root: Path, parts: list[int], entries: int, kill_after: float | None = None) -> float:
    """Seconds until the given parts of four are done; the first is killed after some seconds."""
    began = time.monotonic()
    jobs = [start(root, part, 4, entries) for part in parts]
    if kill_after is not None:
        time.sleep(kill_after)
        jobs[0].kill()
    for job in jobs:
        job.join(60)
    assert all(job.exitcode == 0 for job in jobs[kill_after is not None :])
    return time.monotonic() - began


def files_of(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def check_survivor(root: Path) -> None:
    """What a killed writer leaves: committed entries are whole, the rest is not served."""
    if not (root / "manifest.json").exists():
        with pytest.raises(CacheError, match="is not a cache"):
            verify(root)
        return
    assert verify(root).broken == []
    if not (root / "complete.json").exists():
        with pytest.raises(CacheError, match="incomplete"):
            open_reader(root)


def kill_and_resume(tmp_path: Path, entries: int, moments: int, seed: int) -> None:
    """The killed part is one of four at work, and is started again when the others are done."""
    seconds = run(tmp_path / "whole", [0, 1, 2, 3], entries)
    expected, rng = files_of(tmp_path / "whole"), random.Random(seed)
    assert "complete.json" in expected
    for moment in range(moments):
        root = tmp_path / str(moment)
        parts = rng.sample(range(4), 4)
        run(root, parts, entries, kill_after=seconds * (moment + rng.random()) / moments)
        check_survivor(root)
        run(root, parts[:1], entries)
        assert files_of(root) == expected


@pytest.mark.slow
def test_a_killed_writer_of_four_resumes(tmp_path):
    kill_and_resume(tmp_path, entries=16, moments=2, seed=0)


@pytest.mark.slow
def test_a_killed_writer_of_four_resumes_at_twenty_moments(tmp_path):
    kill_and_resume(tmp_path, entries=24, moments=20, seed=1)


def test_killed_while_creating(tmp_path):
    """Many early moments: the store is being laid out. What is left over is swept at the end."""
    seconds = run(tmp_path / "whole", [0, 1, 2, 3], 4)
    expected, rng = files_of(tmp_path / "whole"), random.Random(2)
    root = tmp_path / "killed"
    for _ in range(5):
        run(root, [0], 4, kill_after=seconds * rng.random() / 4)
        check_survivor(root)
    run(root, [0, 1, 2, 3], 4)
    assert files_of(root) == expected


@pytest.mark.parametrize("moments", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_while_it_grows(tmp_path, moments):
    """By a target and by entries: what was finished is served all the time, to the byte."""

    def begun(root: Path) -> dict[str, bytes]:
        write_part(root, 0, 1, 6)
        return files_of(root)

    def grow(root: Path, kill_after: float | None = None) -> float:
        began = time.monotonic()
        job = FORK.Process(target=write_part, args=(root, 0, 1, 12, ("sr", *FEATURES)))
        job.start()
        if kill_after is not None:
            time.sleep(kill_after)
            job.kill()
        job.join(60)
        assert kill_after is not None or job.exitcode == 0
        return time.monotonic() - began

    first = begun(tmp_path / "whole")
    seconds = grow(tmp_path / "whole")
    expected, rng = files_of(tmp_path / "whole"), random.Random(3)
    assert open_reader(tmp_path / "whole").manifest.targets == ("sr", *FEATURES)
    for moment in range(moments):
        root = tmp_path / str(moment)
        assert begun(root) == first
        grow(root, kill_after=seconds * (moment + rng.random()) / moments)
        here = files_of(root)
        journal = [name for name in first if name.endswith(".jsonl")]  # lines are added there
        changes = {*journal, *(name for name in first if name.endswith("zarr.json"))}
        assert all(here[name] == first[name] for name in first.keys() - changes)
        assert all(here[name].startswith(first[name]) for name in journal)
        assert open_reader(root).manifest.targets in (FEATURES, ("sr", *FEATURES))
        assert verify(root).broken == []
        grow(root)
        assert files_of(root) == expected


def test_a_killed_writers_lock_is_free_again(tmp_path):
    first = start(tmp_path / "c", 0, 1, 2000)
    wait_for_commits(tmp_path / "c", 1)
    first.kill()
    first.join()
    report = verify(tmp_path / "c")
    second = start(tmp_path / "c", 0, 1, 2000)
    try:
        wait_for_commits(tmp_path / "c", report.ok + 1)
        manifest = open_reader(tmp_path / "c", allow_incomplete=True).manifest
        with pytest.raises(CacheError, match="already at work"):
            open_writer(tmp_path / "c", manifest, "0-of-1", TAIL)
    finally:
        second.kill()
        second.join()


def wait_for_commits(root: Path, count: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        there = (root / "manifest.json").exists()
        if there and len(open_reader(root, allow_incomplete=True).entries) >= count:
            return
        time.sleep(0.01)
    raise TimeoutError(f"no {count} commits in {root}")
