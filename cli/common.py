"""The parts that commands share: options, progress bars, and how a result is printed."""

import importlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stdpipe.assets import named
from stdpipe.faults import one_line
from stdpipe.suggest import nearest

if TYPE_CHECKING:
    from stdpipe.models.table import Size

Command = TypeVar("Command", bound=Callable[..., Any])


class Known(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """A name that a function of the library looks up; imported only when a name is given."""

    name = "name"

    def __init__(self, module: str, function: str) -> None:
        self.module, self.function = module, function

    def convert(self, value: str, param: Any, ctx: Any) -> str:
        if value:
            usage(lambda: getattr(importlib.import_module(self.module), self.function)(value))
        return value


def find_embedded(_context: object, _option: object, given: Any) -> Any:
    """Return the weights that an option names, or for `embedded` and the like the file that comes
    with stdpipe, as text or as a path."""
    return given if given is None else type(given)(named(str(given)))


def lr_size(_context: object, _parameter: object, value: str | None) -> "Size | None":
    """Return the LR size that an option names, as 320x180."""
    from stdpipe.models.table import Size

    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", value)
    if not found or not all(map(int, found.groups())):
        raise click.BadParameter(f"give width x height in LR pixels, as 320x180, not {value!r}")
    return Size(*map(int, found.groups()))


PATH = click.Path(path_type=Path)
DEGRADATION = Known("stdpipe.data.degrade", "check_name")
NETWORK = Known("stdpipe.models.zoo", "parse")
PROTOCOL = Known("stdpipe.evaluation.protocols", "protocol")


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    context.meta[f"stdpipe.{parameter.name}"] = value


def _named(context: click.Context, _parameter: click.Parameter, data: Path) -> Path:
    """Put --lr and --exclude into the name of the data."""
    from stdpipe.data.named import with_lr, without  # here: --help has no need of it

    if folder := context.meta.get("stdpipe.lr"):
        data = with_lr(data, folder)
    return without(data, context.meta.get("stdpipe.exclude", ()))


_exclude_option = click.option(
    "--exclude",
    metavar="CLIP",
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=_remember,
    help="A clip, or a source of clips, to leave out.",
)
_lr_option = click.option(
    "--lr",
    metavar="DIR",
    type=PATH,
    is_eager=True,
    expose_value=False,
    callback=_remember,
    help="LR frames that are given, by the names of the clips. [default: what lies beside GT]",
)
_data_option = click.option(
    "--data",
    required=True,
    type=PATH,
    callback=_named,
    help="A Vimeo90K, REDS or Vid4 folder, a folder of frame folders or videos, a video, or a file "
    "of pack-clips; DATA:test=0.2 holds a fifth of its sources out for testing.",
)


def data_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --data, whose value names what --lr adds and --exclude leaves out, too."""
    return hr_option(_lr_option(command))


def hr_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --data, whose value names what --exclude leaves out, too."""
    return _data_option(_exclude_option(command))


degradation_option = click.option(
    "--degradation",
    type=DEGRADATION,
    help="HR to LR by bi, bd, bd-centred or camera, with options as in bd:sigma=1.5 or bi:scale=2, "
    "or as given. [default: given where LR lies beside HR, as the cache or the weights say, or bd "
    "at the network's scale]",
)
weights_option = click.option(
    "--weights",
    metavar="FILE",
    callback=find_embedded,
    help="A checkpoint, random:SEED, or what comes with stdpipe: `embedded` (a small EDVR), "
    "`embedded-student`, `embedded-small`.",
)
model_option = click.option(
    "--model", type=NETWORK, help="The network, e.g. fastdvdnet. stdpipe's weights name theirs."
)
run_option = click.option("--out", required=True, type=PATH, help="The folder of this run.")
device_option = click.option("--device", default="auto", help="auto, cpu or cuda.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
AMP = click.Choice(["none", "bf16", "fp16"])
amp_option = click.option("--amp", default="none", type=AMP, help="The mixed precision to run in.")


def _allow(context: click.Context, _parameter: click.Parameter, modules: tuple[str, ...]) -> None:
    """Let files name these modules for as long as the command runs."""
    if not modules:
        return
    from stdpipe.models.zoo import ALLOWED

    for module in modules:
        if not all(part.isidentifier() for part in module.split(".")):
            told = f"give the module alone, as own_student, not {module!r}"
            raise click.BadParameter(told)
    ALLOWED.update(modules)
    context.call_on_close(ALLOWED.clear)


allow_option = click.option(
    "--allow-module",
    metavar="MODULE",
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=_allow,
    help="A module of your own that a file may name, as weights or an experiment do.",
)
accept_option = click.option(
    "--accept-teacher", is_flag=True, help="Go on with a teacher that is measured and found wrong."
)


def config_options(*names: str) -> Callable[[Command], Command]:
    """Add --set and --config: a file, or one of these of stdpipe (the first is the default)."""

    def file(_context: Any, _parameter: Any, value: str | None) -> Path:
        value = value or names[0]
        if Path(value).suffix or Path(value).is_file():
            return Path(value)
        if value not in names:
            raise click.UsageError(f"no config {value!r}{nearest(value, names)}, nor such a file")
        return Path(str(files("stdpipe.configs") / f"{value}.yaml"))

    told = f"A YAML file, or one of stdpipe: {' or '.join(names)}. [default: {names[0]}]"
    config = click.option("--config", metavar="FILE", callback=file, help=told)
    changes = click.option(
        "--set", "assignments", metavar="KEY=VALUE", multiple=True, help="Change one config key."
    )
    return lambda command: config(changes(command))


def usage(build: Callable[[], Any]) -> Any:
    """Return what `build` returns; turn what it refuses into wrong use (exit 2)."""
    from stdpipe.cache.errors import UserError

    try:
        return build()
    except (UserError, FileNotFoundError) as error:
        raise click.UsageError(one_line(error)) from None


@contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr if that is a terminal; yield show(done, total)."""
    from tqdm import tqdm

    with tqdm(desc=what, unit=unit, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def report(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Print a command's result; under torchrun, rank 0 alone prints."""
    if os.environ.get("RANK", "0") == "0":
        click.echo(json.dumps(result, indent=2) if as_json else text)
