"""The device's encoding: to the bit what the cache's own codecs make, and as strict."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from stdpipe import cache
from stdpipe.data.box import Box
from stdpipe.data.views import View, unorient
from stdpipe.features.encoding import encode, encoding_error, quantise, relative_rmse
from stdpipe.models.base import Features
from stdpipe.models.checkpoints import load_network

ENCODINGS = list(cache.ENCODINGS)

shapes = hnp.array_shapes(min_dims=4, max_dims=4, max_side=5)
values = hnp.arrays(np.float32, shapes, elements=st.floats(-(2.0**100), 2.0**100, width=32))


def same(ours: torch.Tensor, theirs: np.ndarray) -> bool:
    return ours.numpy().dtype == theirs.dtype and np.array_equal(ours.numpy(), theirs)


@settings(deadline=None)
@given(values)
def test_quantise_is_the_caches_to_the_bit(array):
    """Any values, subnormal ones and constant channels too; only a zero's sign may differ."""
    codes, scale = quantise(torch.from_numpy(array))
    theirs = cache.quantise(array)
    assert same(codes, theirs[0])
    assert same(scale, theirs[1])


@pytest.mark.parametrize("seed", range(5))
def test_quantise_at_size(seed):
    """Many values near the middle between two codes."""
    rng = np.random.default_rng(seed)
    array = (rng.integers(-500, 500, (2, 8, 32, 48)) / np.float32(2)).astype(np.float32)
    array[:, 3] = 0.25 * seed  # a constant channel
    array[:, 4] *= rng.standard_normal(array[:, 4].shape, dtype=np.float32)
    for ours, theirs in zip(quantise(torch.from_numpy(array)), cache.quantise(array), strict=True):
        assert same(ours, theirs)


def features(seed: int = 0, height: int = 24, width: int = 32) -> Features:
    rng = torch.Generator().manual_seed(seed)
    trunk = torch.randn(2, 8, height // 4, width // 4, generator=rng)
    f_sr = torch.randn(2, 64, height, width, generator=rng)
    f_lr = torch.randn(2, 6, height // 4, width // 4, generator=rng)
    return Features(f_lr, trunk, f_sr, torch.zeros(2, 3, height, width))


def manifest(encoding: str, view: View, targets=cache.TARGETS) -> cache.Manifest:
    channels = 8 if cache.ENCODINGS[encoding].stored == "trunk" else 64
    return cache.Manifest(
        made_by={},
        entries=(str(view),),
        frames=2,
        channels=channels,
        f_lr_channels=6 if "f_lr" in targets else 0,
        height=24,
        width=32,
        encoding=encoding,
        targets=targets,
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("view", [View("a", 0), View("a", 7), View("a", 7, Box(0, 0, 24, 32))])
def test_an_entry_is_what_the_writer_would_make_of_float32(encoding, view):
    """Upright again unless it is baked."""
    turned = view.orientation == 7 and not view.crop
    found = features(height=32, width=24) if turned else features()
    made = manifest(encoding, view)
    arrays = encode(found, view, made).arrays()
    assert arrays.keys() == made.arrays.keys()
    orientation = 7 if turned else 0
    maps = {**found._asdict(), "attention": found.f_sr.square().sum(1)}
    for name in made.given:
        upright = np.ascontiguousarray(unorient(maps[name], orientation).numpy())
        spec = made.arrays[name]
        assert arrays[name].shape == spec.shape[1:]
        assert arrays[name].flags.c_contiguous
        if spec.dtype == "uint8":
            assert np.array_equal(arrays[name], np.rint(upright.clip(0, 1) * 255))
        elif spec.dtype == "int8":
            codes, scale = cache.quantise(upright)
            assert np.array_equal(arrays[name], codes)
            assert np.array_equal(arrays[name + "_scale"], scale)
        else:
            assert np.array_equal(arrays[name], cache.encode(upright, spec.dtype))
            assert arrays[name].dtype == spec.dtype


def test_targets_choose(tmp_path):
    view = View("a", 0)
    entry = encode(features(), view, manifest("int8", view, ("attention",)))
    assert entry.tensors.keys() == {"attention"}


@pytest.mark.parametrize("of_f_lr", [False, True])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(encoding, bad, of_f_lr):
    found, view = features(), View("a", 0)
    stored = "f_lr" if of_f_lr else cache.ENCODINGS[encoding].stored
    getattr(found, stored)[1, 3, 2, 1] = bad
    with pytest.raises(ValueError, match=f"^{stored}: holds values that are not finite"):
        encode(found, view, manifest(encoding, view)).arrays()


@pytest.mark.parametrize(("value", "fits"), [(65519.0, True), (-65520.0, False), (1e9, False)])
def test_float16_overflow_is_refused(value, fits):
    """Where it begins, the largest value still rounds down to 65504."""
    found, view = features(), View("a", 0)
    found.trunk[0, 0, 0, 0] = value
    entry = encode(found, view, manifest("trunk-float16", view))
    if fits:
        assert np.isfinite(entry.arrays()["trunk"]).all()
    else:
        with pytest.raises(ValueError, match=r"trunk: its largest value .* overflows float16"):
            entry.arrays()


def test_attention_overflows_where_its_features_do_not():
    found, view = features(), View("a", 0)
    found.f_sr[0, :, 3, 4] = 40.0  # 64 squares of it are 102400
    with pytest.raises(ValueError, match=re.escape("attention: its largest value 102400")):
        encode(found, view, manifest("int8", view)).arrays()


def test_what_an_encoding_loses():
    """What the cache's own codecs lose; an encoding that cannot hold the values says so."""
    teacher, _ = load_network("edvr:num_feat=8,deformable_groups=2", "random:0")
    lr = torch.rand(2, 3, 8, 12)
    with torch.inference_mode():
        found = Features(*(x[0] for x in teacher.eval().features_clip(lr[None])))
    errors = {name: encoding_error(teacher, found, lr, name) for name in ENCODINGS}
    assert errors["float32"] == {"f_sr_rmse": 0.0, "sr_psnr": None, "attention_rmse": 0.0}
    whole = found.f_sr.numpy()
    back = {"float16": whole.astype(np.float16), "int8": cache.dequantise(*cache.quantise(whole))}
    for name, values in back.items():
        lost = np.sqrt(np.square(values - whole).mean() / np.square(whole).mean())
        assert errors[name]["f_sr_rmse"] == pytest.approx(lost, rel=1e-4)
        assert 0 < errors["trunk-" + name]["f_sr_rmse"] < 0.01
        assert errors["trunk-" + name]["sr_psnr"] > 50
    assert encoding_error(teacher, found, lr, "float32", ("f_lr",))["f_lr_rmse"] == 0.0
    codes = cache.dequantise(*cache.quantise(found.f_lr.numpy()))
    lost = relative_rmse(torch.from_numpy(codes), found.f_lr)
    f_lr_rmse = encoding_error(teacher, found, lr, "trunk-int8", cache.TARGETS)["f_lr_rmse"]
    assert f_lr_rmse == pytest.approx(lost, rel=1e-4)
    too_large = found._replace(f_sr=found.f_sr * 1e9)
    with pytest.raises(ValueError, match="f_sr: its largest value"):
        encoding_error(teacher, too_large, lr, "float16")


def test_relative_rmse():
    true = torch.tensor([3.0, 4.0])
    assert relative_rmse(true, true) == 0
    assert relative_rmse(1.1 * true, true) == pytest.approx(0.1)
