"""Networks that run away where nothing moves, and those that do not."""

import torch

from stdpipe.deploy.drift import MOST, drift, warn_of_drift
from stdpipe.models.bicubic import Bicubic
from stdpipe.models.rrn import MobileRRN


def recurrent(gain: float) -> MobileRRN:
    """Its state is multiplied by `gain` in each step, beside a constant."""
    torch.manual_seed(0)
    net = MobileRRN(num_feat=4, num_block=1).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(0.1)
        net.conv_first.weight[:, 6:] = 0
        net.conv_first.weight[range(4), range(6, 10), 1, 1] = gain
        net.conv_hidden.weight.zero_()
        net.conv_hidden.weight[range(4), range(4), 1, 1] = 1
        net.conv_hidden.bias.fill_(0.001)
        net.last.conv_last.weight.fill_(0.05)
    return net


def test_a_state_that_grows_is_told(caplog) -> None:
    assert drift(recurrent(0.5)) < MOST < drift(recurrent(1.02))
    assert warn_of_drift(recurrent(0.5)) < MOST
    assert not caplog.messages
    warn_of_drift(recurrent(1.02))
    assert "still scene" in caplog.text
    assert "warm_start" in caplog.text


def test_others_carry_nothing() -> None:
    assert warn_of_drift(Bicubic()) is None
