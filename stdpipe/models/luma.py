"""Lets published networks that super-resolve luma alone take and give RGB frames.

Y is BT.601 with studio swing, for images in [0, 1]: MATLAB's rgb2ycbcr, on which these networks
were trained, as in stdpipe.evaluation.metrics.
"""

from collections.abc import Callable

from torch import Tensor, nn

from stdpipe.models.layers import bicubic_base, full_precision
from stdpipe.resample import SCALE

RED, GREEN, BLUE, BLACK = 65.481 / 255, 128.553 / 255, 24.966 / 255, 16 / 255
SWING = RED + GREEN + BLUE  # 219/255: Y of white less Y of black


def luma(rgb: Tensor) -> Tensor:
    """Return Y of RGB: (..., 3, H, W) -> (..., 1, H, W)."""
    red, green, blue = rgb.split(1, dim=-3)
    y: Tensor = RED * red + GREEN * green + BLUE * blue + BLACK
    return y


def with_luma(y: Tensor, rgb: Tensor) -> Tensor:
    """Return RGB (..., 3, H, W) with its Y replaced by y (..., 1, H, W), Cb and Cr kept."""
    # Y has the same coefficient in R, G and B
    return rgb + (y - luma(rgb)) / SWING


def in_channels(frames: Tensor, channels: int) -> Tensor:
    """Return RGB frames as a network of 3 channels or of 1 (Y) sees them."""
    return luma(frames) if channels == 1 else frames


def own_image(sr: Tensor, channels: int) -> Tensor:
    """Return what a network of `channels` has made itself of its image (..., 3, H, W): for 1, the
    luma (..., 1, H, W)."""
    return luma(sr) if channels == 1 else sr


def to_image(
    last: nn.Module,
    f_sr: Tensor,
    centre: Tensor,
    phase: float,
    base: Callable[[Tensor, float, int], Tensor] | None,
    scale: int = SCALE,
) -> Tensor:
    """Return the RGB image (B, 3, H, W) of last(f_sr), which is RGB or Y.

    base upsamples the LR centre frame (B, 3, h, w), to which last(f_sr) is then a residual; None
    means that it is the image itself. Y gets Cb and Cr from the bicubic centre frame.
    """
    if base is None:
        out = full_precision(last, f_sr)  # an image must not be rounded, a residual may
    else:
        out = last(f_sr)
        out = out + base(in_channels(centre, out.shape[1]), phase, scale)
    return out if out.shape[1] == 3 else with_luma(out, bicubic_base(centre, phase, scale))
