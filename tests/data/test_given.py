"""LR frames that are given: where they are found, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stdpipe.cache.errors import UserError
from stdpipe.data.frames import read_clip
from stdpipe.data.given import lr_folder
from stdpipe.data.layouts import find_clips
from stdpipe.data.named import with_lr

Save = Callable[..., Path]


@pytest.fixture
def clips(save_frames: Save) -> Callable[..., None]:
    """clips(folder, side, *keys, count=3): frame folders whose pixels tell frame and key."""

    def make(folder: Path, side: int, *keys: str, count: int = 3) -> None:
        for number, key in enumerate(keys):
            shades = np.arange(count, dtype=np.uint8)[:, None, None, None] + 10 * number
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            save_frames(folder / key, np.broadcast_to(shades, (count, side, side, 3)))

    return make


@pytest.mark.parametrize(
    ("hr", "lr", "data"),
    [
        ("GT", "BIx4", "."),
        ("GT", "BDx4", "."),
        ("GT", "LRx2", "GT"),
        ("train_sharp", "train_sharp_bicubic/X4", "train_sharp"),
        ("train_sharp", "train_sharp_bicubic/X4", "."),
    ],
)
def test_lr_beside_hr(tmp_path: Path, clips: Save, hr: str, lr: str, data: str) -> None:
    """As BasicSR, mmagic and REDS lay it out; the same frames stand beside each other."""
    clips(tmp_path / hr, 16, "000", "011")
    clips(tmp_path / lr, 4, "000", "011")
    assert lr_folder(tmp_path / data) == tmp_path / lr
    found = find_clips(tmp_path / data, None, length=2, given=True)
    assert [clip.key for clip in found] == ["000/000000", "011/000000"]
    for clip in found:
        assert clip.has_hr
        assert clip.lr
        small, large = read_clip(clip.lr), read_clip(clip)
        assert small.shape == (2, 4, 4, 3)
        assert large.shape == (2, 16, 16, 3)
        assert (small[:, 0, 0] == large[:, 0, 0]).all()
    assert all(clip.lr is None for clip in find_clips(tmp_path / data, None))


def test_groups_of_clips(tmp_path: Path, clips: Save) -> None:
    """mmagic's Vimeo90K: keys have two parts, in both folders."""
    clips(tmp_path / "GT", 16, "00001/0266", "00002/0001")
    clips(tmp_path / "BIx4", 4, "00001/0266", "00002/0001")
    found = find_clips(tmp_path, None, given=True)
    assert [clip.key for clip in found] == ["00001/0266", "00002/0001"]
    assert all(clip.lr and read_clip(clip.lr).shape == (3, 4, 4, 3) for clip in found)


def test_lr_of_any_place(tmp_path: Path, clips: Save, stdpipe: Save) -> None:
    """A folder that the data's name says, and the same folder packed."""
    clips(tmp_path / "hr", 16, "a", "b")
    clips(tmp_path / "low frames, x4", 4, "a", "b")
    assert lr_folder(tmp_path / "hr") is None
    with pytest.raises(UserError, match="--lr"):
        find_clips(tmp_path / "hr", None, given=True)
    stdpipe("pack-clips", "--data", tmp_path / "low frames, x4", "--out", tmp_path / "lr.h5")
    for place in (tmp_path / "low frames, x4", tmp_path / "lr.h5"):
        found = find_clips(with_lr(tmp_path / "hr", place), None, given=True)
        assert [clip.lr and read_clip(clip.lr)[-1, 0, 0, 0] for clip in found] == [2, 12]


def test_lr_alone(tmp_path: Path, clips: Save) -> None:
    """Clips of LR without HR are there for training, and never for testing."""
    clips(tmp_path / "hr", 16, "a", "b")
    clips(tmp_path / "lr", 4, "a", "b", "c", "d")
    data = with_lr(tmp_path / "hr", tmp_path / "lr")
    found = find_clips(data, "train", given=True)
    assert [(clip.key, clip.has_hr) for clip in found] == [
        ("a", True), ("b", True), ("c", False), ("d", False),
    ]  # fmt: skip
    assert found[2].lr
    assert read_clip(found[2].lr).shape == (3, 4, 4, 3)
    assert [clip.key for clip in find_clips(data, "test", given=True)] == ["a", "b"]
    held = find_clips(Path(f"{data},test=0.5"), "train", given=True)
    assert len(held) == 3
    only = Path(f"{tmp_path / 'lr'}:lr=.,exclude=b")
    assert [c.key for c in find_clips(only, "train", given=True) if not c.has_hr] == ["a", "c", "d"]
    with pytest.raises(UserError, match="LR alone"):
        find_clips(only, "test", given=True)


