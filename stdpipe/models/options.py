"""Checks of options that several networks have; UserError says what is allowed."""

from collections.abc import Iterable

from stdpipe.cache.errors import UserError
from stdpipe.suggest import nearest


def check_window(network: str, num_frame: int) -> None:
    """A window has a centre and at least one neighbour on each side."""
    if num_frame < 3 or num_frame % 2 == 0:
        raise UserError(f"{network} needs an odd num_frame (3, 5 or 7), got {num_frame}")


def check_choice(what: str, value: str, known: Iterable[str]) -> None:
    """`what` names the option in the error, such as "VSRNet's motion"."""
    known = list(known)
    if value not in known:
        raise UserError(f"{what} {value!r} is unknown{nearest(value, known)}")


def check_channels(network: str, channels: int) -> None:
    """A network works on one channel (Y) or on three (RGB)."""
    if channels not in (1, 3):
        raise UserError(f"{network}'s channels is 1 (Y alone) or 3 (RGB), got {channels}")
