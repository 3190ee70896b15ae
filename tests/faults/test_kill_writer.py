"""kill -9 one of four writers at random moments, resume, and compare with an unbroken run byte for
byte, locks apart.

Not asserted: what a power cut does. SIGKILL leaves the page cache alone, so missing fsyncs would
not show here; tests/cache/test_local.py asserts their order.
"""

import multiprocessing
import random
import time
from pathlib import Path

import numpy as np
import pytest

from stdpipe.cache import CacheError, Manifest, open_reader, open_writer, verify

# forked, so that a writer is at work at once: nothing here has threads
FORK = multiprocessing.get_context("fork")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
TAIL = {"upconv1.weight": np.arange(60, dtype=np.float32).reshape(3, 4, 5)}


def write_part(root: Path, part: int, parts: int, entries: int) -> None:
    keys = tuple(f"00001/{i:04d}@0" for i in range(entries))
    sizes = {"frames": 2, "channels": 4, "height": 40, "width": 100}
    manifest = Manifest(made_by={"teacher": "t"}, entries=keys, **sizes, encoding="trunk-int8")
    with open_writer(root, manifest, f"{part}-of-{parts}", TAIL) as writer:
        for index, key in list(enumerate(keys))[part::parts]:
            if key in writer.committed:
                continue
            rng = np.random.default_rng(index)
            shapes = {name: manifest.arrays[name].shape[1:] for name in manifest.given}
            arrays = {name: rng.random(shape, dtype=np.float32) for name, shape in shapes.items()}
            writer.write(key, arrays, {"source_crc32": index})
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
