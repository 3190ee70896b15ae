"""stdpipe export."""

from typing import Any

import click

from stdpipe.cli import common
from stdpipe.cli.errors import Command, when_stopped


@click.command(cls=Command)
@common.model_option
@common.weights_option
@click.option("--out", required=True, type=common.PATH, help="A .onnx or a .pt2 file.")
@click.option(
    "--format",
    default="onnx",
    type=click.Choice(["onnx", "torch"]),
    help="onnx needs stdpipe[export]; torch writes a .pt2 file of torch.export.",
)
@common.json_option
def export(as_json: bool, **options: Any) -> None:
    """Write a network as one file that runs without stdpipe, at any frame size.

    The file takes a window (batch, frames, 3, height, width), RGB in [0, 1], edges of a clip
    repeated, and returns its centre frame four times as large. Before it gets its name, it is
    compared with the network at three sizes.

    \b
    Example:
      stdpipe export --weights runs/std/weights.pt --out student.onnx
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
        f"{result['bytes'] / 1e6:,.2f} MB{opset}; a window is {result['window']} frames"
    ]
    if checked := result["checked"]:
        sizes = ", ".join(f"{width}x{height}" for height, width in checked["sizes"])
        most = f"differs by at most {checked['largest_difference']:.1e}"
        lines.append(f"{checked['by']} {most} at {sizes}")
    return "\n".join(lines)
