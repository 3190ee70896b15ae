"""A cache of teacher's maps for datasets that crop and flip clips themselves.

Axes: T frames of a clip, C channels, H W HR size, h w LR size.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stdpipe.cache import Reader, open_reader
from stdpipe.cache.errors import UserError
from stdpipe.data.box import Box
from stdpipe.data.views import UNDOES, View, oriented_size, upright_box
from stdpipe.features.targets import CachedTargets, Decoder, open_targets
from stdpipe.suggest import nearest, refuse_text

TOLD = 3  # names in a message


class TeacherCache:
    """A finished cache, opened by `open_cache`: what it holds, and windows of its maps.

    It can be pickled, and used in the processes of a DataLoader, forked or spawned.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._views: dict[str, list[View]] = {}
        for text in reader.manifest.entries:
            view = View.parse(text)
            self._views.setdefault(view.clip, []).append(view)
        self._open: dict[tuple[str, ...], tuple[CachedTargets, Decoder]] = {}

    @property
    def id(self) -> str:
        """The identity of the cache, as `cache` in a batch of CachedClips."""
        return self.reader.manifest.cache_id

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of its clips."""
        return tuple(self._views)

    @property
    def targets(self) -> tuple[str, ...]:
        """The maps that can be read: some of "sr", "f_sr", "attention" and "f_lr"."""
        return self.reader.manifest.targets

    @property
    def degradation(self) -> str:
        """How LR was made of HR for the teacher: measure students by the same."""
        return str(self.reader.manifest.made_by["degradation"])

    @property
    def scale(self) -> int:
        """HR size / LR size: 2, 3 or 4."""
        return self.reader.manifest.scale

    @property
    def manifest(self) -> dict[str, Any]:
        """What manifest.json says: the teacher, its degradation, sizes, encoding, notes."""
        return dict(self.reader.manifest.to_json())

    def orientations(self, key: str) -> tuple[int, ...]:
        """Return the orientations in which the teacher saw a clip: bit 0 flips left-right, then bit
        1 up-down, then bit 2 transposes. Raises UserError for a clip that is not held."""
        return tuple(view.orientation for view in self._of(key))

    def read(
        self,
        key: str,
        target: str,
        box: Sequence[int] | None = None,
        orientation: int | None = None,
        *,
        crop_first: bool = False,
    ) -> Tensor:
        """Read one map of a window of a clip, as `read_maps` does for several."""
        return self.read_maps(key, [target], box, orientation, crop_first=crop_first)[target]

    def read_maps(
        self,
        key: str,
        targets: Sequence[str],
        box: Sequence[int] | None = None,
        orientation: int | None = None,
        *,
        crop_first: bool = False,
    ) -> dict[str, Tensor]:
        """Read a window of a clip: float32 sr (T, 3, H, W), or (T, 1, H, W) of luma, f_sr
        (T, C, H, W), attention (T, H, W), f_lr (T, C, h, w) by name, laid out for a batch.

        key: a clip's name, or the text of one view in the manifest's `entries`, which then says the
        orientation. box: y, x, height, width in HR pixels, multiples of the scale; None takes all.
        orientation: as in `orientations`, which a flip left-right, up-down and a transposition in
        that order make (BasicSR's hflip, vflip and rot90); None takes the only one. crop_first: the
        box was cut before the clip was flipped and turned, not after.

        The teacher saw LR that was made of the flipped HR. With a degradation whose samples do not
        lie amid their HR pixels (`bd`), LR that is flipped itself lies elsewhere: flip HR, then
        make LR.

        Raises UserError for a clip, orientation or target that is not held, and for a box that is
        not on the LR grid or not within the clip.
        """
        refuse_text(targets, "targets")
        for name in targets:
            if name not in self.targets:
                raise UserError(
                    f"cache {self.reader.url} holds no {name!r}{nearest(name, self.targets)}"
                )
        view = self._view(key, orientation)
        window = self._window(view, box, crop_first)
        names = tuple(dict.fromkeys(targets))
        if names not in self._open:
            self._open[names] = open_targets(self.reader, names, torch.device("cpu"))
        read, decode = self._open[names]
        stored = {name: x[None] for name, x in read(view, window, None).items()}
        sizes = torch.empty(1, 1, 3, window.height, window.width, device="meta")
        made: Mapping[str, Tensor] = decode({"hr": sizes, **stored})
        return {name: made[name][0].float() for name in names}

    def _of(self, key: str) -> list[View]:
        if key not in self._views:
            some = ", ".join(self.keys[:TOLD]) + ", ..." * (len(self.keys) > TOLD)
            raise UserError(
                f"cache {self.reader.url} holds no clip {key!r}; it holds {len(self.keys)}: {some}"
            )
        return self._views[key]

    def _view(self, key: str, orientation: int | None) -> View:
        if key not in self._views and key in self.reader.entries:
            view = View.parse(key)
            if orientation in (None, view.orientation):
                return view
            raise UserError(f"{key} is in orientation {view.orientation}, not {orientation}")
        views = self._of(key)
        if orientation is not None:
            views = [view for view in views if view.orientation == orientation]
        if len(views) == 1:
            return views[0]
        held = ", ".join(map(str, self._of(key)))
        which = "" if orientation is None else f" in orientation {orientation}"
        raise UserError(
            f"cache {self.reader.url} holds {len(views)} views of {key}{which}; name one of {held}"
        )

    def _window(self, view: View, box: Sequence[int] | None, crop_first: bool) -> Box:
        upright = self.reader.manifest.size(str(view))
        turned = 0 if view.crop else view.orientation
        size = oriented_size(*upright, turned)
        if box is None:
            return Box(0, 0, *size)
        if not (len(box) == 4 and all(isinstance(side, int | np.integer) for side in box)):
            raise UserError(f"box is y, x, height, width in whole HR pixels, got {box!r}")
        asked = window = Box(*map(int, box))
        if any(side % self.scale for side in window):
            grid = f"take multiples of {self.scale}"
            raise UserError(f"box {tuple(asked)} is not on the LR grid: {grid}")
        frame = size
        if crop_first:
            if view.crop:
                raise UserError(f"{view} is a crop of its own: crop_first has no meaning for it")
            frame = upright
            window = upright_box(window, UNDOES[turned], *size)
        is_empty = min(asked.height, asked.width) < self.scale
        if is_empty or min(asked) < 0 or asked.bottom > frame[0] or asked.right > frame[1]:
            raise UserError(
                f"box {tuple(asked)} (y, x, height, width) does not lie within {view}, which is "
                f"{frame[0]} x {frame[1]} HR pixels (height x width)"
                + " before it is flipped and turned"
                * crop_first
            )
        return window

    def __fspath__(self) -> str:
        """Return its path or URL: whatever takes a cache takes an open one."""
        return self.reader.url

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}


def open_cache(cache: str | os.PathLike[str]) -> TeacherCache:
    """Open a finished cache: a path, or the URL of an object store.

    Raises CacheError where there is none, or one that is damaged or not finished.

        cache = stdpipe.open_cache("c.zarr")
        turn = cache.orientations(cache.keys[0])[0]
        f_sr = cache.read(cache.keys[0], "f_sr", box=(0, 0, 64, 64), orientation=turn)
    """
    return TeacherCache(open_reader(os.fspath(cache)))
