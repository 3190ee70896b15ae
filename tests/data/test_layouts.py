"""Finding clips: every layout, every way in which a data set on disk is incomplete or odd."""

import os
import zlib
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from stdpipe.data import layouts
from stdpipe.data.layouts import Clip, find_clips, read_clip, source_crc32

RNG = np.random.default_rng(0)


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


def picture(height: int = 6, width: int = 10, channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def one_frame(path: Path) -> Clip:
    return Clip("walk", (path,))


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
    assert keys(find_clips(str(root), None)) == ["00001/0001", "00001/0002", "00002/0001"]


def test_vimeo_is_found_one_folder_up(tmp_path: Path) -> None:
    root = vimeo(tmp_path / "vimeo_septuplet", "00001/0001")
    (root / "sep_trainlist.txt").write_text("00001/0001 7 (256,448,3)\n")
    assert keys(find_clips(tmp_path, "train")) == ["00001/0001"]


def test_vimeo_list_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"sep_testlist\.txt is missing"):
        find_clips(vimeo(tmp_path, "00001/0001"), "test")


def test_vimeo_list_empty(tmp_path: Path) -> None:
    (vimeo(tmp_path, "00001/0001") / "sep_testlist.txt").write_text("\n\n")
    with pytest.raises(ValueError, match=r"sep_testlist\.txt in .* is empty"):
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
    with pytest.raises(FileNotFoundError) as error:
        find_clips(root, "train")
    assert str(error.value) == (
        "clip 00001/0007 of sep_trainlist.txt has no folder: the data set is incomplete; "
        "download it again or take the clip off the list"
    )


def test_vimeo_costs_one_listing_a_clip_and_opens_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = vimeo(tmp_path, *(f"00001/{n:04d}" for n in range(50)))
    (root / "sep_trainlist.txt").write_text("".join(f"00001/{n:04d}\n" for n in range(50)))
    listed: list[str] = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(str(path)) or real(path))
    monkeypatch.setattr(layouts.iio, "imopen", lambda *_, **__: pytest.fail("opened an image"))
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
    assert keys(find_clips(".", None)) == ["walk"]


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


def test_length_refuses_a_shorter_clip(tmp_path: Path) -> None:
    put(tmp_path / "long", *(f"{n}.png" for n in range(9)))
    put(tmp_path / "short", "1.png", "2.png")
    with pytest.raises(ValueError, match="clip short has 2 frames, but 7 are asked for"):
        find_clips(tmp_path, None, length=7)


# Nothing there


def test_folder_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        find_clips(tmp_path / "nowhere", None)
    put(tmp_path, "file")
    with pytest.raises(FileNotFoundError, match="file is not a folder"):
        find_clips(tmp_path / "file", None)


def test_nothing_recognised_says_what_was_looked_for(tmp_path: Path) -> None:
    put(tmp_path / "a" / "b", "1.png")
    with pytest.raises(ValueError, match=r"no clips in .*Vimeo90K.*folders of frames.*png"):
        find_clips(tmp_path, None)


def test_wrong_use_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split 'val' is not known"):
        find_clips(tmp_path, "val")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="length is 0"):
        find_clips(tmp_path, None, length=0)


# Reading


def test_read_clip_is_what_was_written(tmp_path: Path) -> None:
    frames = [picture() for _ in range(3)]
    for index, frame in enumerate(frames):
        iio.imwrite(tmp_path / f"{index}.png", frame)
    (clip,) = find_clips(tmp_path, None)
    read = read_clip(clip)
    assert (read.shape, read.dtype) == ((3, 6, 10, 3), np.uint8)
    np.testing.assert_array_equal(read, np.stack(frames))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_grey_is_repeated(tmp_path: Path, suffix: str) -> None:
    grey = picture()[..., 0]
    iio.imwrite(tmp_path / f"a{suffix}", grey)
    read = read_clip(one_frame(tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(read[0], np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 4), ("LA", 2)])
