"""A rectangle of pixels: a crop of a view, a tile of a frame, a detail on the report's page."""

from types import EllipsisType
from typing import Any, NamedTuple


class Box(NamedTuple):
    """The rectangle whose first pixel is (y, x)."""

    y: int
    x: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        """The first row below the rectangle."""
        return self.y + self.height

    @property
    def right(self) -> int:
        """The first column to the right of the rectangle."""
        return self.x + self.width

    def cut(self, scale: int = 1) -> tuple[EllipsisType, slice, slice]:
        """Return an index into the last two axes of a tensor that is `scale` times as large."""
        rows = slice(self.y * scale, self.bottom * scale)
        return ..., rows, slice(self.x * scale, self.right * scale)

    def of(self, image: Any, scale: int = 1) -> Any:
        """Return this part of an image (H / scale, W / scale, ...)."""
        y, x, height, width = (side // scale for side in self)
        return image[y : y + height, x : x + width]

    def inside(self, other: "Box") -> "Box":
        """Return the same rectangle, counted from the other's first pixel."""
        return self._replace(y=self.y - other.y, x=self.x - other.x)
