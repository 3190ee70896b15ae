"""Pictures for the page: arrays as data URIs, in PNG if they must be exact, else in WebP."""

import base64
import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stdpipe.evaluation.metrics import luma

Pixels = NDArray[np.uint8]


def png(pixels: Pixels) -> str:
    """Encode (H, W, 3), or a grey (H, W), as an exact data URI."""
    return _uri(Image.fromarray(np.ascontiguousarray(pixels)), format="PNG", optimize=True)


def webp(pixels: Pixels, width: int, quality: int = 82) -> str:
    """Encode (H, W, 3), or a grey (H, W), as a data URI, reduced to `width` where it is wider."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if image.width > width:
        size = (width, max(round(image.height * width / image.width), 1))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return _uri(image.convert("RGB"), format="WEBP", quality=quality, method=4)


def _uri(image: Image.Image, **options: Any) -> str:
    stream = io.BytesIO()
    image.save(stream, **options)
    kind = str(options["format"]).lower()
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def as_tensor(pixels: Pixels) -> Tensor:
    """Turn (H, W, 3) into RGB in [0, 1], (3, H, W)."""
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


def luma_error(sr: Pixels, hr: Pixels) -> NDArray[np.float64]:
    """Return |Y of SR - Y of HR| in levels of 255: two (H, W, 3) -> (H, W)."""
    return np.asarray((luma(as_tensor(sr)) - luma(as_tensor(hr))).abs(), np.float64)


def flow_colours(flow: NDArray[np.floating[Any]], top: float) -> Pixels:
    """Colour a flow (2, H, W) in pixels, x first: hue is direction, white is rest -> (H, W, 3).

    Colours are full from `top` pixels on.
    """
    hue = np.arctan2(flow[1], flow[0]) / (2 * np.pi) % 1
    strength = np.clip(np.hypot(*flow) / top, 0, 1)
    # a full colour is not wholly saturated and a bit darker than white, which is easier to look at
    levels = np.stack([hue, 0.83 * strength, 1 - 0.1 * strength], axis=-1) * 255
    return np.array(Image.fromarray(levels.round().astype(np.uint8), "HSV").convert("RGB"))


def colour_wheel(size: int = 72) -> Pixels:
    """Draw the key to `flow_colours`: (size, size, 3), white outside the circle."""
    place = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(place, place)
    wheel = flow_colours(np.stack([x, y]), 1.0)
    wheel[np.hypot(x, y) > 1] = 255
    return wheel
