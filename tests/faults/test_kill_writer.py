"""kill -9 a writer at random moments, resume, and compare with an unbroken run byte for byte.

Not asserted: what a power cut does. SIGKILL leaves the page cache alone, so missing fsyncs would
not show here.
"""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stdpipe.cache import CacheError, open_reader, open_writer, verify

WRITER = """
import sys
import numpy as np
from stdpipe.cache import Manifest, open_writer

keys = tuple(f"00001/{i:04d}@0" for i in range(int(sys.argv[2])))
manifest = Manifest(made_by={"teacher": "t"}, entries=keys, frames=2, channels=4, height=40,
                    width=100, encoding="float16")
print("ready", flush=True)
with open_writer(sys.argv[1], manifest) as writer:
    for index, key in enumerate(keys):
        if key in writer.committed:
            continue
        rng = np.random.default_rng(index)
        shapes = {name: spec.shape[1:] for name, spec in manifest.arrays.items()}
        arrays = {name: rng.random(shape, dtype=np.float32) for name, shape in shapes.items()}
        writer.write(key, arrays, {"source_crc32": index})
    writer.finalise()
"""


def start(root: Path, entries: int) -> subprocess.Popen:
    """A writer process that has imported everything and is about to open the cache."""
    command = [sys.executable, "-c", WRITER, str(root), str(entries)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


def finish(root: Path, entries: int) -> float:
    """Seconds that the writer needs to the end."""
    process = start(root, entries)
    began = time.monotonic()
    assert process.wait(60) == 0
    process.stdout.close()
    return time.monotonic() - began


def kill_after(root: Path, entries: int, seconds: float) -> None:
    process = start(root, entries)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    process.stdout.close()


def files_of(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


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
    seconds = finish(tmp_path / "whole", entries)
    expected, rng = files_of(tmp_path / "whole"), random.Random(seed)
    for moment in range(moments):
        root = tmp_path / str(moment)
        for share in sorted(rng.random() for _ in range(2)):
            kill_after(root, entries, seconds * share / 2)
            check_survivor(root)
        finish(root, entries)
        assert files_of(root) == expected


def test_killed_writers_resume(tmp_path):
    kill_and_resume(tmp_path, entries=12, moments=3, seed=0)


@pytest.mark.slow
def test_killed_writers_resume_many_times(tmp_path):
    kill_and_resume(tmp_path, entries=25, moments=12, seed=1)


def test_killed_while_creating(tmp_path):
    """Many early moments: the store is being laid out."""
    seconds = finish(tmp_path / "whole", 1)
    expected, rng = files_of(tmp_path / "whole"), random.Random(2)
    root = tmp_path / "killed"
    for _ in range(5):
        kill_after(root, 1, seconds * rng.random())
        check_survivor(root)
    finish(root, 1)
    assert files_of(root) == expected


def test_a_killed_writers_lock_is_free_again(tmp_path):
    kill_after(tmp_path / "c", 500, 0.5)
    report = verify(tmp_path / "c")
    process = start(tmp_path / "c", 500)
    try:
        time.sleep(0.3)
        assert len(verify(tmp_path / "c").uncommitted) < len(report.uncommitted)
        manifest = open_reader(tmp_path / "c", allow_incomplete=True).manifest
        with pytest.raises(CacheError, match="already at work"):
            open_writer(tmp_path / "c", manifest)
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()
