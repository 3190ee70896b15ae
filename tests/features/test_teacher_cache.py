"""open_cache: windows of a cache's maps for datasets that crop and flip themselves."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import stdpipe as api
from stdpipe.data.views import orient, oriented_size

Command = Callable[..., Any]
TARGETS = ["sr", "f_sr", "attention"]


class OwnCrops(Dataset[dict[str, Tensor]]):
    """What a user writes: a crop, then flips, and the teacher's maps of the same window."""

    def __init__(self, cache: api.TeacherCache) -> None:
        self.cache = cache

    def __len__(self) -> int:
        return len(self.cache.keys)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        key = self.cache.keys[index]
        turn = self.cache.orientations(key)[0]
        return self.cache.read_maps(key, TARGETS, (4, 8, 16, 16), turn, crop_first=True)


@st.composite
def boxes(draw: st.DrawFn, height: int, width: int) -> tuple[int, int, int, int]:
    y, x = draw(st.integers(0, height // 4 - 1)), draw(st.integers(0, width // 4 - 1))
    h, w = draw(st.integers(1, height // 4 - y)), draw(st.integers(1, width // 4 - x))
    return 4 * y, 4 * x, 4 * h, 4 * w


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_window_is_a_crop_of_the_whole(tiny_cache: Path, data: st.DataObject) -> None:
    """In the oriented frame, or cut first and then flipped and turned."""
    cache = api.open_cache(tiny_cache)
    key = data.draw(st.sampled_from(cache.keys))
    turn = data.draw(st.sampled_from(cache.orientations(key)))
    crop_first = data.draw(st.booleans())
    height, width = (32, 48) if crop_first else oriented_size(32, 48, turn)
    y, x, h, w = box = data.draw(boxes(height, width))
    for target in TARGETS:
        whole = cache.read(key, target, orientation=turn)
        assert whole.dtype == torch.float32
        if crop_first:
            upright = orient(whole, (0, 1, 2, 3, 4, 6, 5, 7)[turn])
            expected = orient(upright[..., y : y + h, x : x + w], turn)
        else:
            expected = whole[..., y : y + h, x : x + w]
        found = cache.read(key, target, box, turn, crop_first=crop_first)
        assert torch.equal(found, expected)


def test_it_reads_what_cached_clips_reads(tiny: Path, tiny_cache: Path) -> None:
    clips = api.CachedClips(tiny, tiny_cache, TARGETS, patch=32)
    cache = api.open_cache(tiny_cache)
    assert cache.id == clips.cache_id
    assert cache.targets == tuple(TARGETS)
    assert cache.manifest["cache_id"] == cache.id
    view, _ = clips.stream.view(0)
    item = clips[0]
    whole = cache.read_maps(item["key"], TARGETS, orientation=view.orientation)
    assert torch.equal(whole["sr"], cache.read(str(view), "sr"))
    spots = [whole["sr"][..., y : y + 32, x : x + 32]
             for y in range(0, whole["sr"].shape[-2] - 31, 4)
             for x in range(0, whole["sr"].shape[-1] - 31, 4)]  # fmt: skip
    assert any(torch.equal(spot, item["sr"]) for spot in spots)


@pytest.mark.parametrize("encoding", ["int8", "trunk-int8", "float16"])
def test_every_encoding(
    tmp_path: Path, tiny: Path, stdpipe: Command, extract: Command, encoding: str
) -> None:
    """A window decodes to the whole map's crop, within the rounding of a tail on another size."""
    stdpipe(*extract(tiny, tmp_path / "c", "--encoding", encoding))
    cache = api.open_cache(tmp_path / "c")
    for key in cache.keys:
        whole = cache.read(key, "f_sr")
        window = cache.read(key, "f_sr", (8, 4, 16, 20))
        torch.testing.assert_close(window, whole[..., 8:24, 4:24], atol=1e-5, rtol=1e-5)


def test_baked_views_are_read_by_their_names(
    tmp_path: Path, tiny: Path, stdpipe: Command, extract: Command
) -> None:
    stdpipe(*extract(tiny, tmp_path / "c", "--views", "baked", "--patch", 16, "--baked", 2))
    cache = api.open_cache(tmp_path / "c")
    name = cache.manifest["entries"][1]
    assert cache.read(name, "f_sr").shape[-2:] == (16, 16)
    with pytest.raises(api.UserError, match="crop_first"):
        cache.read(name, "f_sr", (0, 0, 4, 4), crop_first=True)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_in_processes_of_a_loader(tiny_cache: Path, method: str) -> None:
    """Before and after it has read itself; pickled, too."""
    own = OwnCrops(api.open_cache(tiny_cache))
    here = list(DataLoader(own, 1))
    loader = DataLoader(own, 1, num_workers=2, multiprocessing_context=method)
    for mine, theirs in zip(here, loader, strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in TARGETS)
    again = pickle.loads(pickle.dumps(own.cache))
    key = again.keys[0]
    turn = again.orientations(key)[0]
    assert torch.equal(again.read(key, "sr", None, turn), own.cache.read(key, "sr", None, turn))


def test_bad_use(tiny_cache: Path, tmp_path: Path) -> None:
    """An error names what the cache holds."""
    cache = api.open_cache(tiny_cache)
    key = cache.keys[0]
    held = cache.orientations(key)
    lacks = next(turn for turn in range(8) if turn not in held)
    for names, arguments in (
        (("00009/0009", key), ("00009/0009", "sr")),
        (("f_lr", "attention"), (key, "f_lr")),
        ((str(lacks), f"{key}@{held[0]}"), (key, "sr", None, lacks)),
        ((f"{key}@{held[0]}", f"{key}@{held[1]}"), (key, "sr")),
        (("(2, 0, 16, 16)", "4"), (key, "sr", (2, 0, 16, 16), held[0])),
        (("(0, 0, 64, 16)", "32", "48"), (key, "sr", (0, 0, 64, 16), held[0])),
        (("(-4, 0, 16, 16)",), (key, "sr", (-4, 0, 16, 16), held[0])),
        (("(0.5, 0, 16, 16)",), (key, "sr", (0.5, 0, 16, 16), held[0])),
        (("(0, 0, 16)",), (key, "sr", (0, 0, 16), held[0])),
        (("(0, 0, 0, 16)",), (key, "sr", (0, 0, 0, 16), held[0])),
        ((str(held[0]),), (f"{key}@{held[0]}", "sr", None, lacks)),
    ):
        with pytest.raises(api.UserError) as told:
            cache.read(*arguments)
        for name in names:
            assert name in str(told.value), told.value
    with pytest.raises(api.UserError, match="nothing"):
        api.open_cache(tmp_path / "nothing")
