"""What does opening a cache of all of Vimeo90K cost: seconds, and memory of one process?

    python benchmarks/open.py [--entries 64612] [--json]

Journal and manifest are those of a real cache; nothing else of it is read on opening. The rival is
a list of the journal's lines, parsed by json.loads, in turn in processes of their own.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from timing import machine

from stdpipe.cache import Manifest, open_reader
from stdpipe.cache.creation import enter, furnish
from stdpipe.cache.journal import Commit, Stored, short_id
from stdpipe.cache.location import open_place
from stdpipe.cache.manifest_files import create_mark


@click.command()
@click.option("--entries", default=64_612, type=click.IntRange(1))
@click.option("--repeats", default=5, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True)
def main(entries: int, repeats: int, as_json: bool) -> None:
    found: dict[str, list[tuple[float, float]]] = {"open_reader": [], "json.loads": []}
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), entries)
        for _ in range(repeats):
            for how, figures in found.items():
                command = [sys.executable, __file__, "--measure", how, folder]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                figures.append(tuple(json.loads(done.stdout)))
    rows = {
        how: {
            "seconds": statistics.median(seconds for seconds, _ in figures),
            "MB": statistics.median(megabytes for _, megabytes in figures),
        }
        for how, figures in found.items()
    }
    if as_json:
        print(json.dumps({"machine": machine(), "entries": entries, **rows}, indent=2))
        return
    for how, row in rows.items():
        print(f"{how}: {row['seconds']:.2f} s, {row['MB']:.1f} MB")


def make(root: Path, entries: int) -> None:
    """A finished cache of a trunk in eight bits, an image and attention, without their files."""
    keys = tuple(f"{n // 1000 + 1:05d}/{n % 1000 + 1:04d}@{n % 8}" for n in range(entries))
    made = Manifest(
        made_by={"teacher": "t"}, entries=keys, frames=7, channels=64, height=256, width=448,
        targets=("sr", "f_sr", "attention"), encoding="trunk-int8",
    )  # fmt: skip
    place = open_place(str(root))
    enter(place, made)
    furnish(place, made, None)
    names = list(made.arrays)
    lines = []
    for n, key in enumerate(keys):
        files = {name: Stored(2_408_476 + n, (n * 2_654_435_761) % 2**32) for name in names}
        said = {"source_crc32": (n * 40_503) % 2**32, "_files": (n * 97) % 2**32}
        lines.append(Commit(key, n, files, said, short_id(made)).text())
    size = 20_000
    for n, at in enumerate(range(0, entries, size)):
        place.write(f"journal/0-of-1.{n:06d}.jsonl", [b"".join(lines[at : at + size])])
    create_mark(place, made)


def measure(how: str, root: str) -> tuple[float, float]:
    """Seconds, and the growth of this process, in MB, when all that was made on the way is gone."""
    import gc

    gc.collect()
    before, began = _resident(), time.perf_counter()
    if how == "open_reader":
        kept: object = open_reader(root)
    else:
        files = sorted(Path(root, "journal").glob("*.jsonl"))
        kept = [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
    seconds = time.perf_counter() - began
    gc.collect()
    import ctypes

    ctypes.CDLL("libc.so.6").malloc_trim(0)
    grown = _resident() - before
    del kept
    return seconds, grown / 1e6


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    if "--measure" in sys.argv:
        print(json.dumps(measure(*sys.argv[2:])))
    else:
        main()
