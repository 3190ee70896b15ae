"""Degrade a whole clip as a camera and its encoder do: blur, sampling, sensor noise, H.264.

It is the same on one machine for the same clip and seed. Another version of the encoder may make
other LR: what is made of it keeps the encoder's version and a checksum of the LR.
Axes: T frames, h w LR size.
"""

import io
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stdpipe.data.views import generator

SMALLEST = 32  # a side of H.264's frames in pixels; smaller ones are padded
# BT.601, limited range: RGB in [0, 1] to levels of Y, Cb and Cr
TO_YUV = torch.tensor(
    [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]
)
TO_RGB = torch.linalg.inv(TO_YUV)
LEVELS_AT_0 = torch.tensor([16.0, 128.0, 128.0])


class Camera(NamedTuple):
    """The options of the chain after blur and sampling."""

    noise: float = 2.0
    """The standard deviation of the sensor's noise, in levels of 8 bits."""
    crf: int = 23
    """H.264's constant rate factor: 0 loses little, 51 most."""
    seed: int = 0


def record(lr: Tensor, how: Camera, key: str) -> Tensor:
    """Add noise to sampled frames (T, 3, h, w), in levels of 8 bits, and encode them as one video:
    uint8 (T, 3, h, w). The noise is drawn by the seed and the clip's key."""
    noise = generator(how.seed, "sensor", key).standard_normal(tuple(lr.shape), np.float32)
    noisy = (lr.float() + how.noise * torch.from_numpy(noise)).round().clamp(0, 255)
    return _through_h264(noisy, how.crf)


def encoder() -> str:
    """Return the version of the encoder, which may change what it makes."""
    version = ".".join(map(str, av.library_versions["libavcodec"]))
    return f"libx264 of PyAV {av.__version__}, libavcodec {version}"


def _through_h264(frames: Tensor, crf: int) -> Tensor:
    """Encode and decode RGB frames (T, 3, h, w) in levels, as 8-bit 4:2:0, in one thread."""
    height, width = frames.shape[-2:]
    bottom = max(height + height % 2, SMALLEST) - height
    right = max(width + width % 2, SMALLEST) - width
    padded = F.pad(frames, (0, right, 0, bottom), mode="replicate")
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("libx264", Fraction(25))
        stream.height, stream.width = padded.shape[-2:]
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        # without cpu-independent, x264 makes other bytes in some runs
        same = "threads=1:cpu-independent=1"
        stream.options = {"crf": str(crf), "preset": "medium", "x264-params": same}
        for planes in map(_planes, padded):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file, "r") as container:
        container.streams.video[0].thread_count = 1
        decoded = [_pixels(np.asarray(f.to_ndarray(), np.uint8)) for f in container.decode(video=0)]
    return torch.stack(decoded)[..., :height, :width]


def _planes(rgb: Tensor) -> NDArray[np.uint8]:
    """Return the planes of 4:2:0 below each other, (1.5 h, w), of an image (3, h, w) in levels."""
    yuv = torch.einsum("ij,jhw->ihw", TO_YUV, rgb / 255) + LEVELS_AT_0[:, None, None]
    chroma = F.avg_pool2d(yuv[None, 1:], 2)[0]
    planes = torch.cat([yuv[0].flatten(), chroma.flatten()]).round().clamp(0, 255)
    return planes.to(torch.uint8).numpy().reshape(-1, rgb.shape[-1])


def _pixels(planes: NDArray[np.uint8]) -> Tensor:
    """Return the image, uint8 (3, h, w), of planes of 4:2:0."""
    values = torch.from_numpy(planes).float()
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    chroma = values[height:].reshape(1, 2, height // 2, width // 2)
    wide = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)[0]
    yuv = torch.cat([values[None, :height], wide]) - LEVELS_AT_0[:, None, None]
    rgb = torch.einsum("ij,jhw->ihw", TO_RGB, yuv)
    return (rgb * 255).round().clamp(0, 255).to(torch.uint8)
