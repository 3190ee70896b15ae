"""Start a causal student's clips from a state that has run, and some on a still scene.

A recurrent network trained on seven frames from a state of zero alone may run away on a long still
scene (Chiche et al., "Stable Long-Term Recurrent Video Super-Resolution", CVPR 2022).
"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from stdpipe.data.views import generator
from stdpipe.models.base import Network
from stdpipe.models.causal import CausalNetwork
from stdpipe.training.config import StudentTraining


class Start(NamedTuple):
    """How the clips of one step begin."""

    steps: int = 0  # that the state has run before, over the clip to and fro
    still: bool = False  # whether one frame stands for all


def draw(student: Network, options: StudentTraining, step: int) -> Start:
    """Draw a step's start: the same on every rank, and when a run is resumed."""
    if not isinstance(student, CausalNetwork):
        return Start()
    share = student.warm_start if options.warm_start < 0 else options.warm_start
    rng = generator(options.stream_seed, "warm", step)
    warm, still, steps = rng.random(), rng.random(), rng.integers(1, options.warm_steps + 1)
    return Start(int(steps), bool(still < 0.5)) if warm < share else Start()


def stilled(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the batch with the middle frame, and its maps (B, T, ...), in place of every frame."""
    middle = batch["lr"].shape[1] // 2
    return {name: x[:, middle : middle + 1].expand_as(x) for name, x in batch.items()}
