"""A scheme as text: a name, or several with commas between, each with a weight if wanted.

"std", "td", "sd=1,td=100", "std,output=0.5". It stands for a weight of each term.
"""

import math
from collections.abc import Iterable

from stdpipe.cache.errors import UserError
from stdpipe.distill.names import SCHEMES
from stdpipe.distill.terms import TERMS
from stdpipe.suggest import nearest


def parse_scheme(text: str, lambda1: float = 1.0, lambda2: float = 100.0) -> dict[str, float]:
    """Return term -> weight, in the order of TERMS, without those of weight zero.

    lambda1 and lambda2 weight the terms that name them, where the scheme gives no weight itself.
    Raises UserError for an unknown name, a weight that is no number and a term named twice.
    """
    lambdas = {"lambda1": lambda1, "lambda2": lambda2}
    default = {name: lambdas.get(term.weight_key, term.weight) for name, term in TERMS.items()}
    weights: dict[str, float] = {}
    for item in text.split(","):
        name, equals, number = (part.strip() for part in item.partition("="))
        for term in _terms_of(name, bool(equals)):
            if term in weights:
                raise UserError(f"scheme {text!r} names {term} twice; name it once")
            weights[term] = _weight(name, number) if equals else default[term]
    return {name: weights[name] for name in TERMS if weights.get(name)}


def weighed_terms(text: str) -> set[str]:
    """Return the terms to which a scheme itself gives a weight."""
    return {item.partition("=")[0].strip() for item in text.split(",") if "=" in item}


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


def needs(
    terms: Iterable[str], attention: str = "sum2", live: bool = False, held: Iterable[str] = ()
) -> set[str]:
    """Return the teacher's maps that terms look at: some of "attention", "f_sr", "f_lr" and "sr".

    This alone decides where attention maps come from. A cache holds maps of the kind sum2; other
    kinds are made of f_sr, as all are where f_sr is read anyway (for sr, too, unless that is among
    the targets `held`) or a live teacher gives it.
    """
    found = {TERMS[name].needs for name in terms}
    if "attention" in found and (live or attention != "sum2" or "f_sr" in stored(found, held)):
        found = found - {"attention"} | {"f_sr"}
    return found


def stored(needed: Iterable[str], held: Iterable[str] = ()) -> set[str]:
    """Return the targets of a cache that these maps are read from: where it does not hold "sr",
    that is made of f_sr."""
    kept = "sr" if "sr" in held else "f_sr"
    return {kept if name == "sr" else name for name in needed}
