"""Start a causal network's clips from a state that has run, and some on a still scene.

A recurrent network trained on seven frames from a state of zero alone may run away on a long still
scene (Chiche et al., "Stable Long-Term Recurrent Video Super-Resolution", CVPR 2022).
Axes: B batch, T frames of a clip, h w LR size.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stdpipe.data.views import generator
from stdpipe.models.causal import CausalNetwork
from stdpipe.training.config import Training


class Start(NamedTuple):
    """The beginning of one step's clips."""

    steps: int = 0  # that the state has run before
    still: bool = False  # whether one frame stands for all


def draw(net: nn.Module, options: Training, step: int) -> Start:
    """Draw a step's start: the same on every rank, and when a run is resumed."""
    if not isinstance(net, CausalNetwork):
        return Start()
    share = net.warm_start if options.warm_start < 0 else options.warm_start
    return _draw(share, options, step)


def _draw(share: float, options: Training, step: int) -> Start:
    rng = generator(options.stream_seed, "warm", step)
    warm, still, steps = rng.random(), rng.random(), rng.integers(1, options.warm_steps + 1)
    return Start(int(steps), bool(still < 0.5)) if warm < share else Start()


def lead(nets: Sequence[nn.Module], every: Sequence[Training]) -> Callable[[int], int] | None:
    """Return how many frames before a clip each position of the stream needs, for networks that
    are trained together; None where none of them is causal."""
    pairs = zip(nets, every, strict=True)
    asked = [(net.warm_start if options.warm_start < 0 else options.warm_start, options)
             for net, options in pairs if isinstance(net, CausalNetwork)]  # fmt: skip
    return partial(_most, asked) if any(share > 0 for share, _ in asked) else None


def _most(asked: Sequence[tuple[float, Training]], position: int) -> int:
    starts = [_draw(share, o, position // o.batch) for share, o in asked]
    return max((start.steps for start in starts if not start.still), default=0)


def begun(
    net: nn.Module, batch: Mapping[str, Tensor], start: Start
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a step's batch, and what `features_clip` is given beside its LR: the state.

    batch: "lr" (B, T, 3, h, w) and, where the state runs over other frames, "before".
    """
    found = {name: x for name, x in batch.items() if name != "before"}
    if start.still:
        middle = found["lr"].shape[1] // 2
        found = {n: x[:, middle : middle + 1].expand_as(x) for n, x in found.items()}
    if not (start.steps and isinstance(net, CausalNetwork)):
        return found, {}
    before = found["lr"][:, :1].expand(-1, start.steps, -1, -1, -1)
    if not start.still:
        before = batch["before"][:, -start.steps :]
    # its own cache of casts: weights that were cast without gradient would be used with one
    with torch.autocast(before.device.type, enabled=torch.is_autocast_enabled(before.device.type),
                        cache_enabled=False):  # fmt: skip
        return found, {"state": net.warmed(before, found["lr"])}