def test_alpha_is_dropped(tmp_path: Path, mode: str, channels: int) -> None:
    pixels = picture(channels=channels)
    image = Image.fromarray(pixels)
    assert image.mode == mode
    image.save(tmp_path / "a.png")
    read = read_clip(one_frame(tmp_path / "a.png"))[0]
    colour = pixels[..., :3] if channels == 4 else np.repeat(pixels[..., :1], 3, axis=2)
    np.testing.assert_array_equal(read, colour)


def test_palette_and_black_and_white_are_resolved(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8))
    image.quantize(2).save(tmp_path / "palette.png")
    read = read_clip(one_frame(tmp_path / "palette.png"))[0]
    np.testing.assert_array_equal(read, [[[255, 0, 0], [0, 0, 255]]])
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    read = read_clip(one_frame(tmp_path / "bits.png"))[0]
    np.testing.assert_array_equal(read, [[[255] * 3, [0] * 3]])


def test_sixteen_bit_grey_is_refused(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "a.png", np.full((4, 4), 40000, np.uint16))
    with pytest.raises(ValueError, match=r"clip walk: a\.png is a 16-bit .* convert it to 8-bit"):
        read_clip(one_frame(tmp_path / "a.png"))


def test_sixteen_bit_colour_is_refused(tmp_path: Path) -> None:
    """Pillow reads these as 8-bit without a word, and cannot write them: made by hand here."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body).to_bytes(4, "big")
        return len(body).to_bytes(4, "big") + kind + body + check

    header = (2).to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])
    rows = zlib.compress((b"\0" + bytes(12)) * 2)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(layouts.PNG_START + body)
    assert iio.imread(tmp_path / "a.png").dtype == np.uint8
    with pytest.raises(ValueError, match="is a 16-bit RGB image"):
        read_clip(one_frame(tmp_path / "a.png"))


def test_cmyk_is_refused_rather_than_taken_for_alpha(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (9, 99, 199, 0)).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="is a CMYK image"):
        read_clip(one_frame(tmp_path / "a.jpg"))


def test_frames_of_unequal_size_are_named(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "1.png", picture(6, 10))
    iio.imwrite(tmp_path / "2.png", picture(8, 10))
    (clip,) = find_clips(tmp_path, None)
    with pytest.raises(ValueError, match=r"1\.png is 10x6, but 2\.png is 10x8"):
        read_clip(clip)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.9])
def test_truncated_images_are_errors(tmp_path: Path, suffix: str, kept: float) -> None:
    """Never a grey bottom half, a warning or a file left open."""
    path = tmp_path / f"Frame 7{suffix}"
    iio.imwrite(path, picture(64, 80))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ValueError, match=r"walk: .*Frame 7.* cannot be read \(truncated"):
        read_clip(one_frame(path))


def test_every_truncation_of_a_png_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    iio.imwrite(path, picture())
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="truncated download"):
            read_clip(one_frame(path))


def test_a_vanished_frame_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clip walk: .*gone\.png cannot be read \(No such file"):
        read_clip(one_frame(tmp_path / "gone.png"))


def test_source_crc32_is_of_the_pixels() -> None:
    frames = RNG.integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    assert source_crc32(frames) == zlib.crc32(frames.tobytes())
    assert source_crc32(frames[:, :, ::-1]) == zlib.crc32(frames[:, :, ::-1].tobytes())
    assert source_crc32(frames[:, :, ::-1]) != source_crc32(frames)


# Real data


def test_vid4(vid4: Path) -> None:
    clips = find_clips(vid4, None)
    assert {c.key: len(c.frames) for c in clips} == {
        "calendar": 41,
        "city": 34,
        "foliage": 49,
        "walk": 47,
    }
    assert read_clip(Clip("city", clips[1].frames[:2])).shape == (2, 576, 704, 3)


def test_footage(footage: Path) -> None:
    train, test = find_clips(footage, "train"), find_clips(footage, "test")
    assert not set(keys(train)) & set(keys(test))
    assert set(keys(train)) | set(keys(test)) <= set(keys(find_clips(footage, None)))
    assert read_clip(test[0]).shape == (7, 256, 448, 3)
