"""Finding clips: every layout, every way in which a data set on disk is incomplete or odd."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stdpipe.cache.errors import UserError
from stdpipe.data import layouts
from stdpipe.data.frames import Clip, read_clip
from stdpipe.data.layouts import find_clips, find_one_clip


def put(folder: Path, *names: str) -> Path:
    """Empty files: finding opens none of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def vimeo(root: Path, *keys: str) -> Path:
    for key in keys:
        put(root / "sequences" / key, *layouts.VIMEO_FRAMES)
    return root


def keys(clips: list[Clip]) -> list[str]:
    return [clip.key for clip in clips]


# Vimeo90K


def test_vimeo_lists_pick_the_split_in_their_own_order(tmp_path: Path) -> None:
    root = vimeo(tmp_path, "00001/0001", "00001/0002", "00002/0001")
    (root / "sep_trainlist.txt").write_text("00002/0001\n\n00001/0001\r\n  \n00002/0001\n")
    (root / "sep_testlist.txt").write_text("00001/0002")
    train = find_clips(root, "train")
    assert keys(train) == ["00002/0001", "00001/0001"]
    folder = root / "sequences" / "00002/0001"
    assert train[0].frames == tuple(folder / f"im{n}.png" for n in range(1, 8))
    assert keys(find_clips(root, "test")) == ["00001/0002"]
    assert keys(find_clips(root, None)) == ["00001/0001", "00001/0002", "00002/0001"]


def test_vimeo_is_found_one_folder_up(tmp_path: Path) -> None:
    root = vimeo(tmp_path / "vimeo_septuplet", "00001/0001")
    (root / "sep_trainlist.txt").write_text("00001/0001 7 (256,448,3)\n")
    assert keys(find_clips(tmp_path, "train")) == ["00001/0001"]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("00001/0001\n00001/0002\n", "utf-8-sig"),
        ("00001/0001\r\n00001/0002\r\n", "utf-16"),
        ("00001/0001\r\n00001/0002", "utf-16-be-with-mark"),
        ("00001\\0001\r\n00001\\0002\r\n", "utf-8"),
        ("00001/0001/\n\n  \n/00001//0002/ \n00001/0001\n", "utf-8"),
        ("./00001/0001 7 (256,448,3)\n00001\\0002\\", "utf-8"),
    ],
    ids=["mark", "utf-16", "utf-16-be", "windows", "slashes", "shape"],
)
def test_vimeo_lists_as_other_systems_write_them(tmp_path: Path, text: str, encoding: str) -> None:
    root = vimeo(tmp_path, "00001/0001", "00001/0002")
    content = b"\xfe\xff" + text.encode("utf-16-be") if "be" in encoding else text.encode(encoding)
    (root / "sep_trainlist.txt").write_bytes(content)
    assert keys(find_clips(root, "train")) == ["00001/0001", "00001/0002"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("00001/0001\n".encode("utf-16-le"), "no text in UTF-8"),  # without its mark
        (b"00001/0001\n\xff\xfe\x9a\n", "no text in UTF-8"),
        (b"PK\x03\x04" + bytes(20), "no text in UTF-8"),
        (b"../../etc/0001\n", r"'\.\./\.\./etc/0001'"),
        (b"//\n", "'//'"),
    ],
    ids=["utf-16", "latin", "zip", "outside", "nothing"],
)
def test_vimeo_lists_that_are_told(tmp_path: Path, content: bytes, told: str) -> None:
    root = vimeo(tmp_path, "00001/0001")
    (root / "sep_trainlist.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"sep_trainlist\.txt.*{told}"):
        find_clips(root, "train")


def test_vimeo_list_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"sep_testlist\.txt is missing"):
        find_clips(vimeo(tmp_path, "00001/0001"), "test")


def test_vimeo_list_empty(tmp_path: Path) -> None:
    (vimeo(tmp_path, "00001/0001") / "sep_testlist.txt").write_text("\n\n")
    with pytest.raises(ValueError, match=r"sep_testlist\.txt is empty"):
        find_clips(tmp_path, "test")


