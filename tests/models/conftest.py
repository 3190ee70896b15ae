"""Weights to test networks with, and other people's names for EDVR's parameters."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def edvr_keys() -> Callable[[str], dict[str, Any]]:
    """edvr_keys("M5" or "L7"): BasicSR's name -> [mmagic's name, shape], from published files."""

    def read(size: str) -> dict[str, Any]:
        path = Path(__file__).parent / "assets" / f"edvr_keys_{size}.json"
        content: dict[str, Any] = json.loads(path.read_text())
        return content

    return read


@pytest.fixture(scope="session")
def scramble() -> Callable[[nn.Module], nn.Module]:
    """Gives every parameter a random value: EDVR's conv_offset starts at zero, and would hide."""

    def fill(net: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in net.parameters():
                spread = max(parameter[0].numel(), 100) ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
        return net

    return fill
