"""Pictures of a result: LR, networks, HR and attention maps side by side in one PNG."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

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
MIN_WIDTH = 160  # panels of small test clips are enlarged to it, so that their labels fit
GAP, MIN_FONT_SIZE = 8, 15
BACKGROUND, INK = (250, 250, 248), (35, 35, 40)


def save_comparison(path: Path, columns: Mapping[str, Panel]) -> None:
    """Write one PNG: the panels in a row, each under its label; missing folders are made.

    A panel is a picture, uint8 (H, W, 3), or a map such as attention, float (H, W), coloured
    from 0 to its own 99.5th percentile. Smaller panels (LR) are enlarged to the size of the
    largest, each pixel a block. Of large frames the middle is shown, at most 480 x 360.
    """
    images = {label: _as_image(panel) for label, panel in columns.items()}
    size = max(image.size for image in images.values())
    shown = min(size[0], CROP_WIDTH), min(size[1], CROP_HEIGHT)
    left, top = (size[0] - shown[0]) // 2, (size[1] - shown[1]) // 2
    zoom = max(1, -(-MIN_WIDTH // shown[0]))
    width, height = shown[0] * zoom, shown[1] * zoom
    above = label_height(width)
    sheet = Image.new("RGB", (GAP + len(images) * (width + GAP), above + height + GAP), BACKGROUND)
    for index, (label, image) in enumerate(images.items()):
        whole = image.resize(size, Image.Resampling.NEAREST)
        part = whole.crop((left, top, left + shown[0], top + shown[1]))
        place = GAP + index * (width + GAP)
        sheet.paste(part.resize((width, height), Image.Resampling.NEAREST), (place, above))
        _write_label(ImageDraw.Draw(sheet), label, place, width)
    with atomic_file(path) as aside:
        sheet.save(aside, format="PNG")


def heat(values: NDArray[np.floating[Any]], top: float | None = None) -> NDArray[np.uint8]:
    """Colour a map (H, W) from black at 0 to white at `top`: uint8 (H, W, 3).

    The default `top` is the 99.5th percentile: a few outliers would otherwise leave the rest black.
    """
    top = float(np.percentile(values, HEAT_PERCENTILE)) if top is None else top
    level = np.clip(values / top, 0, 1) if top > 0 else np.zeros_like(values)
    stops = np.linspace(0, 1, len(HEAT_TABLE))
    channels = [np.interp(level, stops, HEAT_TABLE[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def to_pixels(image: Tensor) -> NDArray[np.uint8]:
    """Turn (3, H, W) in [0, 1] into uint8 (H, W, 3)."""
    levels = (image.float().clamp(0, 1) * 255).round().byte()
    return np.asarray(levels.permute(1, 2, 0).cpu(), np.uint8)


def label_height(width: int) -> int:
    """Return the pixels above a panel of that width; large pictures get large labels."""
    return _font_size(width) * 7 // 4


def _font_size(width: int) -> int:
    return max(MIN_FONT_SIZE, width // 28)


def _as_image(panel: Panel) -> Image.Image:
    if panel.dtype != np.uint8:
        assert panel.ndim == 2
        assert np.isfinite(panel).all()
        panel = heat(panel.astype(np.float64))
    return Image.fromarray(panel)


def _write_label(draw: ImageDraw.ImageDraw, label: str, left: int, width: int) -> None:
    """Centre the label over its panel, shortened where it would run into the next one."""
    font = ImageFont.load_default(_font_size(width))
    text = " ".join(label.split())
    while draw.textlength(text, font=font) > width:
        text = text.removesuffix("...")[:-1] + "..."
    place = (left + width // 2, label_height(width) // 2)
    draw.text(place, text, fill=INK, font=font, anchor="mm")
