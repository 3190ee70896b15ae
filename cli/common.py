"""What all commands share: one-line errors, `--json`, options that several take."""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

data_option = click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Vimeo90K septuplet, Vid4 or a folder of frame folders.",
)
degradation_option = click.option(
    "--degradation",
    metavar="NAME",
    help="bi, bd or bd-centred: how LR is made from HR. [default: what cache or weights say; bd]",
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
        help="YAML; `paper` and `demo` come with stdpipe. [default: the paper's settings]",
    )(command)


class Failure(click.ClickException):
    """A failure told in one line."""

    def show(self, file: Any = None) -> None:
        click.echo(f"stdpipe: {self.message}", file=file, err=True)


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
        except (ValueError, OSError, RuntimeError) as error:
            if os.environ.get("STDPIPE_TRACEBACK") or not _is_known(error):
                raise
            raise Failure(_one_line(error)) from None

    return wrapped  # type: ignore[return-value]


def _is_known(error: Exception) -> bool:
    if isinstance(error, RuntimeError):
        return "out of memory" in str(error) or "DataLoader worker" in str(error)
    return True


def _one_line(error: Exception) -> str:
    """A DataLoader wraps its worker's error in a traceback: the last line is the error itself."""
    text = str(error).strip() or type(error).__name__
    if text.startswith("Caught "):
        text = text.splitlines()[-1].partition(": ")[2]
    if isinstance(error, RuntimeError) and "out of memory" in text:
        return f"{text.splitlines()[0]} Lower batch or patch, or choose --amp bf16."
    return " ".join(text.split())


def usage(build: Callable[[], Any]) -> Any:
    """What `build` returns; its ValueError is wrong use (exit 2)."""
    try:
        return build()
    except (ValueError, FileNotFoundError) as error:
        raise click.UsageError(_one_line(error)) from None


def config_file(name: str | None) -> Path | None:
    """A path as given, or the packaged config of that name."""
    if name is None or Path(name).suffix or Path(name).exists():
        return Path(name) if name else None
    from importlib.resources import files

    return Path(str(files("stdpipe.configs") / f"{name}.yaml"))


def report(result: dict[str, Any], as_json: bool, text: str) -> None:
    """The end of every command."""
    click.echo(json.dumps(result, indent=2) if as_json else text)
