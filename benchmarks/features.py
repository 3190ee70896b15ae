"""Real features to fill stores with, since noise does not compress: the embedded teacher's.

Its seven sample clips of 256 x 448 give f_sr of (7, 64, 256, 448) and a trunk of 32 channels at LR.
Further entries are those features flipped (after the teacher: for sizes and speed that will do). A
trunk as wide as EDVR-M's (64) or EDVR-L's (128) is the same 32 channels two or four times over.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stdpipe import cache
from stdpipe.data.layouts import find_clips
from stdpipe.data.samples import read_frames, view_pair
from stdpipe.data.views import View
from stdpipe.features.teacher import tail_of, teacher_features
from stdpipe.models.base import Network
from stdpipe.models.checkpoints import load_network

Maps = NDArray[np.float32]
FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
QUICK = (slice(2), slice(None), slice(16), slice(28))  # two frames of a corner, for tests

# name -> (encoding, compression, how often the trunk's channels are repeated)
CACHES = {
    "int8": ("int8", "none", 1),
    "int8-zstd": ("int8", "zstd", 1),
    "float16": ("float16", "none", 1),
    "trunk-int8": ("trunk-int8", "none", 4),
    "trunk-int8-64": ("trunk-int8", "none", 2),
}


def teacher() -> tuple[Network, dict[str, Any]]:
    """The embedded one and its facts."""
    network, facts = load_network(None, str(_assets() / "teacher.pt"))
    return network.eval(), facts


def entries(count: int, quick: bool) -> Iterator[tuple[int, Maps, Maps]]:
    """Number, f_sr (T, 64, H, W) and trunk (T, 32, h, w) of `count` entries, clip by clip."""
    network, facts = teacher()
    clips = [*find_clips(_assets() / "sample", "train"), *find_clips(_assets() / "sample", "test")]
    for first, clip in enumerate(clips[:count]):
        _, lr = view_pair(read_frames(clip).hr, View(clip.key, 0), str(facts["degradation"]))
        lr = lr[QUICK] if quick else lr
        features = teacher_features(network, lr, torch.device("cpu"), "none")
        for number in range(first, count, len(clips)):
            axes = FLIPS[number // len(clips) % len(FLIPS)]
            f_sr, trunk = features.f_sr.numpy(), features.trunk.numpy()
            yield number, np.flip(f_sr, axes).copy(), np.flip(trunk, axes).copy()


def write_caches(folder: Path, count: int, quick: bool) -> dict[str, Path]:
    """The same features in every cache of CACHES, f_sr alone: name -> where it lies."""
    network, facts = teacher()
    tail = tail_of(network)
    with ExitStack() as stack:
        writers: dict[str, cache.Writer] = {}
        for number, f_sr, trunk in entries(count, quick):
            for name, (encoding, compression, times) in CACHES.items():
                stored = cache.ENCODINGS[encoding].stored
                maps = f_sr if stored == "f_sr" else np.concatenate([trunk] * times, axis=1)
                if name not in writers:
                    manifest = cache.Manifest(
                        made_by={"teacher": str(facts["network"])},
                        entries=tuple(f"{i:04d}" for i in range(count)),
                        frames=f_sr.shape[0],
                        channels=maps.shape[1],
                        height=f_sr.shape[2],
                        width=f_sr.shape[3],
                        targets=("f_sr",),
                        encoding=encoding,
                        compression=compression,
                    )
                    weights = tail if stored == "trunk" else None
                    opened = cache.open_writer(folder / f"{name}.zarr", manifest, tail=weights)
                    writers[name] = stack.enter_context(opened)
                writers[name].write(f"{number:04d}", {stored: maps})
        for writer in writers.values():
            writer.finalise()
    return {name: folder / f"{name}.zarr" for name in CACHES}


def _assets() -> Path:
    return Path(str(files("stdpipe.assets")))
