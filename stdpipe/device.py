"""Puts networks on a device, in a precision and memory layout."""

import ctypes
import os
import sys
from contextlib import nullcontext
from typing import Literal, TypeVar

import torch
from torch import nn

from stdpipe.cache.errors import UserError

Net = TypeVar("Net", bound=nn.Module)
Amp = Literal["none", "bf16", "fp16"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's mallopt
KEPT, KEPT_BY_OLDER = 2**31 - 1, 2**25  # bytes; the largest that glibc, and an older one, takes


def settle(net: Net, device: torch.device, amp: str = "none") -> Net:
    """Return the network on its device, ready for inference, in the faster memory layout.

    The layouts differ in the last bits, so networks that must agree are all settled here.
    """
    net = net.to(device).eval()
    if likes_channels_last(device, amp):
        to_channels_last(net)
    return net


def likes_channels_last(device: torch.device, amp: str) -> bool:
    """Return whether convolutions are faster channels last: on a CPU EDVR-M is, 1.4 times. On a GPU
    in float32 cuDNN transposes every map: a ConvLSTM took twice the memory (RESULTS.md)."""
    return device.type == "cpu" or amp != "none"


def keep_memory(device: torch.device) -> None:
    """Have glibc keep freed memory for the next layer, on a CPU. By default it returns large blocks
    to the kernel, which then spends up to a quarter of EDVR-M's time clearing them again."""
    if device.type == "cpu" and sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # glibc; musl has none
            for threshold in (KEPT, KEPT_BY_OLDER):
                if libc.mallopt(M_MMAP_THRESHOLD, threshold):
                    libc.mallopt(M_TRIM_THRESHOLD, KEPT)
                    return


def pick_device(name: str) -> torch.device:
    """Return a device; "auto" is CUDA where there is one. UserError where it is missing."""
    # TF32 would round a convolution's float32 inputs to 10 bits
    torch.backends.cudnn.allow_tf32 = False
    full = name
    if name == "auto":
        full = "cuda" if torch.cuda.is_available() else "cpu"
    if full == "cuda":
        full = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # torchrun gives each process a GPU
    try:
        device = torch.device(full)
        torch.empty(1, device=device)
        if device.type == "cuda":  # for pinned memory, too
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} is not to be had: {str(error).splitlines()[0]}") from None
    return device


def autocast(device: torch.device, amp: str):  # type: ignore[no-untyped-def]
    """Return the context of mixed precision "bf16" or "fp16"; "none" stays in float32."""
    half = torch.bfloat16 if amp == "bf16" else torch.float16
    return nullcontext() if amp == "none" else torch.autocast(device.type, half)


def to_channels_last(net: nn.Module) -> None:
    """Lay out the weights of 2D convolutions channels last, in place; their maps follow."""
    for parameter in net.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
