"""stdpipe experiment."""

from pathlib import Path
from typing import Any

import click

from stdpipe.cli.common import PATH, allow_option, device_option, json_option, report, usage
from stdpipe.cli.errors import Command, Failure
from stdpipe.faults import BUG


def _pairs(_context: Any, parameter: Any, values: tuple[str, ...]) -> dict[str, str]:
    """Turn every NAME=VALUE into an item of a mapping."""
    for value in values:
        if not all(value.partition("=")):
            raise click.BadParameter(f"{value!r} should read {parameter.metavar}")
    return {name: file for name, _, file in (value.partition("=") for value in values)}


@click.command(cls=Command)
@click.argument("file", metavar="FILE.yaml")
@click.option("--out", required=True, type=PATH, help="Folder for all results.")
@click.option("--profile", metavar="NAME", help="A profile of the file, e.g. small.")
@click.option("--data", type=PATH, help="The data set, in place of the file's.")
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
    "--jobs", type=click.IntRange(1), default=1, help="Trainings at once; they share the threads."
)
@allow_option
@device_option
@json_option
def experiment(
    file: str, profile: str | None, plan_only: bool, as_json: bool, **where: Any
) -> None:  # fmt: skip
    """Train and measure a grid of students, schemes and seeds from one cache. FILE.yaml may be
    recipe, or table1 to table6, those of the paper. The same command resumes, and runs what is
    missing.

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
    text = tables.plan_text(result) if plan_only else tables.summary_text(made, result)
    report(result, as_json, text)
    if failed := result.get("failed"):
        grid = len(made.students) * len(made.schemes) * len(made.seeds)
        code = 70 if any(BUG in why for why in failed.values()) else 1
        told = f"{len(failed)} of {grid} trainings failed, {next(iter(failed))} first"
        raise Failure(told, code)
