"""PISR's privileged teacher: an encoder in front of a student's own network."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from stdpipe.models import zoo
from stdpipe.models.base import Network, count_parameters, window_indices
from stdpipe.models.checkpoints import load_network, save_network
from stdpipe.models.pisr import PISR

SMALL = "d3dnet:num_feat=4;num_frame=3;num_deform_block=1;num_block=1"


def build(student: str, phase: float = 1.5) -> PISR:
    net = zoo.parse(f"pisr:student={student},phase={phase}").build()
    assert isinstance(net, PISR)
    return net.eval()


@pytest.fixture
def net() -> PISR:
    torch.manual_seed(0)
    return build(SMALL, phase=0.0)


@torch.no_grad()
def test_it_is_the_student_on_what_the_encoder_makes(net: PISR) -> None:
    """All four stages, LR maps at LR size and the image at the size of what it is shown."""
    clip = torch.rand(2, 5, 3, 32, 48)
    ours, theirs = net.features_clip(clip), net.student.features_clip(net.encode(clip))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
    assert ours.f_lr.shape == (2, 5, 4, 8, 12)
    assert ours.sr.shape == clip.shape


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("student", [SMALL, "fastdvdnet-quarter"])
def test_a_clip_is_its_windows(student: str, batch: int) -> None:
    """Edges repeated, for 9 x 11 LR pixels; and twice the same, bit for bit."""
    torch.manual_seed(0)
    net = build(student)
    clip = torch.rand(batch, 4, 3, 36, 44)
    together = net.forward_clip(clip)
    windows = window_indices(4, net.num_frame, range(4))
    one_by_one = torch.stack([net(clip[:, window]) for window in windows], 1)
    torch.testing.assert_close(together, one_by_one, rtol=1e-5, atol=1e-5)
    assert torch.equal(together, net.forward_clip(clip))


def test_gradients_reach_every_parameter(
    net: PISR, scramble: Callable[[nn.Module], nn.Module]
) -> None:
    """The encoder's and the student's, and what is shown."""
    scramble(net)
    clip = torch.rand(2, 3, 3, 32, 32).requires_grad_()
    net.train().forward_clip(clip).square().mean().backward()
    for name, parameter in (*net.named_parameters(), ("input", clip)):
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@torch.no_grad()
def test_save_and_load(net: PISR, tmp_path: Path) -> None:
    """The file names the network, and its student within."""
    save_network(tmp_path / "w.pt", net, f"pisr:phase=0.0,student={SMALL}", "bd")
    again, _ = load_network(None, str(tmp_path / "w.pt"))
    clip = torch.rand(1, 3, 3, 32, 32)
    assert torch.equal(again.eval()(clip), net(clip))


@torch.no_grad()
def test_sizes_that_are_padded() -> None:
    """A student of `multiple` 4 wants HR in sixteens; what is added is cut again."""
    net = build("fastdvdnet-quarter")
    assert net.multiple == 16
    features = net.features_clip(torch.rand(1, 2, 3, 36, 44))
    assert features.f_lr.shape[-2:] == (9, 11)
    assert features.sr.shape[-2:] == (36, 44)


def test_published_encoder() -> None:
    """5x5 to 56 channels, 5x5 by stride, 3x3 to 12, 3x3 to RGB; three PReLUs of one slope."""
    net = build("fastdvdnet-quarter")
    expected = (3 * 25 * 56 + 56) + (56 * 25 * 56 + 56) + (56 * 9 * 12 + 12) + (12 * 9 * 3 + 3) + 3
    assert count_parameters(net.encoder) == expected
    assert count_parameters(net) == expected + count_parameters(net.student)


def test_by_name() -> None:
    """The student's options come with ";", its phase is the teacher's unless it says another."""
    spec = zoo.parse(f"pisr:student={SMALL}").with_phase(0.0)
    net = spec.build()
    assert isinstance(net, PISR)
    assert net.student.phase == 0.0
    assert (net.sees_hr, net.num_frame, net.f_sr_channels) == (True, 3, 4)
    assert str(zoo.parse(str(spec))) == str(spec)
    assert not Network.sees_hr


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ("fastdvd", "unknown network 'fastdvd'; did you mean 'fastdvdnet'?"),
        ("os:system", "pisr's student=os:system names the network 'os:system'"),
        ("pisr", "pisr's student=pisr would see HR itself; choose another"),
    ],
)
def test_refused(student: str, message: str) -> None:
    """A student's name may come out of a weights file, so nothing is imported for it."""
    with pytest.raises(ValueError, match=re.escape(message)):
        zoo.parse(f"pisr:student={student}").build()
