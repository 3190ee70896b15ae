"""What requests a crop costs: what a store charges for, and what a far one is waited for."""

from bisect import bisect_right

import numpy as np
import pytest
from hypothesis import given, strategies as st

from stdpipe.cache import (
    Manifest,
    objects,
    open_reader,
    open_writer,
)


def made(url, encoding, tail=None):
    """Two entries of seven 256 x 448 frames; 4 channels, not 64: the same chunks, but smaller."""
    manifest = Manifest(
        made_by={}, entries=("a", "b"), frames=7, channels=4, height=256, width=448,
        encoding=encoding,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    with open_writer(url, manifest, tail=tail) as writer:
        for key in manifest.entries:
            writer.write(
                key,
                {
                    name: rng.standard_normal(manifest.arrays[name].shape[1:], dtype=np.float32)
                    for name in manifest.given
                },
            )
        writer.finalise()
    return open_reader(url)


def gets(proxy, use):
    """(requests, bytes) that `use` makes and gets."""
    before = len(proxy.requests)
    use()
    new = proxy.requests[before:]
    assert {request.method for request in new} <= {"GET"}
    return len(new), sum(request.sent for request in new)


CHUNK = 4 * 256 * 112 + 4


@pytest.mark.parametrize(("x", "chunks"), [(0, 3), (60, 3), (100, 4)])
def test_requests_of_a_256_pixel_crop_of_int8(s3, proxy, x, chunks, monkeypatch):
    """One for the index, then one a frame, or fewer where whole rows of chunks are wanted."""
    monkeypatch.setattr(objects, "GAP_BYTES", objects.GAP_BYTES // 16)  # 4 channels for 64
    monkeypatch.setattr(objects, "REQUEST_BYTES", objects.REQUEST_BYTES // 16)
    reader = made(s3, "int8")
    index = 7 * 4 * (16 + 4) + 4
    later = (7 if chunks == 3 else 4, 7 * chunks * CHUNK)
    read = lambda: reader.read("a", "f_sr", x=x, w=256)  # noqa: E731
    assert gets(proxy, read) == (1 + later[0], index + later[1])
    assert gets(proxy, read) == later
    scale = lambda: reader.scale("a", "f_sr")  # noqa: E731
    assert gets(proxy, scale) == (1, 2 * 4 * 4 + 4)


def test_requests_of_a_trunk_and_of_attention(s3, proxy):
    """A 64 pixel trunk crop with its halo of two; a trunk's frame is one chunk."""
    reader = made(s3, "trunk-int8", {"x": np.ones(3, np.float32)})
    trunk = lambda: reader.read("a", "trunk", x=20, w=68)  # noqa: E731
    chunks = 7 * (4 * 64 * 112 + 4)
    assert gets(proxy, trunk) == (2, chunks + 7 * (16 + 4) + 4)
    assert gets(proxy, trunk) == (1, chunks)
    attention = lambda: reader.read("a", "attention", x=60, w=256)  # noqa: E731
    strip = 2 * 256 * 112 + 4
    first, later = gets(proxy, attention), gets(proxy, attention)
    assert first == (2, later[1] + 7 * 4 * (16 + 4) + 4)
    assert later == (1, (7 * 4 - 1) * strip)  # the fourth strip is cheaper to read than to leave


spans = st.tuples(st.integers(0, 90), st.integers(1, 9)).map(lambda span: (span[0], sum(span)))


@given(st.lists(spans, min_size=1), st.integers(0, 20), st.integers(1, 40))
def test_requests_cover_the_spans_and_little_more(wanted, gap, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "GAP_BYTES", gap)
        patch.setattr(objects, "REQUEST_BYTES", most)
        requests = objects.merged(wanted)
    assert requests == sorted(requests)
    for start, stop in wanted:
        assert any(first <= start and stop <= last for first, last in requests)
        found = requests[bisect_right([first for first, _ in requests], start) - 1]
        assert found[0] <= start
        assert stop <= found[1]
    for first, last in requests:
        assert last - first <= max(most, 9)
        bytes_asked = {b for start, stop in wanted for b in range(start, stop)}
        idle = [b for b in range(first, last) if b not in bytes_asked]
        assert len(idle) <= gap * len(wanted)


def test_opening_a_reader_asks_for_each_journal_file_once(s3, proxy, manifest, arrays):
    with open_writer(s3, manifest) as writer:
        for key in manifest.entries:
            writer.write(key, arrays(manifest, key))
        writer.finalise()
    proxy.requests.clear()
    open_reader(s3)
    paths = sorted(request.path.partition("?")[0] for request in proxy.of("GET"))
    asked = [path.rpartition("/c.zarr/")[2] for path in paths if "/c.zarr/" in path]
    assert asked == [
        "complete.json",
        "journal/0.000000.jsonl",
        "journal/manifest.json",
        "manifest.json",
    ]