def test_lr_that_does_not_fit(tmp_path: Path, clips: Save, save_frames: Save) -> None:
    """Another number of frames, other names, a clip without LR, several folders, none."""
    clips(tmp_path / "GT", 16, "a", "b")
    clips(tmp_path / "BIx4", 4, "a")
    with pytest.raises(UserError, match=r"clip b .*BIx4"):
        find_clips(tmp_path, None, given=True)
    clips(tmp_path / "BIx4", 4, "a", "b", count=4)
    with pytest.raises(UserError, match="3 frames of HR, and 4 of LR"):
        find_clips(tmp_path, None, given=True)
    clips(tmp_path / "BDx4", 4, "a", "b")
    with pytest.raises(UserError, match=r"BDx4, BIx4|BIx4, BDx4"):
        find_clips(tmp_path, None, given=True)
    assert lr_folder(Path(f"{tmp_path}:lr=BDx4")) == tmp_path / "BDx4"
    black = np.zeros((3, 4, 4, 3), np.uint8)
    save_frames(tmp_path / "odd/a", black, names=("00000000", "00000001", "9"))
    save_frames(tmp_path / "odd/b", black)
    with pytest.raises(UserError, match="9"):
        find_clips(Path(f"{tmp_path}:lr=odd"), None, given=True)
    with pytest.raises(UserError, match="nowhere"):
        lr_folder(Path(f"{tmp_path}:lr=nowhere"))


def test_one_video_is_the_lr_of_one(tmp_path: Path, save_frames: Save) -> None:
    """Of several films it would be the LR of none but one; and packed HR has packed LR."""
    still = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8).repeat(4, 0)
    for name in ("films/a", "films/b", "one/a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_frames(tmp_path / f"{name}.mp4", still)
    (tmp_path / "lr").mkdir()
    save_frames(tmp_path / "lr/a.mp4", still[:, ::4, ::4])
    lr = tmp_path / "lr/a.mp4"
    assert len(find_clips(with_lr(tmp_path / "one", lr), None, given=True)) == 1
    with pytest.raises(UserError, match="one video"):
        find_clips(with_lr(tmp_path / "films", lr), None, given=True)


def test_scenes_of_lr_are_not_new_clips(tmp_path: Path, save_frames: Save) -> None:
    """LR of a video whose HR is here, perhaps held out, is no clip of LR alone, however it is cut
    into scenes; another video is."""
    rng = np.random.default_rng(0)
    scenes = rng.integers(0, 256, (2, 1, 64, 64, 3), np.uint8).repeat(9, 1).reshape(18, 64, 64, 3)
    for folder, rate, step in (("hr", 25, 1), ("lr", 24, 4)):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            save_frames(tmp_path / folder / f"{name}.mp4", scenes[:, ::step, ::step], rate=rate)
    save_frames(tmp_path / "lr/c.mp4", scenes[:9, ::4, ::4])
    found = find_clips(with_lr(tmp_path / "hr", tmp_path / "lr"), "train", given=True)
    assert {clip.key.partition("/")[0]: clip.has_hr for clip in found} == {
        "a": True, "b": True, "c": False,
    }  # fmt: skip
    held = Path(f"{with_lr(tmp_path / 'hr', tmp_path / 'lr')},test=0.5")
    assert sum(clip.has_hr for clip in find_clips(held, "train", given=True)) < len(found) - 1
    keys = {clip.key.partition("/")[0] for clip in find_clips(held, "test", given=True)}
    assert keys.isdisjoint(c.key.partition("/")[0] for c in find_clips(held, "train", given=True))
    left = Path(f"{with_lr(tmp_path / 'hr', tmp_path / 'lr')},exclude=c")
    assert all(clip.has_hr for clip in find_clips(left, "train", given=True))


def test_what_is_filled_up_has_no_given_lr(tmp_path: Path, clips: Save) -> None:
    clips(tmp_path / "GT", 16, "a")
    clips(tmp_path / "BIx4", 4, "a")
    for option in ("pad=32", "repeat=1"):
        with pytest.raises(UserError, match="pad and repeat"):
            find_clips(Path(f"{tmp_path}:{option}"), None, given=True)
