"""What --data names: options after a colon, a split of sources, what is left out."""

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from stdpipe.cache.errors import UserError
from stdpipe.data import named

KEYS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(
    lambda key: str(Path(f"x{key}")) == f"x{key}"  # as keys are: no // and no / at the end
)


@given(keys=st.lists(KEYS, max_size=4, unique=True), test=st.sampled_from([0.0, 0.25]))
def test_any_key_can_be_left_out(keys: list[str], test: float) -> None:
    """Whatever stands in it: commas, colons, equals signs."""
    data = Path("some where/videos" + (":test=0.25" if test else ""))
    found = named.parse(named.without(data, keys))
    assert (found.root, found.test) == (Path("some where/videos"), test)
    assert list(found.exclude) == keys


def test_a_place_whose_name_looks_like_options(tmp_path: Path) -> None:
    """What exists under the whole name is meant."""
    odd = tmp_path / "a:test=0.5"
    odd.mkdir()
    assert named.parse(odd) == named.DataName(odd)
    assert named.parse(tmp_path / "b:c") == named.DataName(tmp_path / "b:c")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("tset=0.2", "did you mean 'test'"),
        ("test=1", "from 0 to below 1"),
        ("test=nan", "from 0 to below 1"),
        ("test=few", "a share such as 0.2"),
        ("test=0.2,seed=x", "whole number"),
        ("test=0.2,test=0.3", "twice"),
        ("pad=-4", "a side in HR pixels"),
        ("pad=12345", "9999 at most"),
        ("repeat=2", "repeat is 1 or 0"),
    ],
)
def test_bad_options(options: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        named.parse(Path(f"videos:{options}"))


@given(
    count=st.integers(2, 40),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
)
def test_a_share_of_sources(count: int, share: float, seed: int) -> None:
    """That many, at least one and never all, whatever their order; another seed draws others."""
    sources = [f"source {n}" for n in range(count)]
    name = named.DataName(Path(), share, seed)
    held = named.tested(sources, name)
    assert len(held) == min(max(1, round(share * count)), count - 1)
    assert held == named.tested(reversed(sources), name)
    assert held < set(sources)


def test_seeds_differ() -> None:
    sources = [f"{n}" for n in range(20)]
    drawn = {
        frozenset(named.tested(sources, named.DataName(Path(), 0.2, seed))) for seed in range(9)
    }
    assert len(drawn) == 9


def test_one_source_cannot_be_split() -> None:
    with pytest.raises(UserError, match="has 1 source"):
        named.tested(["a"], named.DataName(Path("v"), 0.5))


def test_many_are_left_out() -> None:
    """More than a file's name may be long."""
    keys = [f"00001/{number:04d}" for number in range(200)]
    data = named.without(Path("data"), keys)
    assert named.parse(data).exclude == tuple(keys)
    assert named.parse(named.with_option(data, "test=0.2")).test == 0.2
