"""The plain references, loaded from the files beside this one, and weights to compare on."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(scope="session")
def load_reference() -> Callable[[str], ModuleType]:
    """load_reference("edvr") is reference_edvr.py; tests are no package: loaded by its path."""

    def load(name: str) -> ModuleType:
        path = Path(__file__).with_name(f"reference_{name}.py")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def reference(load_reference: Callable[[str], ModuleType]) -> ModuleType:
    """tests/parity/reference_edvr.py."""
    return load_reference("edvr")


class ReadState(dict[str, Tensor]):
    """A state dict that remembers which of its values were asked for."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net.state_dict())
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.read.add(key)
        return super().__getitem__(key)

    def unread(self) -> set[str]:
        """Names that no reference needs, but for a norm's counter."""
        return {k for k in self.keys() - self.read if not k.endswith("num_batches_tracked")}


@pytest.fixture(scope="session")
def read_state() -> type[ReadState]:
    """read_state(net): its state dict, which knows afterwards what was never read (`unread`)."""
    return ReadState


@pytest.fixture(scope="session")
def scramble() -> Callable[[nn.Module, int], nn.Module]:
    """Gives every parameter a random value, none zero; offsets of conv_offset are pixels wide.
    Norms get statistics as if they had seen something."""

    def fill(net: nn.Module, seed: int) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in net.named_parameters():
            fan_in = max(parameter[0].numel(), 1)
            spread = fan_in**-0.5 if name.endswith("weight") else 0.1
            if "conv_offset" in name:
                spread = 3.0 if name.endswith("bias") else fan_in**-0.5
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
        for name, buffer in net.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                value = torch.rand(buffer.shape, generator=generator)
                buffer.copy_(value + 0.5 if name.endswith("var") else value - 0.5)
        return net

    return fill
