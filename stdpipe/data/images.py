"""Read one image file as 8-bit RGB, or its size alone. Only frames.py uses this."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from stdpipe.cache.errors import UserError
from stdpipe.cache.schema import read_bytes

# Modes of 8 bits a channel that convert to RGB without loss. CMYK would pass for RGBA.
READABLE_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
PNG_HEADER = struct.Struct(">8s4x4sIIB")  # start, length of IHDR, its name, width, height, depth
BITS_PER_SAMPLE = 258  # a tag of TIFF
ORIENTATION = 274  # a tag of EXIF
TRANSPOSED = (5, 6, 7, 8)  # its values whose width is the image's height
MOST_PIXELS = 2**26  # of a frame, 8192 x 8192; a file of a megabyte can state a thousand times that
FORMATS = (
    "PNG",
    "JPEG",
    "MPO",
    "BMP",
    "TIFF",
    "WEBP",
    "GIF",
    "PPM",
)  # EPS runs a program
_TOO_LARGE = f"is larger than any frame here ({MOST_PIXELS:,} pixels): check it, or cut it"


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read the pixels as RGB, (H, W, 3), upright by EXIF; grey is repeated, alpha is dropped.

    Raises UserError for an image that cannot be read in full, or is not 8-bit RGB or grey.
    """
    with _told(path):
        data = read_bytes(path, 5 * MOST_PIXELS)
        # A decoder stops at the last pixel it needs; a PNG without its last chunk was cut off.
        if data.startswith(PNG_START) and PNG_END not in data:
            raise ValueError
        _refuse_large_png(path, data)
        with Image.open(io.BytesIO(data)) as image:
            _refuse_other_kinds(path, image, _png_depth(data))
            upright = ImageOps.exif_transpose(image) if _turn(image) > 1 else image
            return np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB"))


def image_size(path: Path) -> tuple[int, int]:
    """Read height and width from the header alone. Raises UserError as `read_image` does.

    A PNG's header is not read by Pillow, which takes twice the time: Vimeo90K has 450,000.
    """
    with _told(path):
        with path.open("rb", buffering=0) as file:
            head = file.read(PNG_HEADER.size)
        _refuse_large_png(path, head)
        depth = _png_depth(head)
        if 0 < depth <= 8:
            *_, width, height, _ = PNG_HEADER.unpack(head)
            return height, width
        with Image.open(path) as image:
            _refuse_other_kinds(path, image, depth)
            size = image.height, image.width
            return size[::-1] if _turn(image) in TRANSPOSED else size


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{path} {_TOO_LARGE}") from None
    except Exception as error:  # Pillow reports damage as OSError, SyntaxError, ValueError and more
        cause = getattr(error, "strerror", None) or "truncated download, or no 8-bit image?"
        raise UserError(f"{path} cannot be read ({cause})") from error


def _turn(image: Image.Image) -> int:
    """Return how EXIF says that a camera was held, 1 for upright.

    Pillow itself turns TIFF files. PNG files are taken as they are: cameras write none, and their
    headers are read without Pillow.
    """
    return 1 if image.format in ("PNG", "TIFF") else int(image.getexif().get(ORIENTATION, 1))


def _png_depth(data: bytes) -> int:
    """Return a PNG's bits per channel; 0 for other files."""
    if len(data) < PNG_HEADER.size:
        return 0
    start, name, *_, depth = PNG_HEADER.unpack_from(data)
    return int(depth) if (start, name) == (PNG_START, b"IHDR") else 0


def _refuse_large_png(path: Path, head: bytes) -> None:
    if _png_depth(head):
        *_, width, height, _ = PNG_HEADER.unpack_from(head)
        refuse_large(path, width, height)


def refuse_large(path: Path, width: int, height: int) -> None:
    """Raise UserError for a frame of more than MOST_PIXELS, before its pixels are decoded."""
    if width * height > MOST_PIXELS:
        raise UserError(f"{path} of {width} x {height} pixels {_TOO_LARGE}")


def _refuse_other_kinds(path: Path, image: Image.Image, png_depth: int) -> None:
    """Refuse all but 8-bit images. Pillow reduces 16-bit RGB silently, so the header must tell."""
    if image.format not in FORMATS:
        raise ValueError
    refuse_large(path, *image.size)
    tags = getattr(image, "tag_v2", {})
    depth = max(png_depth, *tags.get(BITS_PER_SAMPLE, (1,)))
    if image.mode not in READABLE_MODES or depth > 8:
        deep = f"{depth}-bit " if depth > 8 else ""
        raise UserError(f"{path} is a {deep}{image.mode} image: convert it to 8-bit RGB or grey")
