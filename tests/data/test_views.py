"""Orientations, windows and the randomness that draws them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from stdpipe.data.box import Box
from stdpipe.data.views import (
    NUM_ORIENTATIONS,
    View,
    baked_views,
    draw_box,
    full_views,
    generator,
    orient,
    oriented_size,
    unorient,
    upright_box,
)

ORIENTATIONS = st.integers(0, NUM_ORIENTATIONS - 1)
SIDES = st.integers(1, 9)


def numbered(height: int, width: int) -> torch.Tensor:
    """Every pixel its own value."""
    return torch.arange(height * width).reshape(1, height, width)


@settings(max_examples=60, deadline=None)
@given(ORIENTATIONS, SIDES, SIDES)
def test_unorient_undoes_orient(orientation: int, height: int, width: int) -> None:
    """For every orientation and size; and oriented_size tells the size in between."""
    x = numbered(height, width)
    turned = orient(x, orientation)
    assert turned.shape[-2:] == oriented_size(height, width, orientation)
    assert torch.equal(unorient(turned, orientation), x)
    assert torch.equal(orient(unorient(x, orientation), orientation), x)


def test_eight_orientations() -> None:
    """They are eight, all different, and closed: the flips and quarter turns of a square."""
    x = numbered(3, 3)
    looks = {tuple(orient(x, o).flatten().tolist()) for o in range(NUM_ORIENTATIONS)}
    assert len(looks) == 8
    turned = {
        tuple(torch.rot90(y, n, (-2, -1)).flatten().tolist()) for n in range(4) for y in (x, x.mT)
    }
    assert looks == turned


def test_what_the_bits_mean() -> None:
    """Left-right, then up-down, then transpose: caches on disk rest on this order."""
    x = torch.tensor([[1, 2], [3, 4]])
    assert orient(x, 1).tolist() == [[2, 1], [4, 3]]
    assert orient(x, 2).tolist() == [[3, 4], [1, 2]]
    assert orient(x, 4).tolist() == [[1, 3], [2, 4]]
    assert orient(x, 5).tolist() == [[2, 4], [1, 3]]  # a quarter turn: flip first


@settings(max_examples=100, deadline=None)
@given(ORIENTATIONS, st.integers(2, 9), st.integers(2, 9), st.data())
def test_upright_box(orientation: int, height: int, width: int, data: st.DataObject) -> None:
    """Cropping the oriented image is orienting the crop of the upright image."""
    x = numbered(height, width)
    tall, broad = oriented_size(height, width, orientation)
    y = data.draw(st.integers(0, tall - 1))
    left = data.draw(st.integers(0, broad - 1))
    box = Box(y, left, data.draw(st.integers(1, tall - y)), data.draw(st.integers(1, broad - left)))
    crop = orient(x, orientation)[..., y : y + box.height, left : left + box.width]
    at = upright_box(box, orientation, height, width)
    assert min(at) >= 0
    upright = x[..., at.y : at.y + at.height, at.x : at.x + at.width]
    assert torch.equal(orient(upright, orientation), crop)


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1),
    ORIENTATIONS,
    st.none() | st.tuples(*[st.integers(0, 9999)] * 3),
)
def test_text_round_trip(clip: str, orientation: int, crop: tuple[int, int, int] | None) -> None:
    """Clip keys may hold slashes, "@" and "+" themselves."""
    box = Box(crop[0], crop[1], crop[2], crop[2]) if crop else None
    view = View(clip, orientation, box)
    assert View.parse(str(view)) == view


def test_text() -> None:
    """As manifests on disk have it."""
    assert str(View("00001/0001", 3)) == "00001/0001@3"
    assert str(View("00001/0001", 3, Box(16, 32, 64, 64))) == "00001/0001@3+16,32,64"


def test_generator_depends_on_its_counter_alone() -> None:
    """Same counter, same numbers, on every machine: the first are written down here."""
    drawn = generator(7, "crop", 0, "a").integers(0, 1000, 3).tolist()
    np.random.seed(1)  # global state must not matter
    assert generator(7, "crop", 0, "a").integers(0, 1000, 3).tolist() == drawn
    for other in ((8, "crop", 0, "a"), (7, "order", 0, "a"), (7, "crop", 1, "a"), (7, "crop", 0)):
        assert generator(*other).integers(0, 1000, 3).tolist() != drawn
    assert generator(1, 23).random() != generator(12, 3).random()
    assert drawn == [245, 491, 984]  # a cache's views and a resumed run rest on these for ever


@pytest.mark.parametrize("orientations", [1, 3, 8])
def test_full_views(orientations: int) -> None:
    """Distinct orientations a clip, the same whatever clips lie beside it and in which order."""
    clips = [f"{n:05d}" for n in range(20)]
    views = full_views(clips, seed=5, orientations=orientations)
    assert len(set(views)) == 20 * orientations
    assert [v.clip for v in views[::orientations]] == clips
    assert all(v.crop is None for v in views)
    assert set(full_views(clips[::-1], 5, orientations)) == set(views)
    assert set(full_views(clips[:3], 5, orientations)) <= set(views)
    fewer = set(full_views(clips, 5, 1))
    assert fewer <= set(views)  # a wider cache holds the narrower one's views


def test_orientations_are_drawn_evenly() -> None:
    """All eight over many clips, none favoured; and another seed draws otherwise."""
    clips = [f"{n:05d}" for n in range(800)]
    views = full_views(clips, seed=0, orientations=1)
    counts = np.bincount([v.orientation for v in views], minlength=8)
    assert counts.min() > 60  # 100 expected, four standard deviations below
    same = sum(a == b for a, b in zip(views, full_views(clips, 1, 1), strict=True))
    assert 60 < same < 140


@pytest.mark.parametrize("orientations", [0, 9])
def test_impossible_numbers_of_orientations(orientations: int) -> None:
    """Fewer than one, more than there are."""
    with pytest.raises(ValueError, match=f"1 to 8, got {orientations}"):
        full_views(["a"], 0, orientations)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6), st.integers(0, 6), st.integers(0, 6), st.integers(0, 999),
    st.sampled_from([2, 3, 4]),
)  # fmt: skip
def test_draw_box(patch: int, more_height: int, more_width: int, seed: int, scale: int) -> None:
    """On the LR grid, inside the frame."""
    side = scale * patch
    height, width = side + scale * more_height, side + scale * more_width
    box = draw_box(generator(seed), side, height, width, scale)
    assert box.height == box.width == side
    assert box.y % scale == box.x % scale == 0
    assert 0 <= box.y <= height - side
    assert 0 <= box.x <= width - side


def test_draw_box_reaches_every_place() -> None:
    """The last row and column included: an off-by-one would starve borders for ever."""
    drawn = {draw_box(generator(n), 16, 24, 20)[:2] for n in range(200)}
    assert drawn == {(y, x) for y in (0, 4, 8) for x in (0, 4)}
    drawn = {draw_box(generator(n), 12, 18, 15, 3)[:2] for n in range(200)}
    assert drawn == {(y, x) for y in (0, 3, 6) for x in (0, 3)}


def test_a_patch_too_large() -> None:
    """Named with the frame's size."""
    with pytest.raises(ValueError, match="patch 32 does not fit into frames of 24 x 40"):
        draw_box(generator(0), 32, 24, 40)


@pytest.mark.parametrize("count", [1, 7, 40])
def test_baked_views_are_distinct(count: int) -> None:
    """Also where all there are, 40 in frames of 32 x 48, are asked for; fewer are the first of
    them."""
    views = baked_views(["a", "b"], 0, count, 32, 32, 48)
    for clip, some in (("a", views[:count]), ("b", views[count:])):
        assert [view.clip for view in some] == [clip] * count
        assert len(set(some)) == count
        assert some == baked_views([clip], 0, 40, 32, 32, 48)[:count]


@pytest.mark.parametrize("count", [0, 41])
def test_more_baked_views_than_there_are(count: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 40 distinct baked views of patch 32, but {count}"):
        baked_views(["a"], 0, count, 32, 32, 48)
