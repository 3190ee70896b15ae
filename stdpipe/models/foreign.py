"""Translates other people's checkpoints into our names; foreign.yaml has the tables and sources.

Known are the published names of EDVR (BasicSR's are ours; mmagic's, the original's), D3Dnet,
SOF-VSR (TIP), VESPCN, VSRNet, VDSR, the denoising blocks of FastDVDnet and the encoder of PISR, and
TensorFlow's of RLSP, Mobile RRN and SWRN. RBPN, TOFlow and DUF bear their sources' names here. A
source is taken where every beginning of names that tells it occurs.
"""

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from stdpipe.cache.errors import UserError
from stdpipe.cache.schema import read_yaml
from stdpipe.models.zoo import ZOO, Spec, parse

LOG = logging.getLogger(__name__)
State = dict[str, Tensor]
NAMES = Path(__file__).with_name("foreign.yaml")
# of DataParallel, Lightning and mmagic, whose running average comes before the generator itself
WRAPPERS = ("module.", "net.", "model.", "generator_ema.", "generator.")
DEEPEST = 4  # wrappers around wrappers
COUNTERS = ("step_counter", "generator_ema.steps")  # of mmagic's wrappers
VARIABLE = "/.ATTRIBUTES/VARIABLE_VALUE"  # ends TensorFlow's names
SLOTS = re.compile(r"^optimizer/|/\.OPTIMIZER_SLOT/|/Adam(_1)?$")  # an optimiser's, in TensorFlow
DOUBLED = re.compile(r"\{2\*(\d{1,3})\+(\d)\}")
WHITE = 255  # TensorFlow's value of white; it is 1 here
VARIANTS = {"channels": "1", "published": "true"}  # options of other shapes
BLOCK = 16  # HR pixels of an LR pixel


class Source(NamedTuple):
    """An author's names, how they become ours, and what the network has to be, since no name or
    shape shows it: options that must be set, and the phase that a name may leave open."""

    name: str
    when: list[str]
    names: Mapping[str, str]
    needs: Mapping[str, Any] = {}
    phase: float | None = None


class Reading(NamedTuple):
    """One way to read a file's names."""

    state: State
    source: Source | None
    under: str  # the prefix that is taken off; names without it are left out


def to_ours(state: State, path: str, spec: Spec | None = None, own: Collection[str] = ()) -> State:
    """Return the state in our names: that of its readings which has most names of `own`.

    Raises UserError, with the name to give, where `spec` would make other images of the weights
    than they were published for.
    """
    state = _bare(state)
    taken = max(_readings(state), key=lambda reading: len(reading.state.keys() & own))
    _tell_left_out(state, taken.under, path)
    if taken.source and spec and taken.source.name == spec.name:
        _check_options(taken.source, spec, path)
    return taken.state


def whose(state: State) -> Spec | None:
    """Return the first network of the zoo that has the names and shapes of one of the readings."""
    variants = [
        f"{name}:{k}={v}" for k, v in VARIANTS.items() for name in ZOO if parse(name).has(k)
    ]
    readings = [
        ({k: v.shape for k, v in reading.state.items()}, reading.source)
        for reading in _readings(_bare(state))
    ]
    for spec in map(parse, (*ZOO, *variants)):
        shapes = spec.shapes()
        for found, source in readings:
            if shapes and found == shapes:
                needed = {k: v for k, v in (source.needs if source else {}).items() if spec.has(k)}
                return spec._replace(asked={**spec.asked, **needed})
    return None


def published_phase(names: Collection[str]) -> float | None:
    """Return where the LR pixels lie for which weights by these names were published, if known."""
    source = _source("tensorflow", names)
    return source.phase if source else None


def _check_options(source: Source, spec: Spec, path: str) -> None:
    wrong = {k: v for k, v in source.needs.items() if spec.option(k) != v}
    if wrong:
        right = spec._replace(asked={**spec.asked, **wrong})
        told = f"of which {spec} would make other images: name {right} instead"
        raise UserError(f"{path} holds published weights, {told}")


def _bare(state: State) -> State:
    """Return the state without torch.compile's prefix and wrappers' counters."""
    return {k.replace("_orig_mod.", ""): v for k, v in state.items() if k not in COUNTERS}


def _readings(state: State) -> Iterator[Reading]:
    """Yield the ways to read a file's names."""
    if (source := _source("tensorflow", state)) is not None:
        yield Reading(_from_tensorflow(state, source), source, "")
    else:
        yield from _unwrapped(state)


def _unwrapped(state: State, under: str = "") -> Iterator[Reading]:
    """Yield what is under wrappers' prefixes, taken off one at a time, the deepest first; each as
    translated, where its names tell a source, and as it is."""
    if under.count(".") < DEEPEST:
        for prefix in WRAPPERS:
            inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            if inner:
                yield from _unwrapped(inner, under + prefix)
    if (source := _source("torch", state)) is not None:
        yield Reading(_from_torch(state, source), source, under)
    yield Reading(state, None, under)


def _tell_left_out(state: State, under: str, path: str) -> None:
    depth = under.count(".")
    left = [".".join(k.split(".")[:depth]) for k in state if not k.startswith(under)]
    if left:
        parts = list(dict.fromkeys(left))
        told = ", ".join(parts[:3]) + ", ..." * (len(parts) > 3)
        LOG.warning("stdpipe: %s: %s is taken, and %s left out", path, under[:-1], told)


def _from_torch(state: State, source: Source) -> State:
    state = {_translated(k, source): v for k, v in state.items()}
    if source.name.startswith("vdsr"):
        return _with_biases(state)
    return _without_noise_map(state) if source.name == "fastdvdnet" else state


def _with_biases(state: State) -> State:
    """Add biases of zero, since VDSR's repositories have none."""
    weights = {k.removesuffix("weight"): v for k, v in state.items() if k.endswith(".weight")}
    return {k + "bias": v.new_zeros(v.shape[:1]) for k, v in weights.items()} | state


def _without_noise_map(state: State) -> State:
    """Drop the filters of the noise map, which follow each frame's RGB: it is zero here."""
    return {k: v[:, :3] if k.endswith(".inc.0.weight") and v.ndim == 4 else v
            for k, v in state.items()}  # fmt: skip


def _from_tensorflow(state: State, source: Source) -> State:
    """Return the state of TensorFlow's variables, less counters and the optimiser's.

    Kernels (H, W, I, O) become (O, I, H, W), biases are divided by 255, and the last layer's
    channels, which TensorFlow shuffles as (pixel, colour), become torch's (colour, pixel).
    """
    kept = {k: v for k, v in state.items() if v.ndim and not SLOTS.search(k)}
    kept = {_translated(k.removesuffix(VARIABLE), source): v for k, v in kept.items()}
    return {k: _to_torch(k, v.float()) for k, v in kept.items()}


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
            return Source(name, **source)
    return None


def _translated(name: str, source: Source) -> str:
    for pattern, replacement in source.names.items():
        name = re.sub(pattern, replacement, name)
    return DOUBLED.sub(lambda found: str(2 * int(found[1]) + int(found[2])), name)
