"""How commands fail: one line on stderr, and an exit code that says whose matter it is.

1 what the user can mend, 2 wrong use, 70 a fault of stdpipe itself, 130 Ctrl-C, 143 SIGTERM.
STDPIPE_TRACEBACK=1 shows the traceback behind the line.
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

OUT_OF_MEMORY = ("out of memory", "not enough memory")  # as torch says it on CUDA and on CPU
# as gloo and NCCL say that another rank has died
PEER_GONE = ("Connection closed by peer", "Connection reset by peer", "NCCL communicator was abort")
RESUMES = "what is committed stays, and the same command goes on from there"


class Failure(click.ClickException):
    """A failure that is told in one line."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        click.echo(f"stdpipe: {self.message}", file=file, err=True)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


class Group(click.Group):
    """Commands that fail in one line, and whose warnings take one line each."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with told():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with told(), _warnings_in_one_line(), _heard_sigterm():
            return super().invoke(ctx)


class Command(click.Command):
    """A command that takes each option of one value once; its failures are told in one line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = self.make_parser(ctx).parse_args(list(args))[2]
        for option in given:
            is_one = isinstance(option, click.Option) and not (option.multiple or option.is_flag)
            if is_one and given.count(option) > 1:
                raise click.UsageError(f"{option.opts[0]} is given twice: give it once", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with told():  # here too, while the context still tells which options would take less memory
            return super().invoke(ctx)


@contextmanager
def told() -> Iterator[None]:
    """Raise a Failure for whatever ends the body, but for click's own ways to end."""
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
            error = error.__context__  # torch.save hides that the disk is full
        raise _failure(error) from None


@contextmanager
def when_stopped(text: str) -> Iterator[None]:
    """Tell `text` behind "interrupted" where Ctrl-C or SIGTERM ends the body."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise _stopped(stop, text) from None


def one_line(error: Exception) -> str:
    """An error's message. A DataLoader puts the traceback of its worker before it: that is cut."""
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
    """A bug: its traceback goes to a file, for whoever can mend it."""
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
    """Return what would take less memory, by the options of the command that runs."""
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
    """Python's warnings and everybody's logging, so that none hides the line of an error."""
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
    """Raise Terminated on SIGTERM. Not under torchrun: a rank that waits for others in C++ would
    not hear it, and torchrun would wait for that rank."""
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
