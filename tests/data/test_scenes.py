"""Where a recurrent network begins a new state: at a cut, and nowhere else."""

import numpy as np
import pytest
from numpy.typing import NDArray

from stdpipe.data.scenes import split_scenes

Frames = NDArray[np.uint8]
SIDE, WIDTH, FRAMES = 64, 96, 12


def scene(seed: int, low: float = 0, high: float = 255, frames: int = FRAMES) -> Frames:
    """A smooth texture that moves two pixels a frame."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(low, high, (SIDE // 16, (WIDTH + 2 * frames) // 16 + 1, 3))
    canvas = np.kron(coarse, np.ones((16, 16, 1)))
    return np.stack([canvas[:, 2 * t : 2 * t + WIDTH] for t in range(frames)]).astype(np.uint8)


def lengths(*frames: Frames) -> list[int]:
    return [len(list(each)) for each in split_scenes(iter(np.concatenate(frames)))]


def flat(level: int, frames: int = 1) -> Frames:
    return np.full((frames, SIDE, WIDTH, 3), level, np.uint8)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 12), (100, 110)])
@pytest.mark.parametrize("seed", range(5))
def test_a_cut(low: float, high: float, seed: int) -> None:
    """In the dark, too; between scenes of one brightness, and from a bright one into a dark one."""
    one, two = scene(2 * seed, low, high), scene(2 * seed + 1, low, high)
    assert lengths(one, two) == [FRAMES, FRAMES]
    assert lengths(scene(2 * seed), two) == [FRAMES, FRAMES]


@pytest.mark.parametrize("level", [0, 255])
def test_a_flash_is_no_cut(level: int) -> None:
    moving = scene(0)
    assert lengths(moving[:5], flat(level), moving[5:]) == [FRAMES + 1]
    brighter = np.clip(moving[5:6].astype(int) + 100, 0, 255).astype(np.uint8)
    assert lengths(moving[:5], brighter, moving[6:]) == [FRAMES]


def test_a_strobe_is_one_scene() -> None:
    lit = scene(0)
    frames = [x for t in range(FRAMES) for x in (lit[t : t + 1], flat(255 * (t % 2)))]
    assert lengths(*frames) == [2 * FRAMES]


def test_a_fade_is_no_cut_but_what_comes_after_it_is() -> None:
    """It goes to black and comes back, to the same scene or to another."""
    light = np.abs(np.linspace(-1, 1, 2 * FRAMES + 1))[:, None, None, None]
    one, two = ((scene(seed, frames=len(light)) * light).astype(np.uint8) for seed in (0, 1))
    assert lengths(one) == [2 * FRAMES + 1]
    assert len(lengths(one[:FRAMES], two[FRAMES:])) == 2


def test_black_before_the_first_scene() -> None:
    assert lengths(flat(0, 4), scene(0)) == [FRAMES + 4]
    assert lengths(flat(0, 4)) == [4]
    assert lengths(flat(0, 0)) == []


@pytest.mark.parametrize("step", [1, 4])
def test_a_pan_is_no_cut(step: int) -> None:
    """As fast as a quarter of its largest details a frame."""
    canvas = scene(0, frames=FRAMES * step)
    assert lengths(canvas[::step]) == [FRAMES]


def test_what_moves_before_a_dull_background_is_no_cut() -> None:
    """A bright thing that jumps by more than its own width, in fog."""
    frames = np.full((FRAMES, SIDE, WIDTH, 3), 100, np.uint8)
    for t in range(FRAMES):
        frames[t, 24:40, 8 * (t % 8) : 8 * (t % 8) + 8] = 255
    assert lengths(frames) == [FRAMES]
