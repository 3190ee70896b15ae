"""Turn what a command raises into one line on stderr and an exit code.

1 is a failure that the user can mend, 2 wrong use, 70 a bug of stdpipe, 130 Ctrl-C, 143 SIGTERM.
STDPIPE_TRACEBACK=1 also prints the traceback.
"""

import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from stdpipe import faults
from stdpipe.cli.common import usage

RESUMES = "what is committed stays, and the same command goes on from there"


class Failure(click.ClickException):
    """A failure that is printed in one line."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(_shown(message))
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        click.echo(f"stdpipe: {self.message}", file=file, err=True)


class Terminated(KeyboardInterrupt):
    """SIGTERM ends a command as Ctrl-C does."""


def _shown(text: str) -> str:
    """Return a message in one line, without the secrets of an address in it."""
    line = " ".join(text.split())
    if ":/" not in line:
        return line
    from stdpipe.cache.files import without_secrets  # here: --help has no need of numpy

    return without_secrets(line)


class Group(click.Group):
    """Commands whose failures and warnings are printed in one line each."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with told():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with told(), _warnings_in_one_line(), _heard_sigterm():
            return super().invoke(ctx)


class Command(click.Command):
    """A command that refuses an option of one value when it is given twice, and any address with
    a secret in it, whichever option it stands in, before anything is opened or written."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ":/" in (text := " ".join(args)):
            from stdpipe.cache.files import refuse_secrets

            usage(lambda: refuse_secrets(text, "the command line"))
        given = self.make_parser(ctx).parse_args(list(args))[2]
        for option in given:
            is_one = isinstance(option, click.Option) and not (option.multiple or option.is_flag)
            if is_one and given.count(option) > 1:
                raise click.UsageError(f"{option.opts[0]} is given twice: give it once", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with told():  # here too, while the context still knows which options save memory
            return super().invoke(ctx)


@contextmanager
def told() -> Iterator[None]:
    """Raise a Failure for every exception in the body, except click's own."""
    try:
        yield
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the whole help
            raise
        command = error.ctx.command_path if error.ctx else "stdpipe"
        raise Failure(f"{error.format_message().rstrip('.')} (see {command} --help)", 2) from None
    except (click.ClickException, click.Abort, click.exceptions.Exit):
        raise
    except KeyboardInterrupt as stop:
        raise _stopped(stop, RESUMES) from None
    except Exception as error:
        if os.environ.get("STDPIPE_TRACEBACK"):
            traceback.print_exc()
        raise _failure(faults.cause(error)) from None


@contextmanager
def when_stopped(text: str) -> Iterator[None]:
    """Add `text` to the message where Ctrl-C or SIGTERM ends the body."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise _stopped(stop, text) from None


def _stopped(stop: KeyboardInterrupt, text: str) -> Failure:
    is_term = isinstance(stop, Terminated)
    return Failure(f"terminated; {text}", 143) if is_term else Failure(f"interrupted; {text}", 130)


def _failure(error: Exception) -> Failure:
    from stdpipe.cache.files import is_full  # here: --help has no need of numpy

    if faults.is_bug(error):
        return Failure(faults.report_bug(error), 70)
    text = faults.one_line(error)
    if isinstance(error, OSError) and is_full(error):
        text += "; make space and run the same command again"
    elif isinstance(error, MemoryError) or faults.says(error, faults.OUT_OF_MEMORY):
        first = str(error).strip().partition("\n")[0] or text
        text = f"{first.rstrip('.')}. {_less_memory()}"
    elif faults.says(error, faults.PEER_GONE):
        text = "another process of this run has ended; the same command resumes its checkpoint"
    return Failure(text)


def _less_memory() -> str:
    """Return what saves memory, by the options of the running command."""
    context = click.get_current_context(silent=True)
    options = {parameter.name for parameter in context.command.params} if context else set()
    if "tile" in options:
        return "Cut frames into smaller tiles (--tile), or choose --amp bf16."
    if options & {"batch", "assignments"}:
        return "Lower batch or patch, or choose --amp bf16."
    return "Choose --amp bf16, or smaller frames." if "amp" in options else "Take smaller frames."


class _OneLine(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:  # what stdpipe itself tells
            click.echo(_shown(record.getMessage()), err=True)
        else:
            warn(record.getMessage())


def warn(text: str) -> None:
    """Print a warning in one line on stderr."""
    click.echo(f"stdpipe: warning: {_shown(text.removeprefix('stdpipe: '))}", err=True)


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Print Python's warnings and all logging in one line each, so that no error is lost."""
    handler, shown = _OneLine(logging.INFO), warnings.showwarning
    own = logging.getLogger("stdpipe")
    level = own.level
    own.setLevel(logging.INFO)  # others keep theirs, by default warnings
    logging.getLogger().addHandler(handler)
    warnings.showwarning = lambda message, *_, **__: warn(str(message))
    try:
        yield
    finally:
        warnings.showwarning = shown
        own.setLevel(level)
        logging.getLogger().removeHandler(handler)


@contextmanager
def _heard_sigterm() -> Iterator[None]:
    """Raise Terminated on SIGTERM, but not under torchrun: a rank that waits in C++ for others
    would not notice it, and torchrun would wait for that rank."""
    if "RANK" in os.environ or threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def stop(_number: int, _frame: Any) -> None:
        if os.getpid() != process:  # a forked child has nothing to tell
            os._exit(128 + signal.SIGTERM)
        raise Terminated

    def lost(what: Any) -> None:
        """Ask again, where the exception came amid a callback of Python's own, which drops it."""
        if what.exc_type and issubclass(what.exc_type, KeyboardInterrupt):
            is_term = issubclass(what.exc_type, Terminated)
            number = signal.SIGTERM if is_term else signal.SIGINT
            threading.Timer(0.05, os.kill, (process, number)).start()
        else:
            hook(what)

    before, hook = signal.signal(signal.SIGTERM, stop), sys.unraisablehook
    sys.unraisablehook = lost
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
