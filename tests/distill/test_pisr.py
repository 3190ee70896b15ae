"""PISR's likelihood, adapters and imitation, by hand."""

import math

import pytest
import torch

from stdpipe.distill.pisr import Adapters, imitation_loss, laplace_loss


def test_likelihood_by_hand() -> None:
    """Two values: log 2b + |t - mu| / b, with b of 1/2 and 2."""
    mean, scale = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 2.0])
    teacher = torch.tensor([2.0, -3.0])
    expected = ((math.log(1) + 1 / 0.5) + (math.log(4) + 3 / 2)) / 2
    assert float(laplace_loss(mean, scale, teacher)) == pytest.approx(expected)


def test_it_is_a_density() -> None:
    """exp of minus the loss integrates to one over the teacher's value."""
    teacher = torch.linspace(-40, 40, 80_001, dtype=torch.float64)
    scale = torch.tensor(1.5, dtype=torch.float64)
    density = torch.stack([(-laplace_loss(torch.tensor(0.3), scale, t)).exp()
                           for t in teacher[::100]])  # fmt: skip
    assert float(density.sum() * 0.1) == pytest.approx(1, abs=1e-3)


def test_a_pixel_that_cannot_be_followed_counts_less() -> None:
    """The best scale is the distance itself, and the pull on mu is its inverse."""
    scale = torch.tensor([0.1, 1.0, 3.0, 9.0])
    distance = torch.tensor(3.0)
    losses = [float(laplace_loss(torch.tensor(0.0), b, distance)) for b in scale]
    assert min(losses) == losses[2]


def test_adapters() -> None:
    """Location and scale for every channel and pixel, 0.1 softplus + 1e-8: far below, still > 0."""
    adapters = Adapters(5, 6)
    mean, scale = adapters(torch.randn(2, 5, 3, 4))
    assert mean.shape == scale.shape == (2, 6, 3, 4)
    assert scale.std() > 0
    last = adapters.scale[2]
    assert isinstance(last, torch.nn.Conv2d)
    torch.nn.init.zeros_(last.weight)
    assert last.bias is not None
    torch.nn.init.zeros_(last.bias)
    _, scale = adapters(torch.randn(2, 5, 3, 4))
    torch.testing.assert_close(scale, torch.full_like(scale, 0.1 * math.log(2)))
    torch.nn.init.constant_(last.bias, -500)
    _, scale = adapters(torch.randn(2, 5, 3, 4))
    assert scale.min() > 0


def test_imitation_by_hand() -> None:
    """Mean absolute distance to the true LR."""
    assert imitation_loss(torch.tensor([1.0, -1.0]), torch.tensor([0.0, 1.0])) == 1.5
