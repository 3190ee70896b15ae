"""From a teacher's features to a cache entry: encoded on the device, then copied to the host.

Codes and half floats cross in place of float32. What an encoding loses is measured here, too.
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


def quantise(values: Tensor) -> tuple[Tensor, Tensor]:
    """stdpipe.cache.quantise on the values' own device, to the same bits: (T, C, H, W) float32 ->
    int8 codes and their scale (2, C).

    Values that are not finite become any code: see `EncodedClip.arrays`.
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
def encode(features: Features, view: View, manifest: cache.Manifest) -> "EncodedClip":
    """Turn one clip's features, T frames, into the manifest's arrays, on their way to the host.

    Full-frame maps are turned back upright, so that they fit one array whatever the orientation;
    a baked view stays as the teacher saw it.
    """
    orientation = 0 if view.crop else view.orientation
    stored: dict[str, Tensor] = {}
    largest: dict[str, Tensor] = {}
    for name in manifest.given:
        whole = getattr(features, name) if name != "attention" else features.f_sr
        values = attention_map(whole.float()) if name == "attention" else whole.float()
        values = unorient(values, orientation)
        largest[name] = _to_host(_magnitude(values))
        dtype = manifest.arrays[name].dtype
        if dtype == "int8":
            stored[name], stored[name + "_scale"] = quantise(values)
        else:
            stored[name] = values.to(getattr(torch, dtype))
    arrays = {name: _to_host(values.contiguous()) for name, values in stored.items()}
    return EncodedClip(arrays, largest, _mark(features.f_sr.device))


def _magnitude(values: Tensor) -> Tensor:
    """Largest absolute value; NaN where there is one. On the device: asking for it would wait."""
    return torch.maximum(values.amax(), -values.amin())


def _refuse(name: str, largest: Tensor, dtype: str) -> None:
    try:  # the cache's own rule, and its words
        cache.encode(largest.reshape(1).cpu().numpy(), "float32" if dtype == "int8" else dtype)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None


def _to_host(values: Tensor) -> Tensor:
    """On CUDA, into pinned memory without waiting: to be read once `_mark` has been passed."""
    if values.device.type != "cuda":
        return values
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return host.copy_(values, non_blocking=True)


def _mark(device: torch.device) -> "torch.cuda.Event | None":
    """Passed when all that was asked of the device so far is done; None where nothing waits."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(blocking=True)  # a waiting thread sleeps
    event.record(torch.cuda.current_stream(device))
    return event


@dataclass(frozen=True)
class EncodedClip:
    """One clip as it is to lie on disk, its copies to the host perhaps still under way."""

    tensors: dict[str, Tensor]
    largest: dict[str, Tensor]
    """Largest magnitude of what each array was made from."""
    copied: torch.cuda.Event | None

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what Writer.write takes; waits for the copies.

        Raises UserError, naming the array: a value is not finite, or too large for float16.
        """
        if self.copied is not None:
            self.copied.synchronize()
        for name, largest in self.largest.items():
            _refuse(name, largest, str(self.tensors[name].dtype).removeprefix("torch."))
        return {name: values.numpy() for name, values in self.tensors.items()}


def weigh(manifest: cache.Manifest, view: View, features: Features) -> dict[str, int]:
    """Bytes of each array's file of one entry. Raises UserError where it cannot be encoded."""
    entry = encode(features, view, manifest).arrays()
    specs = manifest.arrays.items()
    return {name: sum(map(len, encode_shard(spec, entry[name]))) for name, spec in specs}


@torch.inference_mode()
def encoding_error(
    teacher: Network,
    features: Features,
    seen: Tensor,
    encoding: str,
    targets: Collection[str] = ("f_sr", "attention"),
) -> dict[str, Any]:
    """Return what an encoding loses on one clip, whose T frames the teacher has seen on its device.

    f_sr_rmse: relative RMSE of f_sr; sr_psnr: PSNR in dB of the SR image through the teacher's last
    convolution, against the unencoded one (null where equal); attention_rmse: relative, of the map;
    f_lr_rmse: relative, where f_lr is a target.
    Raises UserError where the encoding cannot hold the values.
    """
    stored, dtype, _ = cache.ENCODINGS[encoding]
    decoded = _there_and_back(stored, getattr(features, stored).float(), dtype)
    f_sr = decoded if stored == "f_sr" else teacher.upsample(decoded)
    mse = (teacher.to_rgb(f_sr, seen) - features.sr).square().mean().item()
    error = {
        "f_sr_rmse": relative_rmse(f_sr, features.f_sr.float()),
        "sr_psnr": float(-10 * np.log10(mse)) if mse else None,
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
    """Root mean square of the difference, over that of the true map. Any equal shapes."""
    return float((found - true).square().mean().sqrt() / true.square().mean().sqrt())
