"""Translates other people's checkpoints: names of parameters, and TensorFlow's layout.

EDVR's come from BasicSR, mmagic or the original, and are BasicSR's here. Arrays of TensorFlow, in
an .npz file, are those of RLSP, Mobile RRN or SWRN.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from stdpipe.cache.errors import UserError
from stdpipe.cache.schema import read_yaml

State = dict[str, Tensor]
NAMES = Path(__file__).with_name("foreign.yaml")
PREFIX = re.compile(r"^(module\.|generator\.|generator_ema\.)+")
TELLING = {"mmagic": "pcd_alignment.", "original": "recon_trunk."}  # a name's beginning
IN_TENSORFLOW = {"rlsp": "layer0/", "swrn": "model/conv_fusion/", "rrn": "model/conv_first/"}
WHITE = 255  # the value of white there; it is 1 here
BLOCK = 16  # HR pixels of an LR pixel


def to_basicsr(state: State) -> State:
    """Drop wrappers' prefixes; where the names are mmagic's or the original EDVR's, translate."""
    state = {PREFIX.sub("", k): v for k, v in state.items() if k != "step_counter"}
    for source, beginning in TELLING.items():
        if any(k.startswith(beginning) for k in state):
            return {_translated(k, source): v for k, v in state.items()}
    return state


def from_tensorflow(arrays: Mapping[str, NDArray[Any]], source: str) -> State:
    """Return the state of arrays by TensorFlow's names: kernels (H, W, I, O) become (O, I, H, W),
    biases are divided by 255, and the last layer's channels, which TensorFlow shuffles as (pixel,
    colour), become torch's (colour, pixel). Raises UserError for arrays of no network here."""
    for network, beginning in IN_TENSORFLOW.items():
        if any(name.startswith(beginning) for name in arrays):
            state = {_translated(k, network): torch.from_numpy(v) for k, v in arrays.items()}
            return {k: _to_torch(k, v.float()) for k, v in state.items()}
    known = ", ".join(IN_TENSORFLOW)
    raise UserError(f"{source} holds arrays of no network that is known here ({known})")


def _to_torch(name: str, values: Tensor) -> Tensor:
    values = values.permute(3, 2, 0, 1).contiguous() if values.ndim == 4 else values / WHITE
    if name.startswith("last.") and len(values) > BLOCK:
        values = values.unflatten(0, (BLOCK, -1)).transpose(0, 1).flatten(0, 1).contiguous()
    return values


@cache
def _patterns(source: str) -> dict[str, str]:
    found: dict[str, str] = read_yaml(NAMES)[source]
    return found


def _translated(name: str, source: str) -> str:
    for pattern, replacement in _patterns(source).items():
        name = re.sub(pattern, replacement, name)
    return name
