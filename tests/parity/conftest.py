"""The plain reference of EDVR, loaded from the file beside this one, and weights to compare on."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """tests/parity/reference_edvr.py; tests are no package, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location(
        "reference_edvr", Path(__file__).with_name("reference_edvr.py")
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def scramble() -> Callable[[nn.Module, int], nn.Module]:
    """Gives every parameter a random value, none zero; offsets of conv_offset are pixels wide."""

    def fill(net: nn.Module, seed: int) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in net.named_parameters():
            fan_in = max(parameter[0].numel(), 1)
            spread = fan_in**-0.5 if name.endswith("weight") else 0.1
            if "conv_offset" in name:
                spread = 3.0 if name.endswith("bias") else fan_in**-0.5
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
        return net

    return fill
