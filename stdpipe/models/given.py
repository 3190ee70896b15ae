"""Networks that a caller holds already: our own, or any function from LR clips to images.

Axes: B batch, T frames of a clip, h w LR size.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from stdpipe.cache.errors import UserError
from stdpipe.models.base import Features, Network, take
from stdpipe.resample import SCALE


class ClipFunction(Network):
    """A function from LR clips (B, T, 3, h, w) to their images (B, T, 3, s h, s w), RGB in [0, 1].

    It may return a tuple or a dict of more, the images first or as "sr".
    """

    kind = "clip"
    num_frame = 7
    f_sr_channels = 0

    def __init__(self, function: Callable[[Tensor], Any], scale: int = SCALE) -> None:
        super().__init__()
        self.scale = scale
        self.function = function  # a submodule, if it is one

    def features_clip(self, clip: Tensor, centres: Sequence[int] | None = None) -> Features:
        made = self.function(clip)
        if isinstance(made, dict):
            made = made.get("sr")
        elif isinstance(made, tuple | list) and len(made):
            made = made[0]
        *lead, height, width = clip.shape
        size = (*lead, height * self.scale, width * self.scale)
        if not isinstance(made, Tensor) or made.shape != size:
            shape = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise UserError(
                f"{name_of(self.function)} made {shape} of LR {tuple(clip.shape)}: it should "
                f"return images {size}, alone, first or as 'sr'"
            )
        if not made.is_floating_point():
            raise UserError(f"{name_of(self.function)} made {made.dtype}: return floats in [0, 1]")
        sr = made if centres is None else take(made, centres)
        return Features(clip[:, :, :0], clip[:, :, :0], sr[:, :, :0], sr)


def given_network(network: object, scale: int = SCALE) -> Network:
    """Return a network to run: a copy of a module, whose mode and device then stay as they are.

    network: one of ours, or a function as ClipFunction takes it, which enlarges by `scale`. Raises
    UserError for anything else, and for a module that cannot be copied.
    """
    if isinstance(network, nn.Module):
        try:
            network = copy.deepcopy(network)
        except (RuntimeError, TypeError) as error:  # it keeps a tensor of some computation
            first = str(error).partition("\n")[0]
            told = f"{name_of(network)} cannot be copied, so that yours stays as it is ({first}): "
            told += "give a function that calls it, such as `lambda lr: network(lr)`"
            raise UserError(told) from error
    if isinstance(network, Network):
        return network
    if callable(network) and not isinstance(network, type):
        return ClipFunction(network, scale)
    got = type(network).__name__
    if isinstance(network, type):
        got = f"the class {network.__name__}, not one of it"
    raise UserError(f"a network is a function of LR clips or a file of weights, got {got}")


def name_of(network: object) -> str:
    """Return what messages and results call a network."""
    if isinstance(network, ClipFunction):
        return name_of(network.function)
    own = str(network.facts.get("network", "")) if isinstance(network, Network) else ""
    return own or getattr(network, "__name__", "") or type(network).__name__


def facts_of(network: Network) -> dict[str, Any]:
    """Return what load_network told of a network. Of its weights only where they came from: they
    may have been trained since."""
    none = {"weights": None, "degradation": None}
    return {**none, **network.facts, "network": name_of(network), "sha256": None}
