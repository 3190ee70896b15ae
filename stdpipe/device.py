"""Where networks run: which device, in which precision and memory layout."""

import ctypes
import os
import sys
from contextlib import nullcontext
from typing import TypeVar

import torch
from torch import nn

from stdpipe.cache.errors import UserError

Net = TypeVar("Net", bound=nn.Module)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's mallopt
KEPT, KEPT_BY_OLDER = 2**31 - 1, 2**25  # bytes; the largest that glibc, and an older one, takes


def settle(net: Net, device: torch.device, amp: str = "none") -> Net:
    """The network on its device, ready for inference, its convolutions channels last where they are
    faster so: on a CPU (EDVR-M 1.4 times, RESULTS.md), on a GPU in mixed precision alone.

    Both layouts round differently in the last bits, so whatever must agree is settled alike.
    """
    net = net.to(device).eval()
    if likes_channels_last(device, amp):
        to_channels_last(net)
    return net


def likes_channels_last(device: torch.device, amp: str) -> bool:
    """Whether convolutions are faster so. On a GPU in float32 cuDNN would turn every map over and
    back: on an H200 a ConvLSTM then took twice the memory (RESULTS.md)."""
    return device.type == "cpu" or amp != "none"


def keep_memory(device: torch.device) -> None:
    """On a CPU, have glibc keep freed memory for the next layer. It gives large blocks back at
    once, and a fifth to a quarter of EDVR-M's time is then the kernel's, clearing them again."""
    if device.type == "cpu" and sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # glibc; musl has none
            for threshold in (KEPT, KEPT_BY_OLDER):
                if libc.mallopt(M_MMAP_THRESHOLD, threshold):
                    libc.mallopt(M_TRIM_THRESHOLD, KEPT)
                    return


def pick_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one, else CPU; UserError where the named one is missing."""
    # float32 means float32 in every stage: TF32 would round a convolution's inputs to 10 bits
    torch.backends.cudnn.allow_tf32 = False
    full = name
    if name == "auto":
        full = "cuda" if torch.cuda.is_available() else "cpu"
    if full == "cuda":
        full = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # torchrun's, one GPU each
    try:
        device = torch.device(full)
        torch.empty(1, device=device)
        if device.type == "cuda":  # pinned memory, too, then belongs to this one
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} is not to be had: {str(error).splitlines()[0]}") from None
    return device


def autocast(device: torch.device, amp: str):  # type: ignore[no-untyped-def]
    """Mixed precision as a context; "none" leaves float32."""
    if amp == "none":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if amp == "bf16" else torch.float16)


def to_channels_last(net: nn.Module) -> None:
    """Lay out all weights of 2D convolutions that way, in place: what they are given and yield
    follows. Those of 3D convolutions stay."""
    for parameter in net.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
