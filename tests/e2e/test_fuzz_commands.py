"""Random command lines of every command, of good and bad values: exit 0, 1 or 2, and one line.

How many a command, STDPIPE_FUZZ says. Networks, data and steps are small; `demo` and what a config
asks for without them would take minutes, so that stands in for itself.
"""

import os
import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import click
import pytest
from click.testing import CliRunner

from stdpipe.cache.errors import UserError
from stdpipe.cli.main import main
from stdpipe.models import zoo
from stdpipe.models.checkpoints import save_network

Command = Callable[..., Any]
LINES = int(os.environ.get("STDPIPE_FUZZ", "8"))
BAD = [
    "", " ", "-1", "0", "1e999", "nan", "999999999999999999999", "x" * 300, "a|b\nc", "=1+1", "é",
    "absent", "absent.pt", "text.txt", "empty", "junk.pt", "junk.yaml", "junk.h5", "vdsr@", ":",
    "a:b:c", "edvr:num_feat=0", "vdsr:depth=-1", "os:system", "random:", "random:x", "lr=", "=",
    "steps=0", "batch=0", "patch=7", "patch=999", "scheme=none", "td=-1", "std,,", "bd:sigma=nan",
    "320x", "0x0", "1/0", "5/4", "data:test=2", "data:pad=x", "data:lr=absent", "http://[", "?",
]  # fmt: skip
GOOD = {
    "data": ["data", "data:test=0.5", "clips.h5", "frames"],
    "out": ["out", "out.mp4", "out/below", "out.onnx", "out.h5"],
    "cache": ["c.zarr", "new.zarr"],
    "model": ["bicubic", "vespcn", "vdsr@random:0"],
    "weights": ["random:0", "net.pt"],
    "device": ["cpu", "auto", "cuda"],
    "assignments": ["lr=1e-4", "batch=1", "log_every=1", "seed=3"],
    "scheme": ["none", "output", "std"],
    "student": ["vespcn"],
    "degradation": ["bi", "bd", "bi:scale=2"],
    "size": ["12x8"],
    "part": ["0/2"],
    "encoding": ["float16", "int8"],
    "targets": ["sr"],
    "teacher": ["random:0", "vespcn"],
    "network": ["vespcn"],
    "source": ["data", "data/sequences/00001/0001"],
    "folders": ["out", "data", "c.zarr"],
    "file": ["recipe", "table2", "out.onnx", "junk.yaml"],
}
OTHERS = ["1", "2", "data", "net.pt", "out", "random:0", "vespcn", "paper", "fp16", "own=data"]
# what keeps a line short, behind all that is drawn
SHORT = ["steps=1", "warmup_steps=0", "workers=0", "patch=16", "batch=2"]
LAST = {
    "train-student": [w for s in SHORT for w in ("--set", s)],
    "train-teacher": [w for s in SHORT if "warm" not in s for w in ("--set", s)],
    "experiment": ["--plan"],
    "models": ["bicubic"],
}
LONG = {"stdpipe.demo.run_demo", "stdpipe.bench.bench"}


def commands() -> Iterator[tuple[list[str], click.Command]]:
    for name, command in main.commands.items():
        if isinstance(command, click.Group):
            yield from (([name, below], found) for below, found in command.commands.items())
        else:
            yield [name], command


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory, make_data: Command, stdpipe: Command, extract: Command
) -> Path:
    """A folder of good and bad files, in which the command lines run."""
    root = Path(tmp_path_factory.mktemp("inputs"))
    data = make_data(root / "data", clips=2, height=16, width=24)
    stdpipe(*extract(data, root / "c.zarr", "--targets", "sr"))
    stdpipe("pack-clips", "--data", data, "--out", root / "clips.h5")
    stdpipe("degrade", data, root / "frames")
    save_network(root / "net.pt", zoo.parse("vespcn").build(), "vespcn", "bd")
    (root / "empty").mkdir()
    (root / "text.txt").write_text("not what you think\n")
    for name in ("junk.pt", "junk.yaml", "junk.h5"):
        (root / name).write_bytes(bytes(range(256)))
    return root


def drawn(rng: random.Random, path: list[str], command: click.Command, bad: float) -> list[str]:
    """A command line: most of what is required, and some of the rest; a share of bad values."""
    words = list(path)
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            kind = "data" if "data" in str(parameter.name) else str(parameter.name)
            count = 1 if parameter.nargs == 1 else rng.randint(0, 2)
            words += [value(rng, kind, parameter, bad) for _ in range(count) if rng.random() < 0.95]
        elif parameter.name not in ("help", "json", "jobs") or rng.random() < 0.1:
            if rng.random() > (0.95 if parameter.required else 0.2):
                continue
            words.append(rng.choice(parameter.opts))
            if not (isinstance(parameter, click.Option) and parameter.is_flag):
                words.append(value(rng, str(parameter.name), parameter, bad))
    return words + LAST.get(path[-1], [])


def value(rng: random.Random, kind: str, parameter: click.Parameter, bad: float) -> str:
    if rng.random() < bad:
        return rng.choice(BAD)
    if isinstance(parameter.type, click.Choice):
        return str(rng.choice(list(parameter.type.choices)))
    known = [words for name, words in GOOD.items() if name in kind]
    return rng.choice(known[0] if known else OTHERS)


@pytest.mark.parametrize("lines", [LINES])
@pytest.mark.parametrize("path", [path for path, _ in commands()], ids="-".join)
@pytest.mark.filterwarnings("ignore")  # in one process; the command itself tells them in one line
def test_no_line_is_a_bug(
    inputs: Path, monkeypatch: pytest.MonkeyPatch, path: list[str], lines: int
) -> None:  # fmt: skip
    monkeypatch.chdir(inputs)
    for function in LONG:
        monkeypatch.setattr(function, Mock(side_effect=UserError("takes too long")))
    command = next(found for words, found in commands() if words == path)
    rng = random.Random(zlib.crc32(" ".join(path).encode()))
    codes: Counter[int] = Counter()
    for _ in range(lines):
        words = drawn(rng, path, command, bad=rng.choice([0, 0.05, 0.2]))
        result = CliRunner().invoke(main, words, prog_name="stdpipe")
        assert result.exit_code in (0, 1, 2), (words, result.output, result.exc_info)
        assert "Traceback" not in result.output, words
        codes[result.exit_code] += 1
        if result.exit_code:
            told = [x for x in result.stderr.splitlines() if not x.startswith("stdpipe: warning")]
            assert any(line.startswith(("stdpipe: ", "Usage: ")) for line in told), (words, told)
    print(" ".join(path), dict(codes))
    assert lines < 100 or codes[0] + codes[1], "no line came as far as the library"
