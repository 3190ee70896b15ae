"""Image files: 8-bit pixels as they were written, and a refusal of everything else."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from stdpipe.data.images import PNG_START, image_size, read_image

RNG = np.random.default_rng(0)


def picture(height: int = 6, width: int = 10, channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def refused(path: Path) -> str:
    """Why neither the pixels nor the size can be had."""
    for read in (read_image, image_size):
        with pytest.raises(ValueError, match=path.name) as told:
            read(path)
    return str(told.value)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_colour_and_grey(tmp_path: Path, suffix: str) -> None:
    colour = picture()
    grey = colour[..., 0]
    for pixels, expected in ((colour, colour), (grey, np.repeat(grey[..., None], 3, axis=2))):
        path = tmp_path / f"a{suffix}"
        iio.imwrite(path, pixels)
        read = read_image(path)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, expected)
        assert image_size(path) == (6, 10)


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 4), ("LA", 2)])
def test_alpha_is_dropped(tmp_path: Path, mode: str, channels: int) -> None:
    pixels = picture(channels=channels)
    image = Image.fromarray(pixels)
    assert image.mode == mode
    image.save(tmp_path / "a.png")
    colour = pixels[..., :3] if channels == 4 else np.repeat(pixels[..., :1], 3, axis=2)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), colour)


def test_palette_and_black_and_white_are_resolved(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8))
    image.quantize(2).save(tmp_path / "palette.png")
    read = read_image(tmp_path / "palette.png")
    np.testing.assert_array_equal(read, [[[255, 0, 0], [0, 0, 255]]])
    image.quantize(2).save(tmp_path / "clear.png", transparency=0)
    np.testing.assert_array_equal(read_image(tmp_path / "clear.png"), read)
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png"), [[[255] * 3, [0] * 3]])


def deep_png(path: Path) -> None:
    """16-bit RGB, 2 x 2, which Pillow cannot write, and reads as 8-bit without a word."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body).to_bytes(4, "big")
        return len(body).to_bytes(4, "big") + kind + body + check

    header = struct.pack(">II5B", 2, 2, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress((b"\0" + bytes(12)) * 2))
    path.write_bytes(PNG_START + body + chunk(b"IEND", b""))
    assert iio.imread(path).dtype == np.uint8


def deep_tiff(path: Path, bits: int = 16, kind: int = 1) -> None:
    """RGB, 2 x 2, uncompressed, little-endian, with as many bits a channel; kind 3: floats."""
    size = bits // 8 * 3
    tags = [(256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 3, 158), (259, 3, 1, 1), (262, 3, 1, 2),
            (273, 4, 1, 170), (277, 3, 1, 3), (278, 3, 1, 2), (279, 4, 1, 4 * size),
            (284, 3, 1, 1), (339, 3, 3, 164)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    body = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4)
    body = body.ljust(158, b"\0") + struct.pack("<6H", *[bits] * 3, *[kind] * 3)
    path.write_bytes(body + bytes(4 * size))


def grey(dtype: type) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        Image.fromarray(np.full((4, 4), 1, dtype)).save(path)

    return write


@pytest.mark.parametrize(
    ("name", "write", "told"),
    [
        ("colour.png", deep_png, "16-bit"),
        ("grey.png", grey(np.uint16), "16-bit"),
        ("colour.tif", deep_tiff, "16-bit"),
        ("grey.tif", grey(np.uint16), "16-bit"),
        ("whole.tif", grey(np.int32), "32-bit"),
        ("float.tif", grey(np.float32), "32-bit"),
        ("floats.tif", lambda path: deep_tiff(path, 32, 3), "no 8-bit image"),
        ("cmyk.jpg", lambda path: Image.new("CMYK", (8, 8)).save(path), "CMYK"),
    ],
)
def test_other_kinds_are_refused_by_their_headers(
    tmp_path: Path, name: str, write: Callable[[Path], Any], told: str
) -> None:
    """Never taken for 8 bits, nor CMYK for alpha."""
    write(tmp_path / name)
    assert told in refused(tmp_path / name)


def test_a_tiff_of_eight_bits_made_by_the_same_hand(tmp_path: Path) -> None:
    """The refusals above are of the depth, not of the hand-made file."""
    deep_tiff(tmp_path / "a.tif", bits=8)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.zeros((2, 2, 3)))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_truncated_images_are_errors(tmp_path: Path, suffix: str) -> None:
    """Never a grey bottom half, a warning or a file left open."""
    path = tmp_path / f"Frame 7{suffix}"
    iio.imwrite(path, picture(64, 80))
    assert image_size(path) == (64, 80)
    data = path.read_bytes()
    for length in (int(len(data) * kept) for kept in (0, 0.02, 0.5, 0.9)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"Frame 7.* cannot be read \(truncated"):
            read_image(path)


def test_every_truncation_of_a_png_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    iio.imwrite(path, picture())
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="truncated download"):
            read_image(path)


def test_a_vanished_frame_is_named(tmp_path: Path) -> None:
    assert "cannot be read (No such file" in refused(tmp_path / "gone.png")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif"])
def test_cameras_that_were_turned(tmp_path: Path, orientation: int, suffix: str) -> None:
    """Frames come out upright, and their size is known from the header alone."""
    upright = np.arange(24 * 40, dtype=np.uint8).reshape(24, 40)[:, :, None].repeat(3, 2) // 8
    undo = [None, None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_90, Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_270][orientation]  # fmt: skip
    image = Image.fromarray(upright)
    stored = image if undo is None else image.transpose(undo)
    exif = Image.Exif()
    exif[274] = orientation
    file = tmp_path / f"photo{suffix}"
    stored.save(file, exif=exif, quality=100, **({"lossless": True} if suffix == ".webp" else {}))
    read = read_image(file)
    assert image_size(file) == read.shape[:2] == (24, 40)
    assert np.abs(read.astype(int) - upright).max() <= (4 if suffix == ".jpg" else 0)
