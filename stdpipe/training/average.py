"""The exponential average of a student's weights over steps, often better than the last ones."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The average of a network's weights and buffers; with decay 0 it is the network itself.

    The decay begins small, (1 + n) / (10 + n) at step n, so that the first weights are forgotten.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net, self.decay, self.count = net, decay, 0
        self.values = {k: v.detach().clone() for k, v in net.state_dict().items()} if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        """Take the network's weights after a step into the average."""
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        self.count += 1
        for name, value in self.net.state_dict().items() if self.decay else ():
            if value.is_floating_point():
                self.values[name].lerp_(value, 1 - decay)
            else:
                self.values[name].copy_(value)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Have the network hold the average within the context."""
        if not self.values:
            yield
            return
        own = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        self.net.load_state_dict(self.values)
        yield
        self.net.load_state_dict(own)

    def state_dict(self) -> dict[str, Tensor | int]:
        return {**self.values, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        self.count = int(state["count"])
        for name, value in self.values.items():
            value.copy_(state[name])
