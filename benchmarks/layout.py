"""Which inner chunks should a shard have, and should they be compressed? Layout by measurement.

python benchmarks/layout.py [--json] [--quick] [--entries 2]
Writes features of the embedded teacher (features.py) as shards of many layouts, and reads random
256 x 256 crops of 7 frames through stdpipe.cache.shards: one core, one thread, warm page cache, CPU
seconds, medians of interleaved runs. lz4 is not in the format; chunked.py makes its shards.
Columns: stored bytes per value; MB served per CPU second; values decoded per value served; chunks
per crop, and what an object store is asked for them: requests (chunks less than 1 MiB apart are
fetched as one) and MB. Ratios: MB per CPU second over that of the format's own layout.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import features
import numpy as np
from chunked import COMPRESSIONS, Corner, Layout, Values, write
from timing import medians, one_core, report

from stdpipe import cache
from stdpipe.cache.layout import MAX_INNER_HEIGHT, MAX_INNER_WIDTH, chunk_side
from stdpipe.cache.local import LocalPlace
from stdpipe.cache.objects import merged
from stdpipe.cache.shards import use_one_thread

WIDTHS, HEIGHTS = (64, 112, 224, 448), (64, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: tests that it runs")
    parser.add_argument("--entries", type=int, default=2)
    parser.add_argument("--crops", type=int, default=8, help="a run")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.entries, arguments.crops, arguments.repeats = 1, 2, 1
    side = 32 if arguments.quick else 256
    maps = [f_sr for _, f_sr, _ in features.entries(arguments.entries, arguments.quick)]
    corners = draw(maps, side, arguments.crops)
    use_one_thread()
    rows: dict[str, dict[str, float]] = {}
    ratios: dict[str, float] = {}
    for dtype, stored in (("int8", as_codes), ("float16", as_halves)):
        with tempfile.TemporaryDirectory() as folder, one_core():
            values = [stored(one) for one in maps]
            found = measure(LocalPlace(Path(folder)), values, corners, side, arguments.repeats)
        own = found[f"{dtype} {own_chunk(maps[0])} none"]["mb_per_cpu_second"]
        ratios |= {name: row["mb_per_cpu_second"] / own for name, row in found.items()}
        rows |= found
    settings = {"shape": [len(maps), *maps[0].shape], "patch": side, **vars(arguments)}
    del settings["json"]
    report("layout", settings, ratios, arguments.json, rows)
    if not arguments.json:
        print(table(rows))


def measure(
    place: LocalPlace, values: list[Values], corners: list[Corner], side: int, repeats: int
) -> dict[str, dict[str, float]]:
    """A row of figures for every layout of these entries."""
    layouts = [write(place, values, *one) for one in grid(values[0])]
    for layout in layouts:
        entry, y, x = corners[0]
        crop = values[entry][..., y : y + side, x : x + side]
        np.testing.assert_array_equal(layout.read(corners[0], side), crop, err_msg=layout.name)
    runs = {one.name: partial(read_all, one, corners, side) for one in layouts}
    seconds = medians(runs, repeats, time.process_time)
    served = len(corners) * crop.nbytes / 1e6
    return {
        one.name: {
            "bytes_per_value": one.bytes() / sum(entry.size for entry in values),
            "mb_per_cpu_second": served / seconds[one.name],
            **asked(one, corners, side),
        }
        for one in layouts
    }


def grid(values: Values) -> Iterator[tuple[int, int, str]]:
    """Chunk heights and widths, at most the map's, and compressions."""
    height, width = values.shape[-2:]
    for h in sorted({min(h, height) for h in HEIGHTS}):
        for w in sorted({min(w, width) for w in WIDTHS}):
            yield from ((h, w, compression) for compression in COMPRESSIONS)


def asked(layout: Layout, corners: list[Corner], side: int) -> dict[str, float]:
    """What a crop costs beside time, on average."""
    spans = [layout.spans(corner, side) for corner in corners]
    fetches = [merged(one) for one in spans]
    ranges = sum(map(len, spans)) / len(corners)
    fetched = sum(stop - start for one in fetches for start, stop in one)
    decoded = ranges * np.prod(layout.spec.inner)
    return {
        "over_read": float(decoded / (np.prod(layout.spec.shape[1:3]) * side**2)),
        "ranges": ranges,
        "requests": sum(map(len, fetches)) / len(corners),
        "fetched_mb": fetched / len(corners) / 1e6,
    }


def read_all(layout: Layout, corners: list[Corner], side: int) -> None:
    for corner in corners:
        layout.read(corner, side)


def draw(maps: list[Values], side: int, count: int) -> list[Corner]:
    """Random crops on the grid of LR pixels."""
    rng = np.random.default_rng(0)
    ends = [(limit - side) // 4 + 1 for limit in maps[0].shape[-2:]]
    spots = [(rng.integers(len(maps)), *(4 * rng.integers(ends))) for _ in range(count)]
    return [(int(entry), int(y), int(x)) for entry, y, x in spots]


def as_codes(maps: Values) -> Values:
    return cache.quantise(maps)[0]


def as_halves(maps: Values) -> Values:
    return cache.encode(maps, "float16")


def own_chunk(maps: Values) -> str:
    """The format's rule for these maps."""
    height, width = maps.shape[-2:]
    return f"{chunk_side(height, MAX_INNER_HEIGHT)}x{chunk_side(width, MAX_INNER_WIDTH)}"


def table(rows: dict[str, dict[str, float]]) -> str:
    """For people, in Markdown."""
    columns = list(next(iter(rows.values())))
    head = ["layout", *(name.replace("_", " ") for name in columns)]
    lines = [head, ["---", *("---:" for _ in columns)]]
    lines += [[name, *(f"{row[c]:.2f}" for c in columns)] for name, row in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
