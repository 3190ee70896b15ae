"""The chunk rule, file names and paths of the written format."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdpipe.cache.errors import CacheError
from stdpipe.cache.layout import array_specs, chunk_side, local_path, shard_file


def specs(encoding="float16", height=256, width=448):
    found = array_specs(("f_sr", "attention"), encoding, 5, 7, 64, height, width)
    return {spec.name: spec for spec in found}


def spec(name="f_sr", height=256, width=448):
    return specs("float16", height, width)[name]


def test_vimeo_is_one_clip_a_shard_and_seven_strips_a_frame():
    found = spec()
    assert found.shape == (5, 7, 64, 256, 448)
    assert found.shard == (1, 7, 64, 256, 448)
    assert found.inner == (1, 1, 64, 256, 64)


@pytest.mark.parametrize(
    ("height", "width", "inner", "shard"),
    [
        (252, 436, (252, 64), (252, 448)),
        (576, 704, (192, 64), (576, 704)),
        (288, 72, (144, 36), (288, 72)),
        (5, 7, (5, 7), (5, 7)),
    ],
)
def test_any_size_has_whole_chunks(height, width, inner, shard):
    found = spec("attention", height, width)
    assert found.inner == (1, 1, *inner)
    assert found.shard == (1, 7, *shard)


@given(st.integers(1, 4000), st.sampled_from([64, 256]))
def test_chunk_side_is_bounded_and_wastes_little(size, limit):
    side = chunk_side(size, limit)
    pieces = -(-size // side)
    assert 1 <= side <= min(size, limit)
    assert pieces <= -(-size // limit)
    assert pieces * side - size < 4 * pieces


def test_a_trunk_lies_at_lr_size_and_int8_brings_its_scale():
    found = specs("trunk-int8")
    assert list(found) == ["trunk", "trunk_scale", "attention"]
    assert found["trunk"].shape == (5, 7, 64, 64, 112)
    assert found["trunk"].inner == (1, 1, 64, 64, 56)
    assert found["trunk_scale"].shape == (5, 2, 64)
    assert [s.dtype for s in found.values()] == ["int8", "float32", "float16"]


def test_a_shard_is_one_file_of_its_arrays_folder():
    assert shard_file(Path("x"), spec(), 12) == Path("x/f_sr/c.12.0.0.0.0")
    assert shard_file(Path("x"), spec("attention"), 0) == Path("x/attention/c.0.0.0.0")


def test_paths():
    assert local_path("a/b") == Path("a/b")
    assert local_path("file:///a/b") == Path("/a/b")
    for url in ("s3://bucket/cache.zarr", "http://host/x", "file://host/x"):
        with pytest.raises(CacheError, match=r"only local paths and file:///... work"):
            local_path(url)
