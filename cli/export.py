"""stdpipe export."""

from typing import Any

import click

from stdpipe.cli import common
from stdpipe.cli.errors import Command, when_stopped


@click.command(cls=Command)
@common.model_option
@common.weights_option
@click.option("--out", required=True, type=common.PATH, help="The file, by its format's suffix.")
@click.option(
    "--format",
    default="onnx",
    type=click.Choice(["onnx", "torch", "executorch", "litert", "ncnn"]),
    help="onnx (.onnx, needs stdpipe[export]), torch (.pt2), executorch (.pte), litert (.tflite) "
    "or ncnn (.param and .bin); the last three need the extra of their name.",
)
@click.option(
    "--size",
    callback=common.lr_size,
    metavar="WxH",
    help="The only LR size of the file, for a graph of one frame a call. [default: any]",
)
@click.option(
    "--precision",
    default="fp32",
    type=click.Choice(["fp32", "fp16"]),
    help="Half precision: half the weights, and faster where the device computes in it.",
)
@click.option(
    "--measure",
    type=common.PATH,
    metavar="DATA",
    help="Print what the file loses in dB on the test clips of DATA, of that size.",
)
@common.json_option
def export(as_json: bool, **options: Any) -> None:
    """Write a network as a file that runs without stdpipe.

    With --size, what phones take: one frame a call, (1, 3, height, width) each, RGB in [0, 1], and
    a state that a causal network or FastDVDnet carries on. Without, a file of any size that takes a
    window (batch, frames, 3, height, width) and returns its centre frame four times as large.
    Before a file gets its name, it is run and compared with the network.

    \b
    Example:
      stdpipe export --weights runs/std/weights.pt --size 320x180 --out student.onnx
    """
    from stdpipe.export import Export, export

    job = common.usage(lambda: Export(**options))
    with when_stopped("nothing was written"):
        result = export(job)
    common.report(result, as_json, _text(result))


def _text(result: dict[str, Any]) -> str:
    opset = f", opset {result['opset']}" if result["opset"] else ""
    lines = [
        f"{result['model']}, {result['parameters']:,} parameters, as {result['out']}: "
        f"{result['bytes'] / 1e6:,.2f} MB{opset}; {_takes(result)}"
    ]
    if checked := result["checked"]:
        sizes = checked.get("sizes")
        where = "at " + ", ".join(f"{w}x{h}" for h, w in sizes) if sizes else "over a clip"
        most = f"differs by at most {checked['largest_difference']:.1e}"
        lines.append(f"{checked['by']} {most} {where}")
    if "lost_db" in result:
        lines.append(
            f"PSNR of luma {result['psnr']['file']:.3f} dB on those clips, the network's "
            f"{result['psnr']['network']:.3f}"
        )
    if "delegated" in result:
        taken = f"{result['delegated']} of {result['operators']} operators"
        lines.append(f"{result['delegate']} takes {taken}")
    return "\n".join(lines)


def _takes(result: dict[str, Any]) -> str:
    if not result["size"]:
        return f"a window is {result['window']} frames"
    width, height = result["size"]
    frames = ", ".join(f"{offset:+d}" if offset else "0" for offset in result["frames"])
    state = f" and its state, maps: {len(result['state'])}" if result["state"] else ""
    return f"a call takes frames {frames} of {width}x{height}{state}"
