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
    type=click.Choice(["onnx", "torch", "executorch", "litert", "ncnn", "coreml"]),
    help="onnx (.onnx, needs stdpipe[export]), torch (.pt2), executorch (.pte), litert (.tflite), "
    "ncnn (.param and .bin) or coreml (a .zip of its package, not run but on macOS); the last four "
    "need the extra of their name.",
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
    type=click.Choice(["fp32", "fp16", "int8"]),
    help="fp16: faster where the device computes in it. int8: convolutions in eight bits.",
)
@click.option(
    "--calibrate",
    type=common.PATH,
    metavar="DATA",
    help="A data set whose training clips say how to quantise to int8.",
)
@click.option(
    "--measure",
    type=common.PATH,
    metavar="DATA",
    help="Print what the file loses in dB on the test clips of DATA, no larger than that size.",
)
@common.allow_option
@common.json_option
def export(as_json: bool, **options: Any) -> None:
    """Write a network as a file that runs without stdpipe.

    The file makes one frame a call, of frames (batch, 3, height, width), RGB in [0, 1], and a state
    that a causal network or FastDVDnet carries on. With --size it is for that size alone, which is
    what phones take. Before a file gets its name, it is run and compared with the network.

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
        sizes = ", ".join(f"{width}x{height}" for width, height in checked["sizes"])
        most = f"differs by at most {checked['largest_difference']:.1e}"
        lines.append(f"{checked['by']} {most} over clips of {sizes}")
    for cost in result["cost"]:
        which = ", on which it was calibrated" if cost["calibrated"] else ""
        lines.append(
            f"PSNR of luma {cost['file']:.3f} dB, the network's {cost['network']:.3f}, so "
            f"{cost['lost']:.3f} lost, on {cost['clips']} clips of {cost['data']}{which}"
        )
    if "delegated" in result:
        taken = f"{result['delegated']} of {result['operators']} operators"
        lines.append(f"{result['delegate']} takes {taken}")
    return "\n".join(lines)


def _takes(result: dict[str, Any]) -> str:
    of = "any size"
    if result["size"]:
        width, height = result["size"]
        of = f"{width}x{height}"
    frames = ", ".join(f"{offset:+d}" if offset else "0" for offset in result["frames"])
    state = f" and its state, maps: {len(result['state'])}" if result["state"] else ""
    return f"a call takes frames {frames} of {of}{state}"
