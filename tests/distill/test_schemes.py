"""Schemes as text: what they stand for, and what they need of a teacher."""

import re
import subprocess
import sys

import pytest

from stdpipe.distill.names import SCHEMES
from stdpipe.distill.schemes import needs, parse_scheme, stored
from stdpipe.distill.terms import TERMS


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("none", {}),
        ("std", {"sd": 2.0, "td": 30.0}),
        ("std-lr", {"sd-lr": 2.0, "td-lr": 30.0}),
        ("sd=1,td=100", {"sd": 1.0, "td": 100.0}),
        ("td , sd = 1e-3", {"sd": 1e-3, "td": 30.0}),
        ("std,output=0.5", {"sd": 2.0, "td": 30.0, "output": 0.5}),
        ("sd=0", {}),
        ("none,kd-mse", {"kd-mse": 1.0}),
        ("fakd", {"affinity": 0.078, "output": 1.0}),
        ("pisr", {"pisr": 1e-6}),
    ],
)
def test_what_a_scheme_stands_for(text: str, terms: dict[str, float]) -> None:
    """Terms come in one order, whatever the text's: a sum's last bit depends on it."""
    found = parse_scheme(text, lambda1=2.0, lambda2=30.0)
    assert found == terms
    assert list(found) == [name for name in TERMS if name in found]


def test_the_papers_weights() -> None:
    """Section 4.1: lambda1 = 1, lambda2 = 100, also as the table has them."""
    for scheme in ("std", "std-lr"):
        assert list(parse_scheme(scheme).values()) == [1.0, 100.0]
        assert [TERMS[name].weight for name in SCHEMES[scheme]] == [1.0, 100.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("srd", "scheme 'srd' is unknown; did you mean 'sd'?"),
        ("sd,ouput=2", "scheme 'ouput' is unknown; did you mean 'output'?"),
        ("", "scheme '' is unknown"),
        ("sd,", "scheme '' is unknown"),
        ("std=2", "scheme 'std' stands for sd, td; give weights to terms, not to it"),
        ("none=1", "scheme 'none' stands for no terms; give weights"),
        ("std,sd=2", "scheme 'std,sd=2' names sd twice; name it once"),
        ("sd=x", "the weight of sd should be a number of zero or more, got 'x'"),
        ("sd=", "the weight of sd should be a number of zero or more, got ''"),
        ("td=-1", "the weight of td should be a number of zero or more, got '-1'"),
        ("td=inf", "the weight of td should be a number of zero or more, got 'inf'"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parse_scheme(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "attention", "seen", "read"),
    [
        ("none", "sum2", set(), set()),
        ("sd", "sum2", {"attention"}, {"attention"}),
        ("sd", "max2", {"f_sr"}, {"f_sr"}),
        ("std", "sum2", {"f_sr"}, {"f_sr"}),
        ("sd,output", "sum2", {"f_sr", "sr"}, {"f_sr"}),
        ("output", "sum", {"sr"}, {"f_sr"}),
        ("sd,affinity", "sum2", {"attention", "f_lr"}, {"attention", "f_lr"}),
        ("std-lr,td", "sum2", {"f_lr", "f_sr"}, {"f_lr", "f_sr"}),
    ],
)
def test_needs(text: str, attention: str, seen: set[str], read: set[str]) -> None:
    """No f_sr is read for attention maps alone; where it is read, or a teacher runs, no maps."""
    needed = needs(parse_scheme(text), attention)
    assert (needed, stored(needed)) == (seen, read)
    live = needs(parse_scheme(text), attention, live=True)
    assert live == {"f_sr" if name == "attention" else name for name in seen}


def test_names_need_no_torch() -> None:
    code = "import sys, stdpipe.distill.names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
