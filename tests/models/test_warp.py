"""Warping, the flow network's size, and that every pair of frames is seen once and in its place."""

import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from stdpipe.models import zoo
from stdpipe.models.base import count_parameters, window_indices
from stdpipe.models.warp import REACH, CoarseToFineFlow, over_pairs, warp


def uniform(x: float, y: float, height: int, width: int) -> Tensor:
    return torch.tensor([x, y]).reshape(1, 2, 1, 1).expand(1, 2, height, width)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 7), st.integers(-8, 8), st.integers(-8, 8))
def test_whole_pixels_are_copied(height: int, width: int, x: int, y: int) -> None:
    """A flow of whole pixels picks pixels, x first; beyond the ends, the edge's."""
    image = torch.rand(1, 2, height, width)
    rows = (torch.arange(height) + y).clamp(0, height - 1)
    columns = (torch.arange(width) + x).clamp(0, width - 1)
    warped = warp(image, uniform(x, y, height, width))
    torch.testing.assert_close(warped, image[:, :, rows][..., columns], rtol=1e-4, atol=1e-5)


def test_between_pixels_it_is_bilinear() -> None:
    """On a ramp a fraction of a pixel is that fraction of its slope."""
    ramp = torch.arange(8.0) + 10 * torch.arange(6.0)[:, None]
    warped = warp(ramp[None, None], uniform(0.25, -0.5, 6, 8))
    torch.testing.assert_close(warped[0, 0, 1:, :-1], (ramp + 0.25 - 5)[1:, :-1])


def test_half_precision_flow_stays_precise() -> None:
    """Under autocast a flow comes in bfloat16, in which 257 pixels cannot be counted."""
    image = torch.rand(1, 1, 1, 600)
    flow = torch.zeros(1, 2, 1, 600, dtype=torch.bfloat16)
    torch.testing.assert_close(warp(image, flow), image, rtol=0, atol=1e-4)


def test_the_flow_network_is_vespcns() -> None:
    """5x5, 3x3, 5x5, 3x3, 3x3 to 2 * 16 channels; 5x5, three 3x3, 3x3 to 2 * 4: by hand, with
    biases, for one channel."""
    coarse = [(2, 24, 25), (24, 24, 9), (24, 24, 25), (24, 24, 9), (24, 32, 9)]
    fine = [(5, 24, 25), (24, 24, 9), (24, 24, 9), (24, 24, 9), (24, 8, 9)]
    by_hand = sum(i * o * taps + o for i, o, taps in (*coarse, *fine))
    assert count_parameters(CoarseToFineFlow(1)) == by_hand == 53_392


def test_flow_starts_near_zero_and_stays_within_reach() -> None:
    net = CoarseToFineFlow(3)
    frames = torch.rand(2, 1, 3, 12, 16)
    assert net(*frames).shape == (1, 2, 12, 16)
    assert net(*frames).abs().max() < 1
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1000)
    assert net(*frames).abs().max() <= 2 * REACH


def test_pairs_are_seen_once_and_put_in_their_places() -> None:
    seen = []

    def tell(neighbour: Tensor, centre: Tensor) -> Tensor:
        pairs = torch.stack((neighbour.flatten(1)[:, 0], centre.flatten(1)[:, 0]), 1)
        seen.extend(tuple(pair) for pair in pairs.tolist())
        return pairs

    clip = torch.arange(8.0).reshape(2, 4, 1, 1, 1)  # two clips: 0 to 3 and 4 to 7
    windows = window_indices(4, 5, range(4))
    out = over_pairs(tell, clip, windows)
    assert len(seen) == len(set(seen))
    for n, (a, b, centre, c, d) in enumerate(windows):
        expected = [[i, centre] for i in (a, b, c, d)]
        assert out[0, n].tolist() == expected
        assert out[1, n].tolist() == [[i + 4, t + 4] for i, t in expected]


def test_half_precision_goes_in_and_out() -> None:
    """Positions are computed in float32; a network in half precision, as it is exported, runs."""
    x, flow = torch.rand(1, 3, 8, 8), torch.rand(1, 2, 8, 8)
    found = warp(x.half(), flow.half())
    assert found.dtype == torch.half
    assert torch.allclose(found.float(), warp(x, flow), atol=5e-3)
    net = zoo.parse("vespcn").build().eval()
    clip = torch.rand(1, 3, 3, 8, 8)
    made, half = net.forward_clip(clip), net.half().forward_clip(clip.half())
    assert torch.allclose(half.float(), made, atol=1e-2)
