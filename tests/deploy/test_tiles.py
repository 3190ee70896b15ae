"""Tiles cover every frame once, see what they must, and lie on the network's grid."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from stdpipe.deploy.tiles import Box, Tile, tiles

SIZES = st.integers(1, 70)


@given(SIZES, SIZES, st.integers(1, 40), st.integers(0, 30), st.sampled_from([1, 2, 4, 16]))
def test_every_pixel_once_and_its_surroundings(
    height: int, width: int, side: int, overlap: int, multiple: int
) -> None:
    covered = torch.zeros(height, width, dtype=torch.int64)
    for tile in tiles(height, width, side, overlap, multiple):
        covered[tile.core.cut()] += 1
        core, seen = tile
        assert max(core.y1 - core.y0, core.x1 - core.x0) < side + multiple
        assert seen.y0 == 0 or core.y0 - seen.y0 >= overlap
        assert seen.x0 == 0 or core.x0 - seen.x0 >= overlap
        assert seen.y1 == height or seen.y1 - core.y1 >= overlap
        assert seen.x1 == width or seen.x1 - core.x1 >= overlap
        assert not any(corner % multiple for corner in (seen.y0, seen.x0, core.y0, core.x0))
        assert all(end % multiple == 0 or end == height for end in (seen.y1, core.y1))
        assert all(end % multiple == 0 or end == width for end in (seen.x1, core.x1))
    assert (covered == 1).all()


def test_tiles_are_nearly_equal() -> None:
    """No sliver at the end, which would see far more than it answers for."""
    cores = [tile.core for tile in tiles(8, 101, 50, 4, 2)]
    assert [core.x1 - core.x0 for core in cores] == [34, 34, 33]


def test_a_small_frame_is_one_tile() -> None:
    whole = Box(0, 5, 0, 7)
    assert tiles(5, 7, 64, 8, 4) == [Tile(whole, whole)]


def test_boxes_cut_images_and_each_other() -> None:
    image = torch.arange(8 * 12).reshape(8, 12)
    outer, inner = Box(1, 4, 1, 5), Box(2, 3, 2, 4)
    assert torch.equal(image[inner.cut()], image[outer.cut()][inner.inside(outer).cut()])
    assert image[Box(0, 1, 1, 3).cut(4)].shape == (4, 8)
