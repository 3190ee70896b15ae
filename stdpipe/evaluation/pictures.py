"""Pictures that show a result: LR, networks, HR and attention maps side by side in one PNG."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stdpipe.cache.files import atomic_file

Panel = NDArray[Any]

# Black, purple, red, orange, white in steps of equal lightness (CIE L* 0, 17, 33, 50, 67, 83,
# 100), so that twice as far along the table looks twice as bright, in grey print too.
HEAT_TABLE = np.array([
    (0, 0, 0), (57, 21, 97), (136, 29, 130), (218, 55, 92),
    (255, 125, 57), (255, 197, 109), (255, 255, 255),
], np.float64)  # fmt: skip
HEAT_PERCENTILE = 99.5

CROP_HEIGHT, CROP_WIDTH = 360, 480
# Panels of small test clips are enlarged to this width, so that their labels fit.
MIN_WIDTH = 160
GAP, MIN_FONT_SIZE = 8, 15
BACKGROUND, INK = (250, 250, 248), (35, 35, 40)


def save_comparison(path: Path, columns: Mapping[str, Panel]) -> None:
    """Write one PNG: the panels in a row, each under its label; missing folders are made.

    A panel is a picture, uint8 (H, W, 3), or a map such as attention, float (H, W), coloured
    from 0 to its own 99.5th percentile. The largest panel sets the size; smaller ones (LR) are
    enlarged to it in whole pixels, each a block, so that an LR panel shows what the network was
    given. The middle is cut out of large frames, at most 480 x 360.
    """
    panels = {label: _as_image(panel) for label, panel in columns.items()}
    size = max(panel.size for panel in panels.values())
    panels = {label: _centre(_enlarged(panel, size)) for label, panel in panels.items()}
    with atomic_file(path) as aside:
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


def _as_image(panel: Panel) -> Image.Image:
    if panel.dtype != np.uint8:
        assert panel.ndim == 2
        assert np.isfinite(panel).all()
        panel = heat(panel.astype(np.float64))
    return Image.fromarray(panel)


def _enlarged(panel: Image.Image, size: tuple[int, int]) -> Image.Image:
    factor = size[0] // panel.width
    assert (panel.width * factor, panel.height * factor) == size
    return panel.resize(size, Image.Resampling.NEAREST)


def _centre(panel: Image.Image) -> Image.Image:
    width, height = min(panel.width, CROP_WIDTH), min(panel.height, CROP_HEIGHT)
    left, top = (panel.width - width) // 2, (panel.height - height) // 2
    return panel.crop((left, top, left + width, top + height))


def _row(panels: Mapping[str, Image.Image]) -> Image.Image:
    first = next(iter(panels.values()))
    zoom = max(1, -(-MIN_WIDTH // first.width))
    width, height = first.width * zoom, first.height * zoom
    top = label_height(width)
    sheet = Image.new("RGB", (GAP + len(panels) * (width + GAP), top + height + GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for index, (label, panel) in enumerate(panels.items()):
        left = GAP + index * (width + GAP)
        sheet.paste(_enlarged(panel, (width, height)), (left, top))
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
