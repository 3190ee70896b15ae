"""Settled networks compute the same, in another layout; memory is kept where glibc is."""

import subprocess
import sys

import pytest
import torch

from stdpipe.device import keep_memory, settle
from stdpipe.models import zoo

CPU = torch.device("cpu")
SMALL = (
    "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1,num_reconstruct_block=1"
)


@pytest.mark.parametrize("name", [SMALL, "fastdvdnet-quarter", "duf:num_layer=16,num_feat=4"])
def test_a_settled_network_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    net = zoo.parse(name).build().eval()
    clip = torch.rand(1, 7, 3, 16, 16)
    with torch.no_grad():
        before = net.forward_clip(clip)
        after = settle(net, CPU).forward_clip(clip)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_convolutions_lie_channels_last() -> None:
    net = settle(zoo.parse(SMALL).build(), CPU)
    assert not net.training
    weights = [p for p in net.parameters() if p.ndim == 4]
    assert weights
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


FAULTS = """
import resource, sys, torch
from stdpipe.device import keep_memory
if sys.argv[1] == "keep":
    keep_memory(torch.device("cpu"))
for _ in range(20):
    torch.empty(2**24).fill_(1)  # 64 MB, of which glibc would hand back every page
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.empty(2**24).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's mallopt")
def test_freed_memory_is_used_again() -> None:
    """Counted in page faults; where huge pages hide them from the plain run, nothing is asserted of
    it."""
    faults = {
        how: int(subprocess.check_output([sys.executable, "-c", FAULTS, how], text=True))
        for how in ("keep", "plain")
    }
    assert faults["keep"] < 100
    assert faults["keep"] <= faults["plain"]


@pytest.mark.parametrize(
    ("largest", "set_to"),
    [
        (2**31 - 1, [(-3, 2**31 - 1), (-1, 2**31 - 1)]),
        (2**25, [(-3, 2**25), (-1, 2**31 - 1)]),
        (0, []),
    ],
)
def test_a_glibc_that_refuses_the_threshold(
    monkeypatch: pytest.MonkeyPatch, largest: int, set_to: list[tuple[int, int]]
) -> None:
    """An older one takes 32 MB; where it refuses that, too, nothing is changed."""
    done = []

    class Libc:
        def mallopt(self, name: int, value: int) -> int:
            if name == -3 and value > largest:
                return 0
            done.append((name, value))
            return 1

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("ctypes.CDLL", lambda _: Libc())
    keep_memory(CPU)
    assert done == set_to
