"""stdpipe experiment."""

from pathlib import Path
from typing import Any

import click

from stdpipe.cli.common import device_option, json_option, report, usage
from stdpipe.cli.errors import Command, Failure


def _pairs(_context: Any, parameter: Any, values: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE, several times."""
    for value in values:
        if not all(value.partition("=")):
            raise click.BadParameter(f"{value!r} should read {parameter.metavar}")
    return {name: file for name, _, file in (value.partition("=") for value in values)}


@click.command(cls=Command)
@click.argument("file", metavar="FILE.yaml")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for all of it.")
@click.option("--profile", metavar="NAME", help="One of the file's, e.g. small.")
@click.option("--data", type=click.Path(path_type=Path), help="In place of the file's data.")
@click.option(
    "--test",
    "tests",
    metavar="NAME=DIR",
    multiple=True,
    callback=_pairs,
    help="Where a test set of the file lies.",
)
@click.option(
    "--teacher",
    "teachers",
    metavar="NAME=FILE",
    multiple=True,
    callback=_pairs,
    help="Weights of a teacher of the file.",
)
@click.option("--plan", "plan_only", is_flag=True, help="Print plan and cost, and run nothing.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Trainings side by side, each with its share of the threads.",
)
@device_option
@json_option
def experiment(
    file: str, profile: str | None, plan_only: bool, as_json: bool, **where: Any
) -> None:  # fmt: skip
    """A grid of students, schemes and seeds from one cache, measured and summed up. FILE.yaml may
    be table1 to table6, the paper's. The same command goes on, and runs what is missing only.

    \b
    Example:
      stdpipe experiment table2 --profile debug --data DATA --test vid4=DATA --out table2
    """
    from stdpipe.experiment import run_experiment
    from stdpipe.grid import schema, tables
    from stdpipe.grid.setup import Job

    made = usage(lambda: schema.load_experiment(schema.packaged(file), profile))
    where["tests"] = {name: Path(folder) for name, folder in where["tests"].items()}
    result = run_experiment(Job(made, **where), lambda line: click.echo(line, err=True), plan_only)
    report(
        result,
        as_json,
        tables.plan_text(result) if plan_only else tables.summary_text(made, result),
    )
    if failed := result.get("failed"):
        grid = len(made.students) * len(made.schemes) * len(made.seeds)
        raise Failure(f"{len(failed)} of {grid} trainings failed, {next(iter(failed))} first")
