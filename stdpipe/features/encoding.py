"""Encode a teacher's features as a cache entry, on the device, and measure the encoding's error.

Codes and half floats are copied to the host in place of float32.
Axes: T frames of a clip, C channels, H W HR size.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stdpipe import cache
from stdpipe.cache.errors import UserError
from stdpipe.cache.layout import INT8_LIMIT
from stdpipe.cache.shards import encode_shard
from stdpipe.data.views import View, unorient
from stdpipe.distill.attention import attention_map
from stdpipe.models.base import Features, Network
from stdpipe.models.luma import own_image


def quantise(values: Tensor) -> tuple[Tensor, Tensor]:
    """Do stdpipe.cache.quantise on the values' own device, to the same bits: (T, C, H, W) float32
    -> int8 codes and their scale (2, C).

    Values that are not finite become arbitrary codes: `EncodedClip.arrays` refuses them.
    """
    low, high = values.amin((0, 2, 3)), values.amax((0, 2, 3))
    # divisors are tensors: CUDA multiplies by a plain number's reciprocal, which rounds otherwise
    step = (high - low) / low.new_full((), 2 * INT8_LIMIT)
    step = torch.where(step > 0, step, torch.ones_like(step))  # a constant channel
    middle = (high + low) / low.new_full((), 2)
    codes = (values - middle[:, None, None]).div_(step[:, None, None])
    codes = codes.round_().clamp_(-INT8_LIMIT, INT8_LIMIT)  # half to even, as numpy's rint
    return codes.to(torch.int8), torch.stack((step, middle))


def dequantise(codes: Tensor, scale: Tensor) -> Tensor:
    """Undo `quantise`: codes (..., T, C, H, W) and scale (..., 2, C) -> float32."""
    step, middle = scale[..., :, None, :, None, None].unbind(-5)
    return codes.float() * step + middle


@torch.inference_mode()
def encode(
    features: Features, view: View, manifest: cache.Manifest, names: Collection[str] | None = None
) -> "EncodedClip":
    """Turn one clip's features, T frames, into the manifest's arrays and begin to copy them.

    names: those of `manifest.given` that are wanted; None: all.

    Full-frame maps are turned upright, so that all orientations fit one array; a baked view stays
    as the teacher saw it.
    """
    orientation = 0 if view.crop else view.orientation
    stored: dict[str, Tensor] = {}
    largest: dict[str, Tensor] = {}
    for name in manifest.given if names is None else names:
        is_attention = name == "attention"
        values = getattr(features, "f_sr" if is_attention else name).float()
        if name == "sr":  # in 8 bits, as HR is
            values = own_image(values, manifest.sr_channels)
            values = (values.clamp(0, 1) * 255).round() + 0 * values  # a NaN stays one
        values = unorient(attention_map(values) if is_attention else values, orientation)
        largest[name] = _to_host(_magnitude(values))
        dtype = manifest.arrays[name].dtype  # the same for all sizes
        if dtype == "int8":
            stored[name], stored[name + "_scale"] = quantise(values)
        else:
            stored[name] = values.to(getattr(torch, dtype))
    arrays = {name: _to_host(values.contiguous()) for name, values in stored.items()}
    return EncodedClip(arrays, largest, _mark(features.f_sr.device))


def _magnitude(values: Tensor) -> Tensor:
    """Return the largest absolute value, or NaN, on the device: reading it would wait."""
    return torch.maximum(values.amax(), -values.amin())


def _refuse(name: str, largest: Tensor, dtype: str) -> None:
    try:  # the cache's own rule and message
        cache.encode(largest.reshape(1).cpu().numpy(), "float32" if "int8" in dtype else dtype)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _to_host(values: Tensor) -> Tensor:
    """Copy from CUDA to pinned memory without waiting; valid once `_mark`'s event has passed."""
    if values.device.type != "cuda":
        return values
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return host.copy_(values, non_blocking=True)


def _mark(device: torch.device) -> "torch.cuda.Event | None":
    """Record an event that passes when the device has done its work so far; None on a CPU."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(blocking=True)  # a waiting thread sleeps
    event.record(torch.cuda.current_stream(device))
    return event


@dataclass(frozen=True)
class EncodedClip:
    """One clip as it will lie on disk; its copies to the host may still be under way."""

    tensors: dict[str, Tensor]
    largest: dict[str, Tensor]  # largest magnitude of the values behind each array
    copied: torch.cuda.Event | None

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Wait for the copies and return the arrays for Writer.write.

        Raises UserError, naming the array, where a value is not finite or too large for float16.
        """
        if self.copied is not None:
            self.copied.synchronize()
        for name, largest in self.largest.items():
            _refuse(name, largest, str(self.tensors[name].dtype).removeprefix("torch."))
        return {name: values.numpy() for name, values in self.tensors.items()}


def weigh(manifest: cache.Manifest, view: View, features: Features) -> dict[str, int]:
    """Return the bytes of each array's file of one entry. Raises UserError as `arrays` does."""
    entry = encode(features, view, manifest).arrays()
    specs = manifest.group(str(view)).arrays.items()
    return {name: sum(map(len, encode_shard(spec, entry[name]))) for name, spec in specs}


@torch.inference_mode()
def encoding_error(
    teacher: Network,
    features: Features,
    seen: Tensor,
    encoding: str,
    targets: Collection[str] = ("f_sr", "attention"),
) -> dict[str, Any]:
    """Measure what an encoding loses on one clip: the fields of info.EncodingError.

    features, seen: the teacher's features, and the T frames behind them, on its device. The SR
    images are made by the teacher's last convolution.
    Raises UserError where the encoding cannot hold the values.
    """
    lost: dict[str, Any] = dict.fromkeys(("f_sr_rmse", "attention_rmse"))
    if "sr" in targets:
        true = own_image(features.sr.float(), teacher.channels)
        lost["sr_rmse"] = relative_rmse((true.clamp(0, 1) * 255).round() / 255, true)
    if not {"f_sr", "attention", "f_lr"} & set(targets):
        return lost
    stored, dtype, _ = cache.ENCODINGS[encoding]
    decoded = _there_and_back(stored, getattr(features, stored).float(), dtype)
    f_sr = decoded if stored == "f_sr" else teacher.upsample(decoded)
    if teacher.kind == "window":  # others have no last layer that could be run by itself
        true = teacher.to_rgb(features.f_sr.float(), seen)  # features.sr may be an ensemble's
        mse = (teacher.to_rgb(f_sr, seen) - true).square().mean().item()
        lost["sr_psnr"] = float(-10 * np.log10(mse)) if mse else None
    error = lost | {
        "f_sr_rmse": relative_rmse(f_sr, features.f_sr.float()),
        "attention_rmse": relative_rmse(attention_map(f_sr), attention_map(features.f_sr.float())),
    }
    if "f_lr" in targets:
        f_lr = features.f_lr.float()
        error["f_lr_rmse"] = relative_rmse(_there_and_back("f_lr", f_lr, dtype), f_lr)
    return error


def _there_and_back(name: str, values: Tensor, dtype: str) -> Tensor:
    _refuse(name, _magnitude(values), dtype)
    if dtype == "int8":
        return dequantise(*quantise(values))
    return values.to(getattr(torch, dtype)).float()


def relative_rmse(found: Tensor, true: Tensor) -> float:
    """Return the RMS of the difference over the RMS of the true map, of any shape."""
    return float((found - true).square().mean().sqrt() / true.square().mean().sqrt())
