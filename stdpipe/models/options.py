"""Checks that several networks make of their options; each ValueError says what would do."""

from collections.abc import Iterable

from stdpipe.cache.errors import UserError
from stdpipe.suggest import nearest


def check_window(network: str, num_frame: int) -> None:
    """A window has a centre and at least one neighbour on each side."""
    if num_frame < 3 or num_frame % 2 == 0:
        raise UserError(f"{network} needs an odd num_frame (3, 5 or 7), got {num_frame}")


def check_choice(what: str, value: str, known: Iterable[str]) -> None:
    """E.g. "VSRNet's motion 'flwo' is unknown; did you mean 'flow'?"."""
    known = list(known)
    if value not in known:
        raise UserError(f"{what} {value!r} is unknown{nearest(value, known)}")


def check_channels(network: str, channels: int) -> None:
    """Images of one channel (Y) or three (RGB)."""
    if channels not in (1, 3):
        raise UserError(f"{network}'s channels is 1 (Y alone) or 3 (RGB), got {channels}")
