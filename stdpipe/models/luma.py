"""Y in, Y out: published networks that super-resolve luma alone, inside an interface of RGB frames.

BT.601, studio swing, for images in [0, 1] (so Y lies in [16/255, 235/255]), as in
stdpipe.evaluation.metrics: MATLAB's rgb2ycbcr, on which these networks were trained.
"""

from collections.abc import Callable

from torch import Tensor

from stdpipe.models.layers import bicubic_base

RED, GREEN, BLUE, BLACK = 65.481 / 255, 128.553 / 255, 24.966 / 255, 16 / 255
SWING = RED + GREEN + BLUE  # 219/255: Y of white less Y of black


def luma(rgb: Tensor) -> Tensor:
    """Y of RGB: (..., 3, H, W) -> (..., 1, H, W)."""
    red, green, blue = rgb.split(1, dim=-3)
    y: Tensor = RED * red + GREEN * green + BLUE * blue + BLACK
    return y


def with_luma(y: Tensor, rgb: Tensor) -> Tensor:
    """RGB (..., 3, H, W) with its Y replaced by y (..., 1, H, W), Cb and Cr kept.

    Y has one and the same coefficient in R, G and B, so that the way to YCbCr and back comes down
    to adding the change of Y to each.
    """
    return rgb + (y - luma(rgb)) / SWING


def in_channels(frames: Tensor, channels: int) -> Tensor:
    """RGB frames as a network of 3 channels or of 1 (Y) sees them."""
    return luma(frames) if channels == 1 else frames


def to_image(
    out: Tensor, centre: Tensor, phase: float, base: Callable[[Tensor, float], Tensor] | None
) -> Tensor:
    """What a last convolution gives (B, 1 or 3, H, W) -> RGB (B, 3, H, W).

    base upsamples the LR centre frame (B, 3, h, w), to which `out` is the residual; None where
    `out` is the image itself. Y alone gets Cb and Cr from the bicubic centre frame.
    """
    channels = out.shape[1]
    if base is not None:
        out = out + base(in_channels(centre, channels), phase)
    return out if channels == 3 else with_luma(out, bicubic_base(centre, phase))
