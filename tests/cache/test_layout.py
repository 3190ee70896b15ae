"""The chunk rule and the file names of the written format."""

import pytest
from hypothesis import given, strategies as st

from stdpipe.cache.layout import array_specs, chunk_side


def specs(encoding="float16", height=256, width=448):
    found = array_specs(("f_sr", "attention"), encoding, 5, 7, 64, height, width)
    return {spec.name: spec for spec in found}


def spec(name="f_sr", height=256, width=448):
    return specs("float16", height, width)[name]


def test_vimeo_is_one_clip_a_shard_and_four_strips_a_frame():
    found = spec()
    assert found.shape == (5, 7, 64, 256, 448)
    assert found.shard == (1, 7, 64, 256, 448)
    assert found.inner == (1, 1, 64, 256, 112)


@pytest.mark.parametrize(
    ("height", "width", "inner", "shard"),
    [
        (252, 436, (252, 112), (252, 448)),
        (576, 704, (192, 120), (576, 720)),
        (288, 132, (144, 68), (288, 136)),
        (5, 7, (5, 7), (5, 7)),
    ],
)
def test_any_size_has_whole_chunks(height, width, inner, shard):
    found = spec("attention", height, width)
    assert found.inner == (1, 1, *inner)
    assert found.shard == (1, 7, *shard)


@given(st.integers(1, 4000), st.sampled_from([128, 256]))
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
    assert found["trunk"].inner == (1, 1, 64, 64, 112)
    assert found["trunk_scale"].shape == (5, 2, 64)
    assert [s.dtype for s in found.values()] == ["int8", "float32", "float16"]


def test_an_entry_is_one_file_of_its_arrays_folder():
    assert spec().file(12) == "f_sr/c.12.0.0.0.0"
    assert spec("attention").file(0) == "attention/c.0.0.0.0"
    assert specs("int8")["f_sr_scale"].file(7) == "f_sr_scale/c.7.0.0"


def test_only_a_scale_is_no_shard():
    for encoding in ("int8", "trunk-int8", "float32"):
        for name, found in specs(encoding).items():
            assert found.is_sharded == (not name.endswith("_scale"))


def test_a_small_frame_is_a_shard_of_one_chunk_a_frame():
    assert spec(height=20, width=72).inner == (1, 1, 64, 20, 72)
    assert spec(height=20, width=72).is_sharded
