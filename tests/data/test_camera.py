"""What a camera adds to sampled frames: noise and H.264, over a whole clip."""

import hashlib
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from stdpipe.data.camera import Camera, _pixels, _planes, encoder, record


def frames(height: int = 48, width: int = 64, seed: int = 0) -> Tensor:
    """Smooth frames that move, in levels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 8, generator=generator) * 255
    still = torch.nn.functional.interpolate(coarse, (height + 8, width + 8), mode="bicubic")
    return torch.cat([still[..., t : t + height, t : t + width] for t in range(5)]).clamp(0, 255)


def test_the_same_in_every_run() -> None:
    """By clip and seed: in this process, and in another one."""
    clip = frames()
    made = record(clip, Camera(5, 35), "a/b")
    assert made.dtype == torch.uint8
    assert made.shape == clip.shape
    assert all(torch.equal(made, record(clip, Camera(5, 35), "a/b")) for _ in range(8))
    assert not torch.equal(made, record(clip, Camera(5, 35), "a/c"))
    assert not torch.equal(made, record(clip, Camera(5, 35, seed=1), "a/b"))
    code = (
        "import hashlib, torch\nfrom tests.data.test_camera import frames\n"
        "from stdpipe.data.camera import Camera, record\n"
        "made = record(frames(), Camera(5, 35), 'a/b')\n"
        "print(hashlib.sha256(made.numpy().tobytes()).hexdigest())\n"
    )
    here = hashlib.sha256(made.numpy().tobytes()).hexdigest()
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_noise_and_quality() -> None:
    """Noise has the standard deviation that is asked for; a larger CRF loses more."""
    clip = frames()

    def apart(how: Camera) -> float:
        return float((record(clip, how, "k").float() - clip).square().mean().sqrt())

    clean, noisy = apart(Camera(0, 0)), apart(Camera(6, 0))
    assert clean < 3  # 4:2:0 blurs the colours
    assert noisy == pytest.approx(6, rel=0.45)  # 4:2:0 halves that of the chroma
    losses = [apart(Camera(0, crf)) for crf in (0, 20, 30, 40, 51)]
    assert losses == sorted(losses)
    assert losses[-1] > 3 * losses[0]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
def test_colours(height: int, width: int, seed: int) -> None:
    """Flat colours come back within a level and a half of 4:2:0's limited range."""
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.randint(0, 256, (3, 1, 1), generator=generator).float()
    flat = rgb.expand(3, 2 * height, 2 * width)
    assert (_pixels(_planes(flat)).float() - flat).abs().max() <= 2


@pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 61), (5, 200)])
def test_any_size(height: int, width: int) -> None:
    """Odd and tiny frames come out at their size."""
    flat = torch.full((3, 3, height, width), 100.0)
    made = record(flat, Camera(0, 10), "k")
    assert made.shape == flat.shape
    assert (made.float() - flat).abs().max() <= 3


def test_encoder() -> None:
    assert "264" in encoder()
