"""What pages take from the code itself, so that it cannot go stale: `<!-- generated: NAME -->`.

A line like that in a page becomes the Markdown that the function of that name below returns.
"""

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise

import click
import public

from stdpipe.cache import ENCODINGS
from stdpipe.cli.main import main
from stdpipe.data.degrade import DEGRADATIONS, EXAMPLES, GIVEN, degradation
from stdpipe.distill.names import SCHEMES
from stdpipe.distill.terms import TERMS
from stdpipe.evaluation import metrics
from stdpipe.evaluation.protocols import PROTOCOLS
from stdpipe.models import table
from stdpipe.models.zoo import ZOO
from stdpipe.training import config

MARK = re.compile(r"^<!-- generated: (\S+) -->$", re.MULTILINE)


def fill(page: str) -> str:
    """A page's Markdown with every mark replaced; KeyError for one that names nothing here."""
    return MARK.sub(lambda mark: GENERATED[mark[1]](), page)


def student_keys() -> str:
    """Every key of train-student."""
    return _keys(config.StudentTraining)


def teacher_keys() -> str:
    """Every key of train-teacher."""
    return _keys(config.TeacherTraining)


def _keys(cls: type[config.Training]) -> str:
    defaults = config.to_mapping(cls())
    meaning: dict[str, list[str]] = {key: [] for key in defaults}
    for base in reversed(cls.__mro__[:-1]):
        for name, sentence in _sentences(base):
            meaning[name.rstrip("_")].append(sentence)
    rows = [
        (f"`{key}`", f"`{_yaml(default)}`", _plain(" ".join(meaning[key])))
        for key, default in defaults.items()
    ]
    return _table(("key", "default", "meaning"), rows)


def _sentences(cls: type) -> Iterator[tuple[str, str]]:
    """Each field that has a docstring beneath it, and that."""
    body = ast.parse(inspect.getsource(cls)).body[0].body
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            yield field.target.id, " ".join(ast.literal_eval(below.value).split())


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) or "''"


def commands() -> str:
    """Every command: what it does, its example, its arguments and options."""
    return "\n\n".join(_command(path, command) for path, command in _commands(main, "stdpipe"))


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")


def _command(path: str, command: click.Command) -> str:
    text, _, example = inspect.cleandoc(command.help or "").partition("\b\nExample:")
    names = main.context_settings["help_option_names"]  # click keeps the first it is asked with
    context = click.Context(command, info_name=path.rpartition(" ")[2], help_option_names=names)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    parts = [f"## {path}", _plain(text).strip(), f"```text\n{usage}\n```"]
    rows = [_option(record) for p in command.params if (record := p.get_help_record(context))]
    if rows:
        parts.append(_table(("option", "meaning"), rows))
    lines = " \\\n  ".join(line.strip() for line in example.strip().splitlines())
    parts.append(f"For example:\n\n```sh\n{lines}\n```")
    return "\n\n".join(parts)


def _option(record: tuple[str, str]) -> tuple[str, str]:
    return f"`{record[0]}`".replace("|", r" \| "), _plain(record[1])


def networks() -> str:
    """What every named network is and costs, as counted here."""
    return _table(table.HEAD[:9], [(f"`{row[0]}`", *row[1:9]) for row in _networks()])


def published() -> str:
    """Where every named network comes from, and what is said of it there."""
    head = ("network", "source", *table.HEAD[9:12])
    return _table(head, [(f"`{row[0]}`", _plain(row[12]), *row[9:12]) for row in _networks()])


@cache
def _networks() -> list[tuple[str, ...]]:
    return [table.cells(table.describe_network(name)) for name in ZOO]


def differences() -> str:
    """Why counts here are other than published, or than the paper's."""
    notes = {name: table.PUBLISHED[name].note for name in ZOO}
    return "\n".join(f"- `{name}`: {_plain(note)}" for name, note in notes.items() if note)


def protocols() -> str:
    """Every protocol with its whole definition."""
    return "\n\n".join(f"### {name}\n\n{_plain(rules.text)}" for name, rules in PROTOCOLS.items())


def degradations() -> str:
    """How LR is made, by name."""
    rows = [
        (f"`{name}`", _plain(how.text), f"4j + {how.phase:g}" if how.phase else "4j")
        for name in (*DEGRADATIONS, *EXAMPLES, "bi:uint8=1", "bd:scale=2", "bd-centred:scale=3")
        if not name.startswith(GIVEN)
        for how in [degradation(name)]
    ]
    return _table(("name", "how LR is made of HR", "LR sample j sits at HR pixel"), rows)


def schemes() -> str:
    """Every scheme: what it compares, its weight, what it reads, where it comes from."""
    return _table(
        ("scheme", "what it compares", "default weight", "reads of the teacher", "source"),
        [_scheme(name, terms) for name, terms in SCHEMES.items()],
    )


def _scheme(name: str, terms: tuple[str, ...]) -> tuple[str, ...]:
    reads = ", ".join(dict.fromkeys(f"`{TERMS[term].needs}`" for term in terms))
    if terms != (name,):
        return f"`{name}`", " + ".join(f"`{t}`" for t in terms) or "L_rec alone", "", reads, ""
    term = TERMS[name]
    return f"`{name}`", _plain(term.about), f"{term.weight:g}", reads, _plain(term.source)


def temporal_metrics() -> str:
    """What each figure of steadiness is."""
    rows = [(f"`{name}`", _plain(text)) for name, text in metrics.TEMPORAL.items()]
    return _table(("figure", "definition"), rows)


def cost_metrics() -> str:
    """What each figure of cost is."""
    return "\n".join(f"- {_plain(part)}" for part in metrics.COST.split("; "))


def public_names() -> str:
    """Every public name with its signature and docstring."""
    return public.page()


def encodings() -> str:
    """What lies on disk in each encoding."""
    rows = [
        (f"`{name}`", f"`{how.stored}` in {how.dtype}", how.attention)
        for name, how in ENCODINGS.items()
    ]
    return _table(("encoding", "stored", "attention maps in"), rows)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Columns of numbers stand to the right."""
    columns = ("".join(cells) for cells in zip(*rows, strict=True))
    rule = tuple("---:" if re.fullmatch(r"[\d.,e+-]+", cells) else "---" for cells in columns)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))


def _plain(text: str) -> str:
    """Text of the code as Markdown: only its back quotes mean anything."""
    parts = re.split("(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*_<>\[\]|])", r"\\\1", p) for p in parts)


GENERATED: dict[str, Callable[[], str]] = {
    function.__name__: function
    for function in (
        student_keys,
        teacher_keys,
        commands,
        networks,
        published,
        differences,
        protocols,
        degradations,
        schemes,
        temporal_metrics,
        cost_metrics,
        encodings,
        public_names,
    )
}
