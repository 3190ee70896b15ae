"""Ctrl-C and SIGTERM end a training between two steps, so that its last step is kept.

The signal is only noted; the loop looks for it after each step, saves, and leaves. A step that goes
on for longer than PATIENCE is cut, and so is a last save that takes SAVING more: the signal then
does at once what it does elsewhere, and the checkpoint stays as it was.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from stdpipe import distributed

PATIENCE = 3.0  # seconds that a step may still take
SAVING = 20.0  # seconds that the last save may take, of several networks or on a slow disk
LAST = 1.5  # seconds after which the process ends even where Python does not come to hear of it
CUT = "stdpipe: stopped in the midst of a step; the same command goes on from the last checkpoint\n"


class Stop:
    """The signal that asked a training to end, 0 for none."""

    def __init__(self) -> None:
        self.asked = 0
        self.saves = False

    def agreed(self) -> bool:
        """Tell whether any process of this training was asked to end. All must ask at once; they
        save then, and leave."""
        self.asked = int(distributed.largest(torch.tensor(self.asked)))
        self.saves = self.asked > 0
        return self.saves


@contextmanager
def heard() -> Iterator[Stop]:
    """Note Ctrl-C and SIGTERM while the body runs; after it they do what they did before.

    More signals change nothing. In another thread than the first, none is noted.
    """
    stop, late, ended = Stop(), threading.Event(), threading.Event()
    before: dict[int, Any] = {}

    def note(number: int, _frame: Any) -> None:
        if late.is_set():
            signal.signal(number, before[number])
            signal.raise_signal(number)
        elif not stop.asked:
            stop.asked = number
            threading.Thread(target=_cut, args=(stop, late, ended), daemon=True).start()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, note)
    try:
        yield stop
    finally:
        ended.set()
        for heard_of, handler in before.items():
            signal.signal(heard_of, handler)
    if stop.asked:
        signal.raise_signal(stop.asked)


def _cut(stop: Stop, late: threading.Event, ended: threading.Event) -> None:
    number = stop.asked
    if not ended.wait(PATIENCE) and not (stop.saves and ended.wait(SAVING)):
        late.set()
        os.kill(os.getpid(), number)
        if not ended.wait(LAST):  # torch computes, or waits for another process
            os.write(2, CUT.encode())
            os._exit(128 + number)
