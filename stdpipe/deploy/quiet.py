"""Keep converters quiet, which print from Python, from C++ and by several loggers."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop all that this process prints meanwhile, and warnings; errors are raised as ever."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with open(os.devnull, "w") as nowhere, contextlib.ExitStack() as stack:  # noqa: PTH123
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.flush()
        kept = [(number, os.dup(number)) for number in (1, 2)]
        try:
            for number, _ in kept:
                os.dup2(nowhere.fileno(), number)
            yield
        finally:
            for number, copy in kept:
                os.dup2(copy, number)
                os.close(copy)
            logging.disable(level)
