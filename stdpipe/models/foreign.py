"""Translates other people's checkpoints into our names; foreign.yaml has the tables and sources.

Known are the published names of EDVR (BasicSR's are ours; mmagic's, the original's), D3Dnet,
SOF-VSR (TIP), VESPCN, VSRNet, VDSR, the denoising blocks of FastDVDnet and the encoder of PISR, and
TensorFlow's arrays of RLSP, Mobile RRN and SWRN in an .npz file. RBPN, TOFlow and DUF bear their
sources' names here. A source is taken where every beginning of names that tells it occurs.
"""

import logging
import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from stdpipe.cache.schema import read_yaml

LOG = logging.getLogger(__name__)
State = dict[str, Tensor]
NAMES = Path(__file__).with_name("foreign.yaml")
SHARED = ("module.", "net.", "model.")  # wrappers, where every name begins so
PREFIX = re.compile(r"^(module\.|generator\.|generator_ema\.)+")
AVERAGED = "generator_ema."
COUNTERS = ("step_counter", "generator_ema.steps")  # of mmagic's wrappers
DOUBLED = re.compile(r"\{2\*(\d{1,3})\+(\d)\}")
WHITE = 255  # TensorFlow's value of white; it is 1 here
BLOCK = 16  # HR pixels of an LR pixel


class Source(NamedTuple):
    """Whose names they are, and how they become ours."""

    name: str
    names: Mapping[str, str]


def to_ours(state: State, path: str) -> State:
    """Drop wrappers' prefixes; where the names tell one of the sources, translate."""
    state = _unwrapped(state, path)
    source = _source("torch", state)
    if source is None:
        return state
    state = {_translated(k, source): v for k, v in state.items()}
    if source.name.startswith("vdsr"):
        return _with_biases(state)
    return _without_noise_map(state) if source.name == "fastdvdnet" else state


def _unwrapped(state: State, path: str) -> State:
    """Drop the prefixes of DataParallel, torch.compile, Lightning and mmagic.

    Of mmagic's generator and its running average, the average is taken.
    """
    state = {k.replace("_orig_mod.", ""): v for k, v in state.items() if k not in COUNTERS}
    while shared := next((p for p in SHARED if state and all(k.startswith(p) for k in state)), ""):
        state = {k.removeprefix(shared): v for k, v in state.items()}
    averaged = {k: v for k, v in state.items() if k.startswith(AVERAGED)}
    if averaged and any(k.startswith("generator.") for k in state):
        taken = "generator_ema is taken, and generator left out"
        LOG.warning("stdpipe: %s holds a generator and its running average: %s", path, taken)
    return {PREFIX.sub("", k): v for k, v in (averaged or state).items()}


def _with_biases(state: State) -> State:
    """Add biases of zero, since VDSR's repositories have none."""
    weights = {k.removesuffix("weight"): v for k, v in state.items() if k.endswith(".weight")}
    return {k + "bias": v.new_zeros(v.shape[:1]) for k, v in weights.items()} | state


def _without_noise_map(state: State) -> State:
    """Drop the filters of the noise map, which follow each frame's RGB: it is zero here."""
    return {k: v[:, :3] if k.endswith(".inc.0.weight") and v.ndim == 4 else v
            for k, v in state.items()}  # fmt: skip


def from_arrays(arrays: Mapping[str, NDArray[Any]], path: str) -> State:
    """Return the state of arrays by TensorFlow's names: kernels (H, W, I, O) become (O, I, H, W),
    biases are divided by 255, and the last layer's channels, which TensorFlow shuffles as (pixel,
    colour), become torch's (colour, pixel). Arrays by other names are taken for torch's."""
    source = _source("tensorflow", arrays)
    if source is None:
        return to_ours({k: torch.from_numpy(v) for k, v in arrays.items()}, path)
    state = {_translated(k, source): torch.from_numpy(v) for k, v in arrays.items()}
    return {k: _to_torch(k, v.float()) for k, v in state.items()}


def _to_torch(name: str, values: Tensor) -> Tensor:
    values = values.permute(3, 2, 0, 1).contiguous() if values.ndim == 4 else values / WHITE
    if name.startswith("last.") and len(values) > BLOCK:
        values = values.unflatten(0, (BLOCK, -1)).transpose(0, 1).flatten(0, 1).contiguous()
    return values


def values_beside() -> list[str]:
    """Return the full names of harmless classes whose values may stand beside the tensors."""
    found: list[str] = _table()["beside"]
    return found


@cache
def _table() -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(NAMES)
    return found


def _source(kind: str, names: Collection[str]) -> Source | None:
    for name, source in _table()[kind].items():
        if all(any(k.startswith(told) for k in names) for told in source["when"]):
            return Source(name, source["names"])
    return None


def _translated(name: str, source: Source) -> str:
    for pattern, replacement in source.names.items():
        name = re.sub(pattern, replacement, name)
    return DOUBLED.sub(lambda found: str(2 * int(found[1]) + int(found[2])), name)
