"""The end of an error message about an unknown name: what was probably meant, and what is known."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """E.g. "; did you mean 'edvr-l'? (known: bicubic, edvr, ...)"."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f"{meant} (known: {', '.join(known)})"
