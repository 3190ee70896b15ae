"""Pictures that show a result: LR, networks, HR and attention maps side by side in one PNG."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stdpipe.cache.errors import UserError
from stdpipe.cache.files import atomic_file

Panel = NDArray[Any]

# Black, purple, red, orange, white in steps of equal lightness (CIE L* 0, 17, 33, 50, 67, 83,
# 100), so that twice as far along the table looks twice as bright, in grey print too.
HEAT_TABLE = np.array(
    [
        (0, 0, 0),
        (57, 21, 97),
        (136, 29, 130),
        (218, 55, 92),
        (255, 125, 57),
        (255, 197, 109),
        (255, 255, 255),
    ],
    np.float64,
)
HEAT_PERCENTILE = 99.5

CROP_HEIGHT, CROP_WIDTH = 360, 480
# Panels of small test clips are enlarged to this width, so that their labels fit.
MIN_WIDTH = 160
GAP, MIN_FONT_SIZE = 8, 15
BACKGROUND, INK = (250, 250, 248), (35, 35, 40)


def save_comparison(
    path: str | os.PathLike[str], columns: Mapping[str, Panel], crop: bool = False
) -> None:
    """Write one PNG: the panels in a row, each under its label; missing folders are made.

    A panel is a picture, uint8 (H, W, 3), or a map such as attention, float (H, W), coloured
    from 0 to its own 99.5th percentile. The largest panel sets the size; smaller ones (LR) are
    enlarged to it in whole pixels. `crop` cuts the middle out of large frames, at most 480 x 360.
    Raises UserError for no panels, other kinds of panels, or sizes that no whole factor relates.
    """
    if not columns:
        raise UserError("a comparison needs at least one panel, but got none")
    panels = {label: _as_rgb(label, panel) for label, panel in columns.items()}
    height = max(panel.shape[0] for panel in panels.values())
    width = max(panel.shape[1] for panel in panels.values())
    panels = {label: _enlarge(label, panel, height, width) for label, panel in panels.items()}
    if crop:
        panels = {label: _centre(panel) for label, panel in panels.items()}
    with atomic_file(Path(path)) as aside:
        _row(panels).save(aside, format="PNG")


def heat(values: NDArray[np.floating[Any]], top: float | None = None) -> NDArray[np.uint8]:
    """Colours for a map that is 0 at its least, (H, W) -> uint8 (H, W, 3); black to white.

    White is `top`, or the map's 99.5th percentile: a few outliers would otherwise leave the rest
    black.
    """
    top = float(np.percentile(values, HEAT_PERCENTILE)) if top is None else top
    level = np.clip(values / top, 0, 1) if top > 0 else np.zeros_like(values)
    stops = np.linspace(0, 1, len(HEAT_TABLE))
    channels = [np.interp(level, stops, HEAT_TABLE[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def label_height(width: int) -> int:
    """Pixels above each panel of that width: a large picture is shown reduced, and must be read."""
    return _font_size(width) * 7 // 4


def _font_size(width: int) -> int:
    return max(MIN_FONT_SIZE, width // 28)


def _as_rgb(label: str, panel: Panel) -> NDArray[np.uint8]:
    if panel.dtype == np.uint8 and panel.ndim == 3 and panel.shape[2] == 3 and panel.size:
        return panel
    if np.issubdtype(panel.dtype, np.floating) and panel.ndim == 2 and panel.size:
        if not np.isfinite(panel).all():
            raise UserError(f"panel {label!r} holds values that are not finite")
        return heat(panel.astype(np.float64))
    raise UserError(
        f"panel {label!r} is {panel.dtype} {panel.shape}: give uint8 (H, W, 3) or a float map "
        "(H, W)"
    )


def _enlarge(label: str, panel: Panel, height: int, width: int) -> Panel:
    """Every pixel as a block, so that an LR panel shows what the network was given."""
    factor = height // panel.shape[0]
    if (panel.shape[0] * factor, panel.shape[1] * factor) != (height, width):
        raise UserError(
            f"panel {label!r} is {panel.shape[1]}x{panel.shape[0]}, which no whole factor enlarges "
            f"to {width}x{height}"
        )
    return panel.repeat(factor, axis=0).repeat(factor, axis=1)


def _centre(panel: Panel) -> Panel:
    height, width = panel.shape[:2]
    top, left = max(0, height - CROP_HEIGHT) // 2, max(0, width - CROP_WIDTH) // 2
    return panel[top : top + CROP_HEIGHT, left : left + CROP_WIDTH]


def _row(panels: Mapping[str, Panel]) -> Image.Image:
    first = next(iter(panels.values()))
    zoom = max(1, -(-MIN_WIDTH // first.shape[1]))
    height, width = first.shape[0] * zoom, first.shape[1] * zoom
    top = label_height(width)
    sheet = Image.new("RGB", (GAP + len(panels) * (width + GAP), top + height + GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for index, (label, panel) in enumerate(panels.items()):
        left = GAP + index * (width + GAP)
        picture = Image.fromarray(np.ascontiguousarray(panel))
        sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (left, top))
        _write_label(draw, label, left, width)
    return sheet


def _write_label(draw: ImageDraw.ImageDraw, label: str, left: int, width: int) -> None:
    """The label, centred over its panel, shortened where it would run into the next one."""
    font = ImageFont.load_default(_font_size(width))
    text = " ".join(label.split())
    while draw.textlength(text, font=font) > width:
        text = text.removesuffix("...")[:-1] + "..."
    place = (left + width // 2, label_height(width) // 2)
    draw.text(place, text, fill=INK, font=font, anchor="mm")
