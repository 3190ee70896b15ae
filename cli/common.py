"""What commands share: options that several take, progress, and how a result is printed."""

import importlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import click

from stdpipe.cli.errors import one_line
from stdpipe.suggest import nearest

Command = TypeVar("Command", bound=Callable[..., Any])


class Known(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """A name that a lookup of the library knows: imported only when there is one to look up."""

    name = "name"

    def __init__(self, module: str, function: str) -> None:
        self.module, self.function = module, function

    def convert(self, value: str, param: Any, ctx: Any) -> str:
        if value:
            usage(lambda: getattr(importlib.import_module(self.module), self.function)(value))
        return value


PATH = click.Path(path_type=Path)
DEGRADATION = Known("stdpipe.data.degrade", "degradation")
NETWORK = Known("stdpipe.models.zoo", "parse")
PROTOCOL = Known("stdpipe.evaluation.protocols", "protocol")

data_option = click.option(
    "--data",
    required=True,
    type=PATH,
    help="A Vimeo90K, REDS or Vid4 folder, a folder of frame folders, or a file of pack-clips.",
)
degradation_option = click.option(
    "--degradation",
    type=DEGRADATION,
    help="How LR is made from HR: bi, bd or bd-centred. [default: as the cache or the weights say, "
    "else bd]",
)
weights_option = click.option(
    "--weights", metavar="FILE", help="A checkpoint, or random:SEED for a test."
)
model_option = click.option(
    "--model",
    type=NETWORK,
    help="The network, e.g. fastdvdnet. Not needed with weights that stdpipe wrote.",
)
run_option = click.option("--out", required=True, type=PATH, help="The folder of this run.")
device_option = click.option("--device", default="auto", help="auto, cpu or cuda.")
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout and nothing else."
)
amp_option = click.option(
    "--amp",
    default="none",
    type=click.Choice(["none", "bf16", "fp16"]),
    help="Run the network in mixed precision.",
)


def config_options(*names: str) -> Callable[[Command], Command]:
    """--config, a file or one of these that come with stdpipe (the first is the default); --set."""

    def file(_context: Any, _parameter: Any, value: str | None) -> Path | None:
        if not value or Path(value).suffix or Path(value).is_file():
            return Path(value) if value else None
        if value not in names:
            raise click.UsageError(f"no config {value!r}{nearest(value, names)}, nor such a file")
        return Path(str(files("stdpipe.configs") / f"{value}.yaml"))

    config = click.option(
        "--config",
        metavar="FILE",
        callback=file,
        help=f"A YAML file, or one that comes with stdpipe: {' or '.join(names)}. "
        f"[default: {names[0]}]",
    )
    changes = click.option(
        "--set", "assignments", metavar="KEY=VALUE", multiple=True, help="Change one config key."
    )
    return lambda command: config(changes(command))


def usage(build: Callable[[], Any]) -> Any:
    """Return what `build` returns; what it refuses is wrong use (exit 2)."""
    from stdpipe.cache.errors import UserError

    try:
        return build()
    except (UserError, FileNotFoundError) as error:
        raise click.UsageError(one_line(error)) from None


@contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, quiet when that is no terminal; yields show(done, total)."""
    from tqdm import tqdm

    with tqdm(desc=what, unit=unit, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def report(result: dict[str, Any], as_json: bool, text: str) -> None:
    """The end of every command; of torchrun's processes, the first tells it."""
    if os.environ.get("RANK", "0") == "0":
        click.echo(json.dumps(result, indent=2) if as_json else text)
