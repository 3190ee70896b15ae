"""Mean, spread and paired intervals, against values worked out by hand."""

import math

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from stdpipe.evaluation.results import columns
from stdpipe.grid.intervals import MOST, T95, mean_and_spread, paired

numbers = st.floats(-100, 100)


def test_spread_by_hand() -> None:
    """1, 2, 6: mean 3, deviations -2, -1, 3, their squares 14, over n - 1 = 2: 7."""
    assert mean_and_spread([1.0, 2.0, 6.0]) == {"n": 3, "mean": 3.0, "sd": math.sqrt(7)}
    assert mean_and_spread([5.0]) == {"n": 1, "mean": 5.0, "sd": None}


def test_paired_by_hand() -> None:
    """Differences 0.1, 0.2, 0.3: mean 0.2, sd 0.1; t of 2 degrees of freedom is 4.303."""
    found = paired({0: 1.1, 1: 2.2, 2: 3.3}, {0: 1.0, 1: 2.0, 2: 3.0})
    assert found
    half = 4.303 * 0.1 / math.sqrt(3)
    assert found["n"] == 3
    assert found["mean"] == pytest.approx(0.2)
    assert found["sd"] == pytest.approx(0.1)
    assert found["interval"] == pytest.approx([0.2 - half, 0.2 + half])


def test_pairs_are_made_by_seed_not_by_place() -> None:
    found = paired({3: 10.0, 1: 20.0, 7: 0.0}, {1: 19.0, 3: 8.0})
    assert found
    assert found["seeds"] == [3, 1]
    assert found["mean"] == 1.5
    assert paired({0: 1.0}, {1: 1.0}) is None
    one = paired({0: 1.5}, {0: 1.0})
    assert one
    assert (one["n"], one["mean"], one["interval"]) == (1, 0.5, None)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=MOST), numbers)
def test_what_both_have_in_common_cancels(values: list[tuple[float, float]], common: float) -> None:
    """A seed's luck, shared by both schemes, leaves differences as they are."""
    ours = {i: a for i, (a, _) in enumerate(values)}
    base = {i: b for i, (_, b) in enumerate(values)}
    plain = paired(ours, base)
    moved = paired({i: a + i * common for i, a in ours.items()},
                   {i: b + i * common for i, b in base.items()})  # fmt: skip
    assert plain
    assert moved
    assert moved["mean"] == pytest.approx(plain["mean"], abs=1e-9)
    assert moved["interval"] == pytest.approx(plain["interval"], abs=1e-6)
    low, high = plain["interval"]
    assert low <= plain["mean"] <= high


def test_the_quantiles_are_students() -> None:
    """By integrating the density: 95 % lies within each of them."""
    for freedom, quantile in enumerate(T95, start=1):
        scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
        scale /= math.sqrt(freedom * math.pi)
        n = 20_000
        step = quantile / n
        inside = sum(
            (1 + (step * (i + 0.5)) ** 2 / freedom) ** (-(freedom + 1) / 2) for i in range(n)
        )
        assert 2 * scale * step * inside == pytest.approx(0.95, abs=1e-4), freedom


def test_columns_of_a_result() -> None:
    figures = {"psnr_y": 1.0}
    result = {
        "clips": {"walk": figures},
        "lists": {"fast": figures, "unlisted": ["x"]},
        "average": figures,
    }
    assert list(columns(result)) == ["walk", "fast", "average"]
    many = {str(i): figures for i in range(101)}
    assert list(columns({**result, "clips": many})) == ["fast", "average"]
