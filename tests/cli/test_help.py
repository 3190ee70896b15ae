"""Help: every command has a runnable example, and each of them runs on a tiny set."""

import ast
import re
import shlex
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest

from stdpipe.cli.main import main

Command = Callable[..., Any]
SLOW = ("train-student", "experiment", "report", "export", "bench", "train-teacher", "runs")
ORDER = [
    "pack-clips",
    "extract-teacher",
    "train-student",
    "evaluate",
    "experiment",
    "report",
    "degrade",
    "upscale",
    "export",
    "bench",
    "train-teacher",
    "cache",
    "cache info",
    "cache verify",
    "cache check",
    "cache repair",
    "models",
    "runs",
]


def commands(group: click.Group = main, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        full = f"{path} {name}".strip()
        yield full, command
        if isinstance(command, click.Group):
            yield from commands(command, full)


def example(command: click.Command) -> list[str]:
    """The words after "Example:", its lines joined; without `stdpipe` itself."""
    assert command.help
    _, mark, text = command.help.partition("Example:")
    assert mark, f"no example in {command.name}"
    first, *words = shlex.split(text)
    assert first == "stdpipe"
    return words


def test_every_command_is_in_order_below() -> None:
    assert sorted([*ORDER, "demo"]) == sorted(name for name, _ in commands())


@pytest.mark.parametrize("name", ["", *ORDER, "demo"])
def test_help(stdpipe: Command, name: str) -> None:
    text = stdpipe(*name.split(), "--help").stdout
    assert "Example:\n    stdpipe " in text
    assert stdpipe(*name.split(), "-h").stdout == text


def test_every_option_says_what_it_is() -> None:
    for name, command in commands():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.name}"


@pytest.mark.parametrize("slow", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_examples_run(
    tmp_path: Path,
    make_data: Command,
    stdpipe: Command,
    monkeypatch: pytest.MonkeyPatch,
    slow: bool,
) -> None:
    """In one folder, one after the other, exactly as a newcomer would type them; if slow, all."""
    make_data(tmp_path / "DATA", clips=1)
    monkeypatch.chdir(tmp_path)
    known = dict(commands())
    for name in ORDER:
        exports = name in ("export", "bench")
        if (name in SLOW and not slow) or (exports and not find_spec("onnxscript")):
            continue  # export needs pip install 'stdpipe[export]'
        words = example(known[name])
        assert " ".join(words).startswith(name)
        stdpipe(*words)
    made = ["clips.h5", "cache.zarr/complete.json", "results/bicubic/table.md"]
    made += ["runs/std/weights.pt", "report/index.html"] if slow else []
    assert all(Path(file).is_file() for file in made)


def test_main_offers_the_demo() -> None:
    assert example(main)[0] == "demo"
    assert example(main) == example(main.commands["demo"])


def test_version(stdpipe: Command) -> None:
    assert re.fullmatch(r"stdpipe, version \d+\.\d+\.\d+\n", stdpipe("--version").stdout)


def test_no_new_options() -> None:
    """Flags are few and stay few: whoever adds one changes this test, and says why."""
    found = {name: {o for p in c.params for o in p.opts} for name, c in commands()}
    own = {"--allow-module"}  # of every command that builds a network which a file may name
    always = {"--data", "--exclude", "--device", "--json", "--lr"} | own
    here = always - {"--exclude", "--lr"}  # DATA:exclude=CLIP: they take their data from a file
    config = {"--config", "--set", "--out"}
    assert found["extract-teacher"] == always | {
        "--teacher", "--weights", "--cache", "--degradation", "--encoding", "--targets",
        "--orientations", "--seed", "--amp", "--views", "--baked", "--patch", "--part", "--plan",
        "--batch", "--compression",  # a GPU is not filled by one clip
        "--accept-teacher",  # measured and found wrong, on purpose
        "--ensemble",  # costs stage one four times, and stage two nothing
    }  # fmt: skip
    assert found["train-student"] == always | config | {
        "--student", "--cache", "--scheme", "--degradation", "--teacher-weights",
        "--live-teacher",
        "--cache-weight",  # of several teachers, whose caches are named beside it
        "--init",  # PISR's student begins as its teacher's second half
        "--students",  # one stream for many; a list of them has no room in --set
    }  # fmt: skip
    assert found["train-teacher"] == always | config | {
        "--teacher", "--degradation", "--init", "--accept-teacher",
    }  # fmt: skip
    assert found["evaluate"] == always | {
        "--model", "--weights", "--degradation", "--protocol", "--out", "--teacher",
        "--teacher-weights", "--pictures", "--amp", "--crop", "--metrics",
        "--overwrite",  # a finished result is replaced on purpose only
        "--still",  # drift shows in no score of moving clips
    }  # fmt: skip
    assert found["experiment"] == here | {
        "file", "--out", "--profile", "--test", "--teacher", "--plan", "--jobs",
    }  # fmt: skip
    assert found["report"] == {
        "folders", "--out", "--clips", "--frames", "--bench", "--device", "--json", *own,
    }  # fmt: skip
    assert found["upscale"] == {
        "source", "out", "--model", "--weights", "--tile", "--fps", "--crf", "--overwrite",
        "--device", "--amp", "--json", *own,
        "--scene-cuts", "--deinterlace",  # videos have both, and neither can be guessed
        "--partial",  # a damaged file is taken on purpose only
    }  # fmt: skip
    assert found["export"] == {
        "--model",
        "--weights",
        "--out",
        "--format",
        "--size",
        "--precision",
        "--calibrate",
        "--measure",
        "--json",
        *own,
    }
    assert found["pack-clips"] == {"--data", "--exclude", "--out", "--split", "--json"}
    assert found["degrade"] == {"data", "out", "--degradation", "--json"}
    assert found["models"] == {"names", "--size", "--json"} | own
    assert found["runs"] == {"folders", "--json"}
    for name in ("cache info", "cache repair"):
        assert found[name] == {"path", "--json"}
    # --fresh: not from where a check was stopped, hours ago; a digest is of the whole cache
    assert found["cache verify"] == {"path", "--json", "--fresh", "--digest", "--against"}
    weights = {"--teacher-weights", "--teacher"}  # one option: here no other is called so
    assert found["cache check"] == here | weights | {"path", "--clips"}
    assert found["demo"] == {"--out", "--json"}


def test_commands_are_thin() -> None:
    """Parse, call, print: everything else is the library's."""
    for file in Path(main.callback.__code__.co_filename).parent.glob("*.py"):
        for part in ast.parse(file.read_text()).body:
            if isinstance(part, ast.FunctionDef) and any(
                "command" in ast.unparse(d) for d in part.decorator_list
            ):
                first = part.body[1] if ast.get_docstring(part) else part.body[0]
                assert part.body[-1].end_lineno - first.lineno < 20, f"{file.name} {part.name}"
