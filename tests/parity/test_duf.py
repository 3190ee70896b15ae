"""Our VSR-DUF against the plain reference: same weights, same numbers."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from stdpipe.models.duf import DUF

Scramble = Callable[[nn.Module, int], nn.Module]


@pytest.fixture(scope="module")
def reference(load_reference: Callable[[str], ModuleType]) -> ModuleType:
    return load_reference("duf")


@pytest.mark.parametrize(("num_layer", "official", "eps"), [(16, False, 1e-5), (28, True, 1e-3)])
def test_a_window(
    reference: ModuleType,
    scramble: Scramble,
    read_state: Any,
    num_layer: int,
    official: bool,
    eps: float,
) -> None:
    """The image, to 1e-4 of its size; every published name is used, and no other exists.

    Not shown: 52 layers, which differ from 28 by their number of blocks alone; and a published
    checkpoint, none of which can be shipped here.
    """
    net = DUF(num_layer, num_feat=8, adapt_official_weights=official)
    scramble(net, 0)
    window = torch.rand(2, 7, 3, 6, 9, generator=torch.Generator().manual_seed(0))
    state = read_state(net)
    with torch.no_grad():
        ours, theirs = net.eval()(window), reference.duf(state, window, eps)
    size = float(theirs.std())
    torch.testing.assert_close(ours / size, theirs / size, rtol=1e-4, atol=1e-4)
    assert state.unread() == set()
