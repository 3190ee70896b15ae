"""Wide and contracting convolutions: each becomes one plain convolution."""

import pytest
import torch

from stdpipe.models import zoo
from stdpipe.models.base import count_parameters
from stdpipe.models.fold import WideConv, folded
from stdpipe.models.macs import count_macs

SPECIAL = ("rrn-8:wide=2", "rlsp:num_feat=6,contract=true", "swrn:num_feat=6,contract=true")


def test_a_wide_convolution_is_its_two_ways_beside_each_other() -> None:
    """At borders, too."""
    torch.manual_seed(0)
    conv, x = WideConv(3, 5, 4), torch.randn(2, 3, 6, 7)
    torch.testing.assert_close(conv(x), conv.conv(x) + conv.squeeze(conv.expand(x)))


@pytest.mark.parametrize("name", SPECIAL)
def test_folded_it_is_the_plain_network(name: str) -> None:
    """The same images of all frames, and the parameters, names and cost of the network without."""
    torch.manual_seed(0)
    net = zoo.parse(name).build()
    clip = torch.rand(1, 5, 3, 6, 9)
    net.train().features_clip(clip)  # moves the vectors of power iteration
    plain = folded(net.eval())
    with torch.no_grad():
        torch.testing.assert_close(plain.features_clip(clip).sr, net.features_clip(clip).sr)
    known = zoo.parse(
        name.partition(":")[0] + (":num_feat=6" if "num_feat" in name else "")
    ).build()
    assert plain.state_dict().keys() == known.state_dict().keys()
    assert count_parameters(plain) == count_parameters(known) < count_parameters(net) + 1
    assert count_macs(plain).total == count_macs(known).total <= count_macs(net).total


def test_a_network_without_any_is_left_as_it_is() -> None:
    net = zoo.parse("rrn-8").build()
    assert folded(net) is net


def test_a_contracting_recurrence_forgets() -> None:
    """However large its weights: a still scene comes to rest, where it ran away without."""
    moved = []
    for contract in ("false", "true"):
        torch.manual_seed(0)
        net = zoo.parse(f"rlsp:num_feat=6,contract={contract}").build()
        with torch.no_grad():
            for name, x in net.named_parameters():
                if "last" not in name:
                    x.mul_(4)
        net.train()
        clip = torch.rand(1, 1, 3, 8, 8).expand(-1, 60, -1, -1, -1)
        with torch.no_grad():
            for _ in range(3):
                net.features_clip(clip)
            sr = net.eval().features_clip(clip).sr
        moved.append(float((sr[:, -1] - sr[:, -2]).abs().max()))
    assert not moved[0] < 1  # nan is not
    assert moved[1] < 1e-3
