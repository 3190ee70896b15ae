"""stdpipe upscale."""

from typing import Any

import click

from stdpipe.cli import common
from stdpipe.cli.errors import Command, when_stopped


@click.command(cls=Command)
@click.argument("source", metavar="INPUT", type=common.PATH)
@click.argument("out", metavar="OUTPUT", type=common.PATH)
@common.model_option
@common.weights_option
@click.option(
    "--tile",
    metavar="SIDE",
    type=click.IntRange(0),
    help="Cut frames into tiles of that many LR pixels; 0 never. "
    "[default: frames above 640x360, of causal networks above 1280x720, to fit memory]",
)
@click.option(
    "--fps",
    metavar="RATE",
    type=click.FloatRange(0, min_open=True),
    help="A constant frame rate; drops sound, subtitles and chapters. "
    "[default: each frame's own time; 25 for a folder]",
)
@click.option("--crf", default=12, type=click.IntRange(0, 51), help="Video quality; 0 is best.")
@click.option(
    "--scene-cuts",
    default="on",
    type=click.Choice(["on", "off"]),
    help="Whether each scene is seen apart from the next.",
)
@click.option("--deinterlace", is_flag=True, help="Make whole frames of an interlaced video.")
@click.option("--partial", is_flag=True, help="Take a damaged video as far as it goes.")
@click.option("--overwrite", is_flag=True, help="Replace an OUTPUT that exists.")
@common.allow_option
@common.device_option
@common.amp_option
@common.json_option
def upscale(as_json: bool, **options: Any) -> None:
    """Super-resolve a video or a folder of frames, however long.

    Without --model and --weights, a small student does it that comes with stdpipe.
    OUTPUT is a video (.mp4, .mkv, .mov) or a folder of PNG files. A video keeps the time of every
    frame, colours and depth, sound, subtitles, titles and chapters of a video. The same command
    goes on where it was stopped.
    Tiles overlap by the network's field of view, so that they equal the whole frame; where that
    field has no bound (EDVR), the result says by how much neighbouring tiles differ.

    \b
    Example:
      stdpipe upscale DATA/sequences/00001/0001 results/clip.mp4
    """
    from stdpipe.upscale import Upscaling, upscale

    with when_stopped("the same command goes on from what is done"):
        result = upscale(Upscaling(**options))
    common.report(result, as_json, _text(result))


def _text(result: dict[str, Any]) -> str:
    tiles = result["tiles"]
    text = (
        f"{result['frames']} frames of {result['width']}x{result['height']} in {result['out']}, "
        f"{result['frames_per_s']:.3g} frames/s"
    )
    if result["resumed"]:
        text += f", {result['resumed']} of them from before"
    if result["own_student"]:
        text += f", by stdpipe's own student ({result['model']}; others by --weights)"
    if tiles["count"] > 1:
        text += f"; {tiles['count']} tiles a frame that overlap by {tiles['overlap']} LR pixels"
    if not tiles["exact"]:
        text += f" and differ by up to {tiles['largest_step']} of 255 levels where they meet"
    return text
