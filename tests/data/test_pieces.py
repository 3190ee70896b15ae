"""Streaming: pieces hold what the whole clip holds, whatever the frames asked for."""

from collections.abc import Iterator
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from stdpipe.data.degrade import degrade
from stdpipe.data.frames import Clip
from stdpipe.data.layouts import find_one_clip
from stdpipe.data.pieces import CHUNK, ahead, pieces
from stdpipe.data.samples import read_frames

LENGTH = 19


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """Longer than four chunks, sides that are no multiples of 4."""
    folder = tmp_path_factory.mktemp("clip") / "walk"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for t in range(LENGTH):
        iio.imwrite(folder / f"{t:03d}.png", rng.integers(0, 256, (14, 18, 3), dtype=np.uint8))
    return find_one_clip(folder)


@settings(deadline=None, max_examples=20)
@given(centres=st.sets(st.integers(0, LENGTH - 1), min_size=1), k=st.integers(0, 9))
def test_pieces_are_those_of_the_whole_clip(clip: Clip, centres: set[int], k: int) -> None:
    whole = read_frames(clip)
    lr = degrade(whole.hr, "bd")
    wanted = sorted(centres)
    found = list(pieces(clip, wanted, k, "bd", lr_8bit=True))
    assert [t for piece in found for t in piece.centres] == wanted
    for piece in found:
        assert len(piece.centres) <= CHUNK
        assert torch.equal(piece.hr, whole.hr[piece.centres][..., :14, :18])
        for narrower in {k, k // 2, 0}:
            around, first = piece.around(narrower)
            assert first == max(piece.centres[0] - narrower, 0)
            last = min(piece.centres[-1] + narrower, LENGTH - 1)
            assert torch.equal(around, lr[first : last + 1])


def test_frames_that_no_window_needs_are_not_read(clip: Clip) -> None:
    spoilt = Clip(clip.key, tuple(p if 8 <= t <= 12 else Path("gone") for t, p in
                                  enumerate(clip.frames)))  # fmt: skip
    (piece,) = pieces(spoilt, [10], 2, "bi", lr_8bit=True)
    assert (piece.centres, piece.first, len(piece.lr)) == ([10], 8, 5)
    with pytest.raises(ValueError, match="clip walk: gone cannot be read"):
        list(pieces(spoilt, [10], 3, "bi", lr_8bit=True))


def test_frames_of_two_sizes_far_apart(clip: Clip, tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "large.png", np.zeros((22, 18, 3), np.uint8))
    odd = Clip("walk", (*clip.frames[:9], tmp_path / "large.png"))
    with pytest.raises(ValueError, match="clip walk: large is 18x22, but the first is 18x14"):
        list(pieces(odd, range(10), 0, "bi", lr_8bit=True))


def test_ahead_yields_the_same_and_passes_errors_on() -> None:
    assert list(ahead(iter(range(5)))) == [0, 1, 2, 3, 4]
    assert list(ahead(iter(()))) == []

    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("torn")

    items = ahead(failing())
    assert next(items) == 1
    with pytest.raises(ValueError, match="torn"):
        next(items)
