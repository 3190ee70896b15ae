"""What do students lose as files of phones, and how long does a frame take?

    python benchmarks/phone.py --data DATA rrn@runs/rrn/weights.pt swrn@random:0 --out OUT

DATA lies in Vimeo90K's layout. Each network is exported in every format and precision whose
packages are installed: at the size of the data's LR, where int8 is calibrated on its training list
and all is measured in dB on its test list; and at `--size`, where the files of one network are
timed in turn, on one thread. The same command goes on with what OUT lacks. `--format`
chooses some. Prints Markdown, or with --json its rows.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from stdpipe.bench import Bench, bench
from stdpipe.cache.errors import UserError
from stdpipe.cache.files import write_atomically
from stdpipe.cli import common
from stdpipe.data.frames import clip_sizes
from stdpipe.data.layouts import find_clips
from stdpipe.deploy.formats import FORMATS, module_of, runs_here, use_beside
from stdpipe.export import HOLDS, Export, export
from stdpipe.models.checkpoints import load_network
from stdpipe.models.table import Size

HEAD = ("network", "format", "precision", "largest difference", "dB lost, calibrated on",
        "dB lost, held out", "MB", "ms")  # fmt: skip


@click.command()
@click.argument("networks", metavar="NAME@FILE...", nargs=-1, required=True)
@click.option("--data", required=True, type=common.PATH, help="Clips that say what files lose.")
@click.option("--out", required=True, type=common.PATH, help="Folder of the files.")
@click.option("--format", "formats", multiple=True, type=click.Choice(list(FORMATS)))
@click.option("--size", default="320x180", callback=common.lr_size, help="LR size that is timed.")
@click.option(
    "--frames", default=10, type=click.IntRange(1), help="Frames of each file that are timed."
)
@common.json_option
def main(
    networks: tuple[str, ...],
    data: Path,
    out: Path,
    formats: tuple[str, ...],
    size: Size,
    frames: int,
    as_json: bool,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    heights, widths = zip(*clip_sizes(find_clips(data, None)), strict=True)
    height, width = max(heights), max(widths)
    jobs = [(Size(-(-width // 4), -(-height // 4)), data), (size, few(data, out / "few"))]
    rows = []
    for name in networks:
        rows += measured(name, out, formats or tuple(FORMATS), jobs, frames)
    common.report({"rows": rows}, as_json, table(rows))


def few(data: Path, folder: Path) -> Path:
    """Return a folder of the first clip of each of a data set's lists: how long an eight-bit file
    takes does not depend on what it was calibrated on."""
    folder.mkdir(exist_ok=True)
    for name in ("sep_trainlist.txt", "sep_testlist.txt"):
        (folder / name).write_text((data / name).read_text().split()[0] + "\n")
    if not (folder / "sequences").exists():
        (folder / "sequences").symlink_to((data / "sequences").resolve())
    return folder


def measured(
    named: str, folder: Path, chosen: tuple[str, ...], jobs: list[tuple[Size, Path]], frames: int
) -> list[dict[str, Any]]:
    """Export one network in every form; return what each file loses at the first size, and takes
    at the second."""
    model, _, weights = named.partition("@")
    rows: list[dict[str, Any]] = []
    files: list[tuple[dict[str, Any], Path]] = []
    for format_ in chosen:
        try:
            module_of(format_)
        except UserError:
            continue  # its packages are not installed
        if not runs_here(format_):
            continue
        for precision, formats in HOLDS.items():
            if format_ not in formats:
                continue
            row: dict[str, Any] = {"network": model, "format": format_, "precision": precision}
            sha256 = load_network(model, weights)[1]["sha256"] or ""
            same = zlib.crc32(f"{sha256} {[data.resolve() for _, data in jobs]}".encode())
            stem = f"{model.replace(':', '_')}-{precision}-{same:08x}"
            for number, (size, data) in enumerate(jobs):
                end = f"{number}-{size.width}x{size.height}{FORMATS[format_].suffix}"
                out = folder / f"{stem}-{end}"
                try:
                    told = written(out, model, weights, format_, precision, size, data, not number)
                except UserError as error:
                    row["error"] = str(error)
                    break
                if not number:
                    row |= {"cost": told["cost"], "largest": told["checked"]["largest_difference"]}
                else:
                    row["bytes"] = told["bytes"]
                    files.append((row, out))
            rows.append(row)
    found = bench(Bench(tuple(out for _, out in files), frames=frames))["files"]
    for (row, _), timed in zip(files, found, strict=True):
        row |= {"ms": timed["ms"], "delegated": timed["delegated"]}
    return rows


def written(
    out: Path,
    model: str,
    weights: str,
    format_: str,
    precision: str,
    size: Size,
    data: Path,
    measured: bool,
) -> dict[str, Any]:
    """Export, or return what an earlier call told of the file."""
    log = out.with_name(out.name + ".told.json")
    if not (log.is_file() and use_beside(out).is_file()):
        calibrate = data if precision == "int8" else None
        measure = data if measured else None
        job = Export(out, model, weights, format_, size, precision, calibrate, measure)
        write_atomically(log, json.dumps(export(job)))
    told: dict[str, Any] = json.loads(log.read_text())
    return told


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = []
    for row in rows:
        name = (row["network"], row["format"], row["precision"])
        if "error" in row:
            lines.append((*name, row["error"], "", "", "", ""))
            continue
        lost = {cost["calibrated"]: f"{cost['lost']:.3f}" for cost in row["cost"]}
        figures = (f"{row['largest']:.1e}", lost.get(True, ""), lost.get(False, ""))
        lines.append((*name, *figures, f"{row['bytes'] / 1e6:.2f}", f"{row['ms']:.1f}"))
    return tabulate(lines, HEAD, tablefmt="pipe", disable_numparse=True)


if __name__ == "__main__":
    main()
