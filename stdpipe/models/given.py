"""Networks that a caller holds already: our own, or any function from LR clips to images.

Axes: B batch, T frames of a clip, h w LR size.
"""

import copy
import os
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from stdpipe.assets import EMBEDDED, TEACHER
from stdpipe.cache.errors import UserError
from stdpipe.models.base import Features, Network, take
from stdpipe.models.checkpoints import load_network

Given = Network | Callable[[Tensor], Any] | str | os.PathLike[str]


class ClipFunction(Network):
    """A function from LR clips (B, T, 3, h, w) to their images (B, T, 3, 4h, 4w), RGB in [0, 1].

    It may return a tuple or a dict of more, the images first or as "sr".
    """

    kind = "clip"
    num_frame = 7
    f_sr_channels = 0

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
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
        sr = made if centres is None else take(made, centres)
        none = sr[:, :, :0]
        return Features(clip[:, :, :0], clip[:, :, :0], none, sr)


def given_network(network: Given) -> Network:
    """Return a network to run, a copy of the one that is given: its mode and device stay.

    network: one of ours, any function as ClipFunction takes it, or a file of weights that stdpipe
    wrote. Raises UserError for anything else, and OSError for a file that is not there.
    """
    if isinstance(network, str | os.PathLike):
        file = TEACHER if os.fspath(network) == EMBEDDED else os.fspath(network)
        return load_network(None, str(file))[0]
    if isinstance(network, nn.Module):
        network = copy.deepcopy(network)
    if isinstance(network, Network):
        return network
    if callable(network):
        return ClipFunction(network)
    raise UserError(
        f"a network is a function of LR clips or a file of weights, got {type(network).__name__}"
    )


def name_of(network: object) -> str:
    """Return what messages and results call a network."""
    if isinstance(network, ClipFunction):
        return name_of(network.function)
    own = network.name if isinstance(network, Network) else getattr(network, "__name__", "")
    return own or type(network).__name__


def facts_of(network: Network) -> dict[str, Any]:
    """Return what load_network tells of a network; of its weights nothing, which may be trained."""
    return {
        "network": name_of(network),
        "weights": None,
        "sha256": None,
        "degradation": network.trained_for,
    }
