"""What the names of degradations say, and MATLAB's rounding of 8-bit images."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from stdpipe.cache.errors import UserError
from stdpipe.data.box import Box
from stdpipe.data.camera import Camera
from stdpipe.data.degrade import (
    KINDS,
    check_name,
    cut,
    degradation,
    degrade,
    margin,
    parse,
    window_pair,
)

VALUES = {"sigma": "1.5", "uint8": "1", "noise": "4", "crf": "30", "seed": "7", "phase": "0.5"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_every_name_is_written_in_one_way(kind: str, scale: int) -> None:
    """All options in order; in another order, or with what goes without saying, the one way is
    named."""
    options = [key for key in KINDS[kind] if key != "scale"]
    for chosen in product([False, True], repeat=len(options)):
        said = [f"{k}={VALUES[k]}" for k, is_said in zip(options, chosen, strict=True) if is_said]
        said += [f"scale={scale}"] if scale != 4 else []
        name = ":".join(filter(None, (kind, ",".join(said))))
        check_name(name)
        assert parse(name)[1] == {k: float(v) for k, v in (s.split("=") for s in said)}
        if len(said) > 1:
            with pytest.raises(UserError, match=name):
                check_name(f"{kind}:{','.join(reversed(said))}")
        if scale == 4:
            with pytest.raises(UserError, match="write"):
                check_name(":".join((kind, ",".join([*said, "scale=4"]))))


@pytest.mark.parametrize(
    "name",
    [
        *("bi:sigma=1", "bi:scale=5", "bi:scale=x", "bi:", "bd:sigma=0", "bd:sigma=nan"),
        *("camera:crf=52", "camera:crf=1.5", "camera:noise=-1", "camera:sigma=1.6"),
        *("given:phase=2,scale=2", "given:phase=4", "films", "", ":", "bi:uint8=2", "bi:uint8=0"),
    ],
)  # fmt: skip
def test_bad_names(name: str) -> None:
    with pytest.raises(UserError) as told:
        check_name(name)
    assert "\n" not in str(told.value)


def test_what_names_mean() -> None:
    assert degradation("camera:noise=4,crf=28").camera == Camera(4.0, 28, 0)
    assert degradation("camera").camera == Camera()
    assert degradation("camera:scale=3").phase == 1
    assert degradation("given:phase=0").turns == (0, 4)
    assert len(degradation("given:phase=1,scale=3").turns) == 8
    assert [degradation(n).of_clip for n in ("bi", "bd:sigma=1.5")] == [False, False]
    assert [degradation(n).of_clip for n in ("camera", "given:phase=0")] == [True, True]
    check_name("given")
    with pytest.raises(UserError, match="phase"):
        degradation("given")
    with pytest.raises(UserError, match="given"):
        degrade(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "given:phase=0")


def matlab(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """imresize(image, 1/scale) of a uint8 image, written out: rows first, each pass to uint8."""

    def cubic(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    def one_pass(lines: NDArray[np.uint8]) -> NDArray[np.uint8]:
        size = len(lines)
        made = np.empty((size // scale, *lines.shape[1:]), np.uint8)
        for j in range(size // scale):
            u = (j + 1) * scale + 0.5 * (1 - scale)  # counted from 1, as MATLAB does
            left = math.floor(u - 2 * scale)
            index = range(left, left + 4 * scale + 2)
            weights = [cubic((u - i) / scale) for i in index]
            total = sum(weights)
            value = 0.0
            for i, weight in zip(index, weights, strict=True):
                folded = (i - 1) % (2 * size)
                source = folded if folded < size else 2 * size - 1 - folded
                value = value + weight / total * lines[source].astype(float)
            made[j] = np.clip(np.floor(value + 0.5), 0, 255).astype(np.uint8)
        return made

    return one_pass(one_pass(image).swapaxes(0, 1)).swapaxes(0, 1)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([2, 4]), st.integers(2, 7), st.integers(2, 7), st.integers(0, 99))
def test_as_matlab_rounds(scale: int, rows: int, columns: int, seed: int) -> None:
    """Every sample is MATLAB's, at the scales whose weights floats hold exactly."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (rows * scale, columns * scale, 3), np.uint8)
    hr = torch.from_numpy(image).permute(2, 0, 1)[None]
    name = "bi:uint8=1" + (",scale=2" if scale == 2 else "")
    lr = (degrade(hr, name)[0] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(lr, matlab(image, scale))


def test_a_third_rounds_alike() -> None:
    """Weights of thirds are not exact: all but a few samples are equal, and those by one level."""
    image = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    hr = torch.from_numpy(image).permute(2, 0, 1)[None]
    lr = (degrade(hr, "bi:uint8=1,scale=3")[0] * 255).round().permute(1, 2, 0).numpy()
    apart = np.abs(lr - matlab(image, 3))
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.01


def test_rounded_rows_differ_from_doubles() -> None:
    """In about a tenth of the samples, by one level."""
    hr = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator())
    apart = (degrade(hr, "bi:uint8=1") - degrade(hr, "bi")).abs() * 255
    assert apart.max() < 1.5
    assert 0.02 < (apart > 0.5).float().mean() < 0.3


@pytest.mark.parametrize("name", ["bi:uint8=1", "bi:uint8=1,scale=2"])
def test_a_window_is_a_part_of_the_whole(name: str) -> None:
    """To the bit, although rows are rounded first."""
    hr = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator())
    scale, (before, after) = degradation(name).scale, margin(name)
    box = Box(4 * scale, 3 * scale, 6 * scale, 5 * scale)
    more = before + after
    wide = Box(box.y - before, box.x - before, box.height + more, box.width + more)
    window = window_pair(cut(hr, name, wide), name)[1]
    low = Box(*(side // scale for side in box))
    assert torch.equal(window, degrade(hr, name)[low.cut()])
