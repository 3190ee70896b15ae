"""Translates the names of parameters in other people's checkpoints.

EDVR's come from BasicSR, mmagic or the original, and are BasicSR's here. The other networks have
one published naming each; of theirs only a wrapper's prefix is dropped.
"""

import re
from pathlib import Path

from torch import Tensor

from stdpipe.cache.schema import read_yaml

State = dict[str, Tensor]
PREFIX = re.compile(r"^(module\.|generator\.|generator_ema\.)+")
TELLING = {"mmagic": "pcd_alignment.", "original": "recon_trunk."}  # a name's beginning


def to_basicsr(state: State) -> State:
    """Drop wrappers' prefixes; where the names are mmagic's or the original EDVR's, translate."""
    state = {PREFIX.sub("", k): v for k, v in state.items() if k != "step_counter"}
    for source, beginning in TELLING.items():
        if any(k.startswith(beginning) for k in state):
            names = read_yaml(Path(__file__).with_name("foreign.yaml"))[source]
            for pattern, replacement in names.items():
                state = {re.sub(pattern, replacement, k): v for k, v in state.items()}
            return state
    return state
