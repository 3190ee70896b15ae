"""Causal networks: steps against whole clips, sizes, gradients, files, published weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from stdpipe.models import zoo
from stdpipe.models.base import count_parameters
from stdpipe.models.causal import CausalNetwork
from stdpipe.models.checkpoints import load_network, save_network
from stdpipe.models.macs import count_macs
from stdpipe.models.running import ClipRunner, frames_around

NETWORKS = (
    "rlsp:num_feat=8",
    "rlsp:num_feat=8,published=true,phase=0",
    "rlsp:num_feat=8,head=f_sr",
    "rrn-8",
    "rrn-8:head=f_sr,f_sr_channels=6",
    "swrn:num_feat=8",
    "swrn:num_feat=8,head=f_sr",
    "rrn-8:wide=2",
    "rrn-8:num_ahead=2",
    "rlsp:num_feat=8,contract=true",
)


def build(name: str) -> CausalNetwork:
    torch.manual_seed(0)
    net = zoo.parse(name).build()
    assert isinstance(net, CausalNetwork)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net.eval()


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch", [1, 2])
def test_steps_are_the_clip(name: str, batch: int) -> None:
    """At any size; a runner that is given a few frames at a time makes the same images."""
    net, clip = build(name), noise(batch, 6, 3, 7, 10)
    with torch.no_grad():
        whole = net.features_clip(clip)
        state = net.begin(clip[:, 0])
        for t in range(6):
            features, state = net.step(net.around(clip, t), state)
            assert torch.equal(features.sr, whole.sr[:, t])
        some = net.features_clip(clip, [1, 4])
        assert torch.equal(some.sr, whole.sr[:, [1, 4]])
    assert whole.sr.shape == (batch, 6, 3, 28, 40)
    assert whole.f_sr.shape == (batch, 6, net.f_sr_channels, 28, 40)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(NETWORKS), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_runner_goes_on_where_it_stopped(name: str, lengths: list[int]) -> None:
    net, count = build(name), sum(lengths)
    clip, runner, k = noise(1, count, 3, 5, 6), ClipRunner(net), frames_around(net)
    found, at = [], 0
    with torch.no_grad():
        for length in lengths:
            first, stop = max(at - k, 0), at + length
            lr = clip[:, first : min(stop + k, count)]
            found.append(runner.sr(lr, first, range(at, stop)))
            at = stop
        assert torch.equal(torch.cat(found, 1), net.features_clip(clip).sr)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_every_parameter(name: str) -> None:
    net = build(name)
    net.features_clip(noise(1, 3, 3, 6, 6)).sr.square().mean().backward()
    assert not [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("name", NETWORKS)
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    net = build(name)
    save_network(tmp_path / "w.pt", net, str(zoo.parse(name)), "bd")
    again, facts = load_network(None, str(tmp_path / "w.pt"))
    clip = noise(1, 3, 3, 6, 6)
    with torch.no_grad():
        assert torch.equal(again.eval().features_clip(clip).sr, net.features_clip(clip).sr)
    assert zoo.parse(facts["network"]) == zoo.parse(name)


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [  # of the repositories; multiply-accumulates of 3x3 kernels by hand
        ("rlsp:published=true", 163_216, 3.518e9),
        ("rlsp-64:published=true", 282_128, 6.084e9),
        ("rrn", 35_664, 0.765e9),
        ("rrn-32", 126_576, 2.725e9),
        ("swrn", 43_472, 0.933e9),
    ],
)
def test_published_counts(name: str, parameters: int, macs: float) -> None:
    net: Any = zoo.parse(name).build()
    assert count_parameters(net) == parameters
    assert count_macs(net).total == pytest.approx(macs, rel=1e-3)
    kernels = sum(p.numel() for p in net.parameters() if p.ndim == 4)
    assert count_macs(net, 10, 12).total == kernels * 120


@pytest.mark.parametrize(
    ("file", "name"),
    [("rlsp48", "rlsp:published=true,phase=0"), ("mobile_rrn16", "rrn:published=true")],
)
def test_published_weights_make_their_golden_frames(
    published: Callable[[str], Path], file: str, name: str
) -> None:
    """On every frame and in the last state, within 0.005 of 255."""
    weights, golden = published(f"{file}.npz"), np.load(published(f"{file}-golden.npz"))
    net, _ = load_network(name, str(weights))
    assert isinstance(net, CausalNetwork)
    clip = torch.from_numpy(golden["input"]).permute(0, 3, 1, 2)[None] / 255
    state = net.begin(clip[:, 0])
    for t in range(clip.shape[1]):
        with torch.no_grad():
            features, state = net.step(net.around(clip, t), state)
        if name.startswith("rrn"):
            made, wanted = features.sr[0], golden["output_unclipped"][t]
        else:  # its own luma, shuffled into the state
            made, wanted = torch.pixel_shuffle(state[1], 4)[0], golden["output"][t]
        assert np.abs(made.permute(1, 2, 0).numpy() * 255 - wanted).max() < 0.005
    last = state[0][0].permute(1, 2, 0).numpy() * 255
    assert np.abs(last - golden["state_last"]).max() < 0.005


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "name", "degradation", "score"),
    [
        ("rlsp48", "rlsp:published=true,phase=0", "bd:sigma=1.5", 26.373),
        ("mobile_rrn16", "rrn:published=true", "bi", 24.975),
    ],
)
def test_published_weights_have_their_score_on_vid4(
    vid4: Path,
    stdpipe: Any,
    published: Callable[[str], Path],
    file: str,
    name: str,
    degradation: str,
    score: float,
) -> None:
    """As their authors' graphs were measured to have; its fast sibling is the one above."""
    found = stdpipe("evaluate", "--data", vid4, "--model", name, "--degradation", degradation,
                    "--weights", published(f"{file}.npz"), "--protocol", "vid4",
                    "--metrics", "quality", "--json")  # fmt: skip
    assert json.loads(found.stdout)["average"]["psnr_y"] == pytest.approx(score, abs=0.02)
