"""What a trunk promises, for the published sizes of EDVR: through the cached tail, a crop of it
becomes that crop of the whole f_sr.

The trunk is random: what the tail makes of it is all that matters here, and it is fast.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from stdpipe import cache
from stdpipe.data.box import Box
from stdpipe.data.views import NUM_ORIENTATIONS, View, oriented_size, unorient
from stdpipe.features.targets import CachedTargets, Decoder
from stdpipe.features.teacher import tail_of
from stdpipe.models import zoo
from stdpipe.models.base import Network

HEIGHT, WIDTH, FRAMES = 24, 32, 2  # of LR
VIEWS = [View("a", orientation) for orientation in range(NUM_ORIENTATIONS)]


def trunk(channels: int, view: View) -> Tensor:
    """As the teacher would have it: oriented, (T, C, h, w)."""
    generator = torch.Generator().manual_seed(view.orientation)
    size = oriented_size(HEIGHT, WIDTH, view.orientation)
    return torch.randn(FRAMES, channels, *size, generator=generator)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Network]]:
    """made(network): a cache of trunks in all orientations, and the teacher; made once."""
    done: dict[str, tuple[Path, Network]] = {}

    def make(name: str) -> tuple[Path, Network]:
        if name not in done:
            torch.manual_seed(0)
            spec = zoo.parse(name)
            teacher = spec.build().eval()
            path = tmp_path_factory.mktemp(name) / "cache.zarr"
            _write(path, str(spec), teacher)
            done[name] = path, teacher
        return done[name]

    return make


def _write(path: Path, network: str, teacher: Network) -> None:
    channels = teacher.get_submodule("upconv1").in_channels
    manifest = cache.Manifest(
        made_by={"teacher": network},
        entries=tuple(map(str, VIEWS)),
        frames=FRAMES,
        channels=channels,
        height=4 * HEIGHT,
        width=4 * WIDTH,
        encoding="trunk-float32",
        targets=("f_sr",),
    )
    with cache.open_writer(path, manifest, tail=tail_of(teacher)) as writer:
        for view in VIEWS:
            upright = unorient(trunk(channels, view), view.orientation).contiguous().numpy()
            writer.write(str(view), {"trunk": upright}, {"source_crc32": 0})
        writer.finalise()


def crops(height: int, width: int) -> st.SearchStrategy[Box]:
    """Any window on the x4 grid of (height, width) LR pixels, in HR pixels."""

    def span(side: int) -> st.SearchStrategy[tuple[int, int]]:
        pairs = st.tuples(st.integers(0, side - 1), st.integers(1, side))
        return pairs.map(lambda pair: (pair[0], min(pair[1], side - pair[0])))

    return st.builds(
        lambda y, x: Box(4 * y[0], 4 * x[0], 4 * y[1], 4 * x[1]), span(height), span(width)
    )


@pytest.mark.parametrize("name", ["edvr-m", pytest.param("edvr-l", marks=pytest.mark.slow)])
@settings(max_examples=15, deadline=None)
@given(draw=st.data())
def test_any_crop_in_any_orientation(
    name: str, draw: st.DataObject, made: Callable[[str], tuple[Path, Network]]
) -> None:
    """To 1e-5 of the largest value. Not shown: that other teachers' halos are wide enough."""
    path, teacher = made(name)
    view = draw.draw(st.sampled_from(VIEWS))
    box = draw.draw(crops(*oriented_size(HEIGHT, WIDTH, view.orientation)))
    reader = cache.open_reader(path)
    with torch.no_grad():
        whole = teacher.upsample(trunk(reader.manifest.channels, view))
    decode = Decoder(reader, torch.device("cpu"))
    read = CachedTargets(reader, ("f_sr",), decode.halo)(view, box, 0)
    hr = torch.zeros(1, FRAMES, 3, box.height, box.width)
    found = decode({**{key: one[None] for key, one in read.items()}, "hr": hr})["f_sr"][0]
    wanted = whole[..., box.y : box.y + box.height, box.x : box.x + box.width]
    assert (found - wanted).abs().max() <= 1e-5 * whole.abs().max()
