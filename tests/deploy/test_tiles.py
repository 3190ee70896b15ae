"""Tiles cover every frame once, see what they must, and lie on the network's grid."""

import torch
from hypothesis import given, settings, strategies as st

from stdpipe.data.box import Box
from stdpipe.deploy.tiles import Tile, tiles

SIZES = st.integers(1, 70)


@settings(deadline=None)
@given(SIZES, SIZES, st.integers(1, 40), st.integers(0, 30), st.sampled_from([1, 2, 4, 16]))
def test_every_pixel_once_and_its_surroundings(
    height: int, width: int, side: int, overlap: int, multiple: int
) -> None:
    covered = torch.zeros(height, width, dtype=torch.int64)
    for tile in tiles(height, width, side, overlap, multiple):
        covered[tile.core.cut()] += 1
        core, seen = tile
        assert max(core.height, core.width) < side + multiple
        assert seen.y == 0 or core.y - seen.y >= overlap
        assert seen.x == 0 or core.x - seen.x >= overlap
        assert seen.bottom == height or seen.bottom - core.bottom >= overlap
        assert seen.right == width or seen.right - core.right >= overlap
        assert not any(corner % multiple for corner in (seen.y, seen.x, core.y, core.x))
        assert all(end % multiple == 0 or end == height for end in (seen.bottom, core.bottom))
        assert all(end % multiple == 0 or end == width for end in (seen.right, core.right))
    assert (covered == 1).all()


def test_tiles_are_nearly_equal() -> None:
    """No sliver at the end, which would see far more than it answers for."""
    cores = [tile.core for tile in tiles(8, 101, 50, 4, 2)]
    assert [core.width for core in cores] == [34, 34, 33]


def test_a_small_frame_is_one_tile() -> None:
    whole = Box(0, 0, 5, 7)
    assert tiles(5, 7, 64, 8, 4) == [Tile(whole, whole)]


def test_boxes_cut_images_and_each_other() -> None:
    image = torch.arange(8 * 12).reshape(8, 12)
    outer, inner = Box(1, 1, 3, 4), Box(2, 2, 1, 2)
    assert torch.equal(image[inner.cut()], image[outer.cut()][inner.inside(outer).cut()])
    assert image[Box(0, 1, 1, 2).cut(4)].shape == (4, 8)
    assert Box(8, 4, 4, 8).of(image, 4).shape == (1, 2)
