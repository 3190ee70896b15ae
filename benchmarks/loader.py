"""How many training samples a second does a core read from a packed file, against PNG files in
folders, and against PNGs in an LMDB as BasicSR keeps them? And how many crops of `sr`, a teacher's
image in the cache, which a student reads beside them?

python benchmarks/loader.py [--data DIR] [--quick] [--json]     needs lmdb; takes cv2 if it is there
A sample is what a worker hands to a CUDA device: a clip read, a random window of every frame cut
with its margin, flipped or turned, uint8. One thread, one process, all files in the page cache. A
ratio above 1 means that what is named first is faster. --quick takes two clips once, and leaves
LMDB out where it is not installed: only to see that all of it runs.
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timing import medians, report

from stdpipe.cache import Manifest, open_reader, open_writer
from stdpipe.data.degrade import margin
from stdpipe.data.frames import Clip, read_clip
from stdpipe.data.layouts import find_clips
from stdpipe.data.packing import pack_clips
from stdpipe.data.samples import cut_view, view_size
from stdpipe.data.views import View, draw_box, full_views, generator, oriented_size
from stdpipe.features.targets import CachedTargets

Read = Callable[[Clip], Any]
FRAMES = 7


def sample(pixels: Any, view: View, patch: int) -> torch.Tensor:
    """(T, H, W, 3) uint8 -> what crosses to the device."""
    hr = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    box = draw_box(generator(0, "crop", str(view)), patch, *view_size(hr, view))
    return cut_view(hr, view, box, "bd")


def samples(clips: Sequence[Clip], read: Read, patch: int) -> list[torch.Tensor]:
    views = full_views([clip.key for clip in clips], 0, 1)
    return [sample(read(c), v, patch) for c, v in zip(clips, views, strict=True)]


def image_reader(clips: Sequence[Clip], folder: Path) -> CachedTargets:
    """A cache of `sr` that holds the clips' own frames: any image of their size reads alike."""
    views = full_views([clip.key for clip in clips], 0, 1)
    height, width = read_clip(clips[0]).shape[1:3]
    sizes = {"frames": FRAMES, "channels": 1, "height": height, "width": width}
    manifest = Manifest(made_by={}, entries=tuple(map(str, views)), targets=("sr",), **sizes)
    with open_writer(folder, manifest) as writer:
        for view, clip in zip(views, clips, strict=True):
            sr = np.ascontiguousarray(read_clip(clip).transpose(0, 3, 1, 2))
            writer.write(str(view), {"sr": sr}, {"source_crc32": 0})
        writer.finalise()
    return CachedTargets(open_reader(folder), ("sr",))


def images(read: CachedTargets, patch: int) -> list[torch.Tensor]:
    """The same windows as those of `samples`, without a margin."""
    found = []
    made = read.reader.manifest
    for view in map(View.parse, made.entries):
        size = oriented_size(*made.size(str(view)), view.orientation)
        box = draw_box(generator(0, "crop", str(view)), patch, *size)
        found.append(read(view, box, 0)["sr"])
    return found


def write_lmdb(clips: Sequence[Clip], folder: Path) -> None:
    """As BasicSR's make_lmdb_from_imgs does: PNG of compression level 1 under "00001/0001/im1"."""
    import lmdb

    raw = sum(read_clip(clip).nbytes for clip in clips)
    with lmdb.open(str(folder), map_size=2 * raw + 2**20) as env, env.begin(write=True) as store:
        for clip in clips:
            for number, frame in enumerate(read_clip(clip), start=1):
                png = io.BytesIO()
                Image.fromarray(frame).save(png, "png", compress_level=1)
                store.put(f"{clip.key}/im{number}".encode(), png.getvalue())


def lmdb_reader(folder: Path) -> Read:
    """Opened and read as BasicSR's LmdbBackend does."""
    import lmdb

    env = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False)

    def read(clip: Clip) -> Any:
        with env.begin(write=False) as store:
            numbers = range(1, len(clip.frames) + 1)
            return np.stack([decode(store.get(f"{clip.key}/im{n}".encode())) for n in numbers])

    return read


def decode(png: bytes) -> Any:
    """(H, W, 3) RGB."""
    if not find_spec("cv2"):
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    import cv2

    cv2.setNumThreads(1)
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(str(files("stdpipe.assets") / "sample")))
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--patch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.clips, arguments.repeats = 2, 1
    with_lmdb = find_spec("lmdb") is not None
    if not with_lmdb and not arguments.quick:
        sys.exit("benchmarks/loader.py compares with LMDB: pip install lmdb opencv-python-headless")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        seconds, settings = measure(Path(folder), arguments, with_lmdb)
    names = [name for name in seconds if name not in ("packed", "sr")]
    ratios = {f"packed_over_{name}": seconds[name] / seconds["packed"] for name in names}
    ratios |= {f"sr_over_{name}": seconds[name] / seconds["sr"] for name in ("packed", *names)}
    report("loader", settings, ratios, arguments.json)


def measure(folder: Path, arguments: Any, with_lmdb: bool) -> tuple[dict[str, float], Any]:
    """Median seconds of one pass over the clips, for each way they are kept."""
    packed = folder / "clips.h5"
    pack_clips(arguments.data, packed, "train")
    png_clips, packed_clips = (
        find_clips(data, "train", FRAMES)[: arguments.clips] for data in (arguments.data, packed)
    )
    passes: dict[str, tuple[Sequence[Clip], Read]] = {
        "packed": (packed_clips, read_clip),
        "png": (png_clips, read_clip),
    }
    if with_lmdb:
        write_lmdb(png_clips, folder / "clips.lmdb")
        passes["lmdb"] = (png_clips, lmdb_reader(folder / "clips.lmdb"))
    baselines = {
        name: lambda clips=clips, read=read: samples(clips, read, arguments.patch)
        for name, (clips, read) in passes.items()
    }
    expected = baselines["packed"]()
    for name, run in baselines.items():
        assert all(map(torch.equal, run(), expected)), f"{name} gives other samples"
    read = image_reader(packed_clips, folder / "sr.zarr")
    baselines["sr"] = lambda: images(read, arguments.patch)
    before, _ = margin("bd")
    for found, sample in zip(baselines["sr"](), expected, strict=True):
        inside = (..., slice(before, before + arguments.patch))
        assert torch.equal(found, sample[inside].mT[inside].mT), "sr gives other samples"
    seconds = medians(baselines, arguments.repeats)
    height, width = read_clip(packed_clips[0]).shape[1:3]
    return seconds, {
        "clips": len(packed_clips),
        "frames": FRAMES,
        "size": [height, width],
        "patch": arguments.patch,
        "repeats": arguments.repeats,
        "threads": 1,
        "png decoder": "pillow",
        "lmdb decoder": ("cv2" if find_spec("cv2") else "pillow") if with_lmdb else None,
        "clips_per_second": {name: len(packed_clips) / s for name, s in seconds.items()},
    }


if __name__ == "__main__":
    main()
