"""What all commands share: one-line errors, `--json`, options that several take."""

import functools
import importlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from stdpipe.suggest import nearest

Command = TypeVar("Command", bound=Callable[..., Any])

OUT_OF_MEMORY = ("out of memory", "not enough memory")  # as torch says it on CUDA and on CPU
# as gloo and NCCL say that another rank has died
PEER_GONE = ("Connection closed by peer", "Connection reset by peer", "NCCL communicator was abort")
CONFIGS = ("paper", "edvr", "demo")  # what lies in stdpipe.configs


def known_to(module: str, function: str) -> Callable[[Any, Any, str | None], str | None]:
    """A click callback: what that lookup refuses is wrong use. Imported only when it is called."""

    def callback(_context: Any, _parameter: Any, value: str | None) -> str | None:
        if value is not None:
            try:
                getattr(importlib.import_module(module), function)(value)
            except ValueError as error:
                raise click.BadParameter(_one_line(error)) from None
        return value

    return callback


known_degradation = known_to("stdpipe.data.degrade", "degradation")
known_network = known_to("stdpipe.models.zoo", "parse")
known_protocol = known_to("stdpipe.evaluation.protocols", "protocol")

data_option = click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Vimeo90K septuplet, Vid4, a folder of frame folders, or a file of pack-clips.",
)
degradation_option = click.option(
    "--degradation",
    metavar="NAME",
    callback=known_degradation,
    help="bi, bd or bd-centred: how LR is made from HR. [default: what cache or weights say; bd]",
)
weights_option = click.option(
    "--weights", metavar="FILE", help="Checkpoint, or random:SEED for a test."
)
model_option = click.option(
    "--model",
    metavar="NAME",
    callback=known_network,
    help="E.g. fastdvdnet; weights by stdpipe say it themselves.",
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda.")
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else."
)
amp_option = click.option(
    "--amp",
    default="none",
    show_default=True,
    type=click.Choice(["none", "bf16", "fp16"]),
    help="Mixed precision.",
)


def config_options(command: Command) -> Command:
    """--config and --set, for both kinds of training."""
    command = click.option(
        "--set", "assignments", metavar="KEY=VALUE", multiple=True, help="Change one config key."
    )(command)
    return click.option(
        "--config",
        metavar="FILE",
        help="YAML; `paper`, `edvr` and `demo` come with stdpipe. [default: `paper`; for a teacher "
        "`edvr`]",
    )(command)


class OneLineGroup(click.Group):
    """Tells click's own refusals in one line, too."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _usage_in_one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _usage_in_one_line():
            return super().invoke(ctx)


@contextmanager
def _usage_in_one_line() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the whole help
            raise
        command = error.ctx.command_path if error.ctx else "stdpipe"
        text = " ".join(error.format_message().split())
        raise Misuse(f"{text.rstrip('.')} (see {command} --help)") from None


class Failure(click.ClickException):
    """A failure told in one line."""

    def show(self, file: Any = None) -> None:
        click.echo(f"stdpipe: {self.message}", file=file, err=True)


class Misuse(Failure):
    """The command line itself is wrong."""

    exit_code = 2


class Interrupted(Failure):
    """Ctrl-C: the exit code that shells expect of it."""

    exit_code = 130


def plain_errors(command: Command) -> Command:
    """Tell known errors in one line, without a traceback (STDPIPE_TRACEBACK=1 shows it)."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            again = "interrupted; what is committed stays, and the same command goes on from there"
            raise Interrupted(again) from None
        except (ValueError, OSError, RuntimeError) as raised:
            error = _unhidden(raised)
            if os.environ.get("STDPIPE_TRACEBACK") or not _is_known(error):
                raise
            raise Failure(_one_line(error)) from None

    return wrapped  # type: ignore[return-value]


def _unhidden(error: Exception) -> Exception:
    """torch.save, closing its file on a full disk, hides the OSError behind a RuntimeError."""
    behind = error.__context__
    return behind if isinstance(error, RuntimeError) and isinstance(behind, OSError) else error


def _is_known(error: Exception) -> bool:
    if isinstance(error, RuntimeError):
        known = (*OUT_OF_MEMORY, *PEER_GONE, "DataLoader worker")
        return any(mark in str(error) for mark in known)
    return True


def _one_line(error: Exception) -> str:
    """A DataLoader wraps its worker's error in a traceback: the last line is the error itself."""
    text = str(error).strip() or type(error).__name__
    if text.startswith("Caught "):
        text = text.splitlines()[-1].partition(": ")[2]
    if isinstance(error, RuntimeError) and any(mark in text for mark in OUT_OF_MEMORY):
        return f"{text.splitlines()[0]} {_less_memory()}"
    if isinstance(error, RuntimeError) and any(mark in text for mark in PEER_GONE):
        return "another process of this run has ended; the same command goes on from a checkpoint"
    if isinstance(error, OSError) and _is_full(error):
        text += "; make space and run the same command again"
    return " ".join(text.split())


def _less_memory() -> str:
    """What would take less of it, by the options of the command that runs."""
    context = click.get_current_context(silent=True)
    options = {parameter.name for parameter in context.command.params} if context else set()
    if "tile" in options:
        return "Cut frames into smaller tiles (--tile), or choose --amp bf16."
    if options & {"batch", "assignments"}:
        return "Lower batch or patch, or choose --amp bf16."
    return "Choose --amp bf16, or smaller frames." if "amp" in options else "Take smaller frames."


def _is_full(error: OSError) -> bool:
    from stdpipe.cache.files import is_full  # here: --help has no need of numpy

    return is_full(error)


def usage(build: Callable[[], Any]) -> Any:
    """What `build` returns; its ValueError is wrong use (exit 2)."""
    try:
        return build()
    except (ValueError, FileNotFoundError) as error:
        raise click.UsageError(_one_line(error)) from None


def config_file(name: str | None) -> Path | None:
    """A path as given, or the packaged config of that name."""
    if not name or Path(name).suffix or Path(name).is_file():
        return Path(name) if name else None
    if name not in CONFIGS:
        raise click.UsageError(f"no config {name!r}{nearest(name, CONFIGS)}, nor such a file")
    from importlib.resources import files

    return Path(str(files("stdpipe.configs") / f"{name}.yaml"))


@contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, quiet when that is no terminal; yields show(done, total)."""
    from tqdm import tqdm

    with tqdm(desc=what, unit=unit, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def report_once(result: dict[str, Any], as_json: bool, text: str) -> None:
    """The end of a command that torchrun's processes do together: the first of them tells it."""
    if os.environ.get("RANK", "0") == "0":
        report(result, as_json, text)


def report(result: dict[str, Any], as_json: bool, text: str) -> None:
    """The end of every command."""
    click.echo(json.dumps(result, indent=2) if as_json else text)
