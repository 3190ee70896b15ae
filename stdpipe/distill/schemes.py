"""A scheme as text: a name, or several with commas between, each with a weight if wanted.

"std", "td", "sd=1,td=100", "std,output=0.5". What it comes down to is a weight for each term.
"""

import math
from collections.abc import Mapping

from stdpipe.cache.errors import UserError
from stdpipe.distill.terms import TERMS
from stdpipe.suggest import nearest

SCHEMES = {
    "none": (),
    "std": ("sd", "td"),
    "std-lr": ("sd-lr", "td-lr"),
    "fakd": ("affinity", "output"),
    **{name: (name,) for name in TERMS},
}


def parse_scheme(text: str, lambda1: float = 1.0, lambda2: float = 100.0) -> dict[str, float]:
    """Term -> weight, in the order of TERMS; terms of weight zero are left out.

    lambda1 and lambda2 are the weights of sd, sd-lr and of td, td-lr that give none themselves.
    Raises UserError: unknown name, a weight that is no number, a term named twice.
    """
    default = {name: term.weight for name, term in TERMS.items()}
    default |= {"sd": lambda1, "sd-lr": lambda1, "td": lambda2, "td-lr": lambda2}
    weights: dict[str, float] = {}
    for item in text.split(","):
        name, equals, number = (part.strip() for part in item.partition("="))
        for term in _terms_of(name, bool(equals)):
            if term in weights:
                raise UserError(f"scheme {text!r} names {term} twice; name it once")
            weights[term] = _weight(name, number) if equals else default[term]
    return {name: weights[name] for name in TERMS if weights.get(name)}


def _terms_of(name: str, weighted: bool) -> tuple[str, ...]:
    if name not in SCHEMES:
        raise UserError(f"scheme {name!r} is unknown{nearest(name, SCHEMES)}")
    if weighted and name not in TERMS:
        parts = ", ".join(SCHEMES[name]) or "no terms"
        raise UserError(f"scheme {name!r} stands for {parts}; give weights to terms, not to it")
    return SCHEMES[name]


def _weight(name: str, number: str) -> float:
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise UserError(f"the weight of {name} should be a number of zero or more, got {number!r}")
    return weight


def needs(terms: Mapping[str, float], attention: str = "sum2") -> set[str]:
    """What of the teacher: some of "attention", "f_sr", "f_lr" and "sr".

    Only sum2 maps are cached; the others are made of f_sr, as all are where that is at hand.
    """
    found = {TERMS[name].needs for name in terms}
    if "attention" in found and (attention != "sum2" or {"f_sr", "sr"} & found):
        found = found - {"attention"} | {"f_sr"}
    return found
