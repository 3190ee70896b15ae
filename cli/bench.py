"""stdpipe bench."""

from pathlib import Path
from typing import Any

import click

from stdpipe.cli import common
from stdpipe.cli.errors import Command


@click.command(cls=Command)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=common.PATH)
@click.option(
    "--size",
    callback=common.lr_size,
    metavar="WxH",
    help="The LR size; needed by files of any size. [default: the files' own]",
)
@click.option("--frames", default=30, type=click.IntRange(1), help="Frames that each file runs.")
@common.json_option
def bench(as_json: bool, files: tuple[Path, ...], **options: Any) -> None:
    """Measure exported files: milliseconds a frame, peak memory, bytes.

    Files of `export` run side by side, a frame of each in turn, in their own runtimes on one
    thread of this machine. How long a phone takes is for the phone to say: docs/phone.md.

    \b
    Example:
      stdpipe bench student.onnx --size 320x180
    """
    from stdpipe.bench import Bench, as_text, bench

    result = bench(Bench(files, **options))
    common.report(result, as_json, as_text(result))
