"""How commands fail: with one line on stderr, and an exit code.

1 is a failure that the user can mend, 2 wrong use, 70 a bug of stdpipe, 130 Ctrl-C, 143 SIGTERM.
STDPIPE_TRACEBACK=1 also prints the traceback.
"""

import logging
import os
import signal
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

OUT_OF_MEMORY = ("out of memory", "not enough memory")  # how torch reports it on CUDA and CPU
# how gloo and NCCL report that another rank has died
PEER_GONE = ("Connection closed by peer", "Connection reset by peer", "NCCL communicator was abort")
RESUMES = "what is committed stays, and the same command goes on from there"


class Failure(click.ClickException):
    """A failure that is printed in one line."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        click.echo(f"stdpipe: {self.message}", file=file, err=True)


class Terminated(KeyboardInterrupt):
    """SIGTERM ends a command as Ctrl-C does."""


class Group(click.Group):
    """Commands whose failures and warnings are printed in one line each."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with told():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with told(), _warnings_in_one_line(), _heard_sigterm():
            return super().invoke(ctx)


class Command(click.Command):
    """A command that refuses an option of one value when it is given twice."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
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
        if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
            error = error.__context__  # torch.save hides a full disk
        raise _failure(error) from None


@contextmanager
def when_stopped(text: str) -> Iterator[None]:
    """Add `text` to the message where Ctrl-C or SIGTERM ends the body."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise _stopped(stop, text) from None


def one_line(error: Exception) -> str:
    """Return an error's message without the worker's traceback that a DataLoader puts before it."""
    text = str(error).strip() or type(error).__name__
    if text.startswith("Caught "):
        text = text.rpartition(f"{type(error).__name__}: ")[2]
    return " ".join(text.split())


def _stopped(stop: KeyboardInterrupt, text: str) -> Failure:
    is_term = isinstance(stop, Terminated)
    return Failure(f"terminated; {text}", 143) if is_term else Failure(f"interrupted; {text}", 130)


def _failure(error: Exception) -> Failure:
    from stdpipe.cache.errors import UserError  # here: --help has no need of numpy
    from stdpipe.cache.files import is_full

    text, first = one_line(error), str(error).strip().partition("\n")[0]
    match error:
        case OSError() if is_full(error):
            text += "; make space and run the same command again"
        case UserError() | OSError():
            pass
        case MemoryError():
            text += f". {_less_memory()}"
        case RuntimeError() if any(mark in text for mark in OUT_OF_MEMORY):
            text = f"{first} {_less_memory()}"
        case RuntimeError() if any(mark in text for mark in PEER_GONE):
            text = "another process of this run has ended; the same command resumes its checkpoint"
        case RuntimeError() if "DataLoader worker" in text:
            pass
        case _:
            return _fault(error)
    return Failure(text)


def _fault(error: Exception) -> Failure:
    """Report a bug, with its traceback in a file."""
    what = f"this is a bug of stdpipe ({type(error).__name__}: {one_line(error)[:200]})"
    try:
        fd, path = tempfile.mkstemp(".txt", "stdpipe-")
        with os.fdopen(fd, "w", errors="replace") as file:
            traceback.print_exception(error, file=file)
        ask = f"please report it with its traceback, which lies in {path}"
    except OSError:
        ask = "run it again with STDPIPE_TRACEBACK=1 and report what it shows"
    return Failure(f"{what}: {ask}", 70)


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
        warn(record.getMessage())


def warn(text: str) -> None:
    """Print a warning in one line on stderr."""
    click.echo(f"stdpipe: warning: {' '.join(text.removeprefix('stdpipe: ').split())}", err=True)


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Print Python's warnings and all logging in one line each, so that no error is lost."""
    handler, shown = _OneLine(logging.WARNING), warnings.showwarning
    logging.getLogger().addHandler(handler)
    warnings.showwarning = lambda message, *_, **__: warn(str(message))
    try:
        yield
    finally:
        warnings.showwarning = shown
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

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