@pytest.mark.parametrize("split", ["train", None])
def test_vimeo_frame_missing(tmp_path: Path, split: layouts.Split | None) -> None:
    root = vimeo(tmp_path, "00001/0007")
    (root / "sep_trainlist.txt").write_text("00001/0007\n")
    (root / "sequences/00001/0007/im5.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"clip 00001/0007 of .* lacks im5\.png"):
        find_clips(root, split)


def test_vimeo_error_says_what_to_do(tmp_path: Path) -> None:
    root = vimeo(tmp_path, "00001/0001")
    (root / "sep_trainlist.txt").write_text("00001/0007\n")
    told = r"clip 00001/0007 of sep_trainlist\.txt lacks im1\.png.*download it again"
    with pytest.raises(FileNotFoundError, match=told):
        find_clips(root, "train")


def test_vimeo_costs_one_listing_a_clip_and_opens_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = vimeo(tmp_path, *(f"00001/{n:04d}" for n in range(50)))
    (root / "sep_trainlist.txt").write_text("".join(f"00001/{n:04d}\n" for n in range(50)))
    listed: list[str] = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(str(path)) or real(path))
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("opened an image"))
    assert len(find_clips(root, "train")) == 50
    assert len(listed) <= 50


# Folders of frames


def test_folders_of_frames_sort_naturally(tmp_path: Path) -> None:
    put(tmp_path / "clip 10", "Frame 10.png", "Frame 2.png", "Frame 1.PNG")
    put(tmp_path / "clip 9", "b.jpg", "a.JPEG", "c.tiff", "d.webp", "e.bmp", ".hidden.png", "x.txt")
    first, second = find_clips(tmp_path, "train")
    assert (first.key, second.key) == ("clip 9", "clip 10")
    assert [p.name for p in second.frames] == ["Frame 1.PNG", "Frame 2.png", "Frame 10.png"]
    assert [p.name for p in first.frames] == ["a.JPEG", "b.jpg", "c.tiff", "d.webp", "e.bmp"]


def test_gt_folder_is_found_beside_lr_folders(tmp_path: Path) -> None:
    for kind in ("GT", "BIx4"):
        put(tmp_path / kind / "city", "1.png", "2.png")
    put(tmp_path, "README.md")
    (clip,) = find_clips(tmp_path, None)
    assert clip.key == "city"
    assert clip.frames[0].parent == tmp_path / "GT" / "city"


def test_a_folder_of_frames_is_one_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put(tmp_path / "walk", "2.png", "1.png")
    put(folder / "notes", "a.txt")
    assert find_clips(folder, None) == [Clip("walk", (folder / "1.png", folder / "2.png"))]
    monkeypatch.chdir(folder)
    assert keys(find_clips(Path(), None)) == ["walk"]


def test_an_empty_clip_folder_is_an_incomplete_data_set(tmp_path: Path) -> None:
    put(tmp_path / "city", "1.png")
    put(tmp_path / "walk")
    with pytest.raises(FileNotFoundError, match=r"clip walk in .* has no frames"):
        find_clips(tmp_path, None)


def test_folders_of_something_else_and_hidden_ones_are_left_out(tmp_path: Path) -> None:
    put(tmp_path / "city", "1.png")
    put(tmp_path / "lists", "city.txt")
    put(tmp_path / ".thumbnails", "1.png")
    assert keys(find_clips(tmp_path, None)) == ["city"]


def test_a_frame_in_two_formats_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "city", "1.png", "1.jpg", "2.png")
    with pytest.raises(ValueError, match=r"holds both 1\.jpg and 1\.png"):
        find_clips(tmp_path, None)


# Length


def test_length_cuts_into_consecutive_runs_and_drops_the_tail(tmp_path: Path) -> None:
    put(tmp_path / "calendar", *(f"{n}.png" for n in range(17)))
    clips = find_clips(tmp_path, None, length=7)
    assert keys(clips) == ["calendar/000000", "calendar/000007"]
    assert [p.name for p in clips[1].frames] == [f"{n}.png" for n in range(7, 14)]


def test_length_keeps_the_key_of_a_clip_that_fits(tmp_path: Path) -> None:
    root = vimeo(tmp_path, "00001/0001")
    assert find_clips(root, None, length=7) == find_clips(root, None)


# Nothing there


def test_folder_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        find_clips(tmp_path / "nowhere", None)
    put(tmp_path, "file")
    with pytest.raises(FileNotFoundError, match="file is not a folder"):
        find_clips(tmp_path / "file", None)


def test_nothing_recognised_says_what_was_looked_for(tmp_path: Path) -> None:
    put(tmp_path / "a" / "b" / "c", "1.png")
    with pytest.raises(ValueError, match=r"no clips in .*Vimeo90K.*folders of frames.*png"):
        find_clips(tmp_path, None)


# Real data


def test_vid4(vid4: Path) -> None:
    clips = find_clips(vid4, None)
    assert {c.key: len(c.frames) for c in clips} == {
        "calendar": 41,
        "city": 34,
        "foliage": 49,
        "walk": 47,
    }


