"""Suggest the name probably meant, and list the known ones, for errors of unknown names."""

import difflib
from collections.abc import Iterable
from typing import Any


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of a message: "; did you mean 'edvr-l'? (known: bicubic, edvr, ...)"."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f"{meant} (known: {', '.join(known)})"


def refuse_text(names: Any, what: str) -> None:
    """Raise UserError for a text where a list of names is asked for: its letters are none."""
    from stdpipe.cache.errors import UserError  # here: --help has no need of numpy

    if isinstance(names, str):
        raise UserError(f"{what} is a list of names, such as [{names!r}], got {names!r}")


def refuse_unknown(names: Iterable[Any], known: Iterable[str], what: str) -> None:
    """Raise UserError for the first of `names` that is not known; `what` begins the message."""
    from stdpipe.cache.errors import UserError  # here: --help has no need of numpy

    for name in names:
        if name not in known:
            raise UserError(f"{what} {name!r}{nearest(str(name), known)}")
