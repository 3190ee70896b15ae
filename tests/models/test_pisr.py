"""PISR's privileged teacher: an encoder in front of a student's own network."""

import re

import pytest
import torch

from stdpipe.models import zoo
from stdpipe.models.base import Network, count_parameters
from stdpipe.models.pisr import PISR

SMALL = "d3dnet:num_feat=4;num_frame=3;num_deform_block=1;num_block=1"


@pytest.fixture
def net() -> PISR:
    torch.manual_seed(0)
    return PISR(SMALL, phase=0.0).eval()


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
def test_a_window_is_a_clips(net: PISR) -> None:
    clip = torch.rand(1, 3, 3, 32, 48)
    torch.testing.assert_close(net(clip), net.forward_clip(clip, [1])[:, 0])


@torch.no_grad()
def test_sizes_that_are_padded() -> None:
    """A student of `multiple` 4 wants HR in sixteens; what is added is cut again."""
    net = PISR("fastdvdnet-quarter").eval()
    assert net.multiple == 16
    features = net.features_clip(torch.rand(1, 2, 3, 36, 44))
    assert features.f_lr.shape[-2:] == (9, 11)
    assert features.sr.shape[-2:] == (36, 44)


def test_published_encoder() -> None:
    """5x5 to 56 channels, 5x5 by stride, 3x3 to 12, 3x3 to RGB; three PReLUs of one slope."""
    net = PISR("fastdvdnet-quarter")
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
        ("fastdvd", "pisr's student=fastdvd names the network 'fastdvd'"),
        ("os:system", "name it on the command line to import it"),
        ("pisr", "pisr's student=pisr would see HR itself; choose another"),
    ],
)
def test_refused(student: str, message: str) -> None:
    """A student's name may come out of a weights file, so nothing is imported for it."""
    with pytest.raises(ValueError, match=re.escape(message)):
        PISR(student)