def test_footage(footage: Path) -> None:
    train, test = find_clips(footage, "train"), find_clips(footage, "test")
    assert not set(keys(train)) & set(keys(test))
    assert set(keys(train)) | set(keys(test)) <= set(keys(find_clips(footage, None)))


# videos


@pytest.fixture
def videos(tmp_path: Path, save_frames: Callable[..., Path]) -> Path:
    """Three videos: one of two scenes (of 12 and 9 frames), two of one (8 and 5)."""
    root = tmp_path / "videos"
    root.mkdir()
    draw = np.random.default_rng(0)

    def scene(count: int) -> np.ndarray:
        texture = draw.integers(0, 256, (4, 8, 3)).repeat(8, 0).repeat(8, 1)
        return np.stack([texture * (0.8 + n / 200) for n in range(count)]).astype(np.uint8)

    for name, counts in (("walk", (12, 9)), ("run", (8,)), ("sit", (5,))):
        save_frames(root / f"{name}.mp4", np.concatenate([scene(n) for n in counts]), crf=10)
    return root


def test_the_scenes_of_videos_are_clips(videos: Path) -> None:
    """Keyed by their video and their first second; their frames are those of the video."""
    clips = {clip.key: clip for clip in find_clips(videos, None)}
    assert {key: len(clip.frames) for key, clip in clips.items()} == {
        "run": 8,
        "sit": 5,
        "walk/00000.000": 12,
        "walk/00000.480": 9,
    }
    whole = read_clip(find_one_clip(videos / "walk.mp4"))
    assert np.array_equal(read_clip(clips["walk/00000.480"]), whole[12:])


def test_short_scenes_are_left_out_by_name(videos: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert keys(find_clips(videos, "train", length=7)) == [
        "run/000000",
        "walk/00000.000/000000",
        "walk/00000.480/000000",
    ]
    assert "1 of 4 clips are left out" in caplog.text
    assert "sit (5)" in caplog.text
    with pytest.raises(UserError, match="every clip has fewer than 30 frames"):
        find_clips(videos, "train", length=30)


def test_a_share_of_videos_is_held_out(videos: Path) -> None:
    """Whole videos, and the same ones for every command."""
    data = Path(f"{videos}:test=0.3")
    train, test = (find_clips(data, split) for split in ("train", "test"))
    assert {clip.key for clip in train} | {clip.key for clip in test} == {
        clip.key for clip in find_clips(data, None)
    }
    sources = [{clip.key.partition("/")[0] for clip in clips} for clips in (train, test)]
    assert sources[0].isdisjoint(sources[1])
    assert len(sources[1]) == 1
    assert layouts.split_lists(data) == {"train": keys(train), "test": keys(test)}


def test_what_is_left_out(videos: Path, tmp_path: Path) -> None:
    left = find_clips(Path(f"{videos}:exclude=walk,exclude=sit"), None)
    assert keys(left) == ["run"]
    with pytest.raises(UserError, match="'wlak', which is to be left out, is no clip"):
        find_clips(Path(f"{videos}:exclude=wlak"), None)
    with pytest.raises(UserError, match="none of the 4 clips"):
        find_clips(Path(f"{videos}:exclude=walk,exclude=sit,exclude=run"), None)
    root = vimeo(tmp_path / "v", "00001/0001", "00001/0002")
    (root / "sep_trainlist.txt").write_text("00001/0001\n")
    with pytest.raises(UserError, match="has lists of its own"):
        find_clips(Path(f"{root}:test=0.5"), "train")


def test_a_damaged_video_of_a_folder_is_named(videos: Path) -> None:
    data = (videos / "run.mp4").read_bytes()
    (videos / "run.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"run\.mp4"):
        find_clips(videos, None)


def test_two_sources_of_one_name(videos: Path) -> None:
    (videos / "walk.mkv").write_bytes((videos / "walk.mp4").read_bytes())
    with pytest.raises(UserError, match="'walk' more than once"):
        find_clips(videos, None)


def test_frames_beside_a_video(videos: Path) -> None:
    """Which of them is meant cannot be known."""
    put(videos, "1.png", "2.png")
    with pytest.raises(UserError, match="both frames and videos"):
        find_clips(videos, None)


def test_a_folder_of_one_video(videos: Path) -> None:
    """It is that video, with all of its scenes, and as it was asked for."""
    for name in ("run", "sit"):
        (videos / f"{name}.mp4").unlink()
    clip = find_one_clip(videos, deinterlace=True)
    assert len(clip.frames) == 21
    assert clip.place == replace(find_one_clip(videos / "walk.mp4").place, deinterlace=True)
