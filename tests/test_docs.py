"""The documentation: its links lead somewhere, its commands can be typed, its code runs, it builds.

Nothing outside can be reached from a test, so links that lead there are checked by their shape.
"""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import click
import pytest
import torch

from stdpipe.cli.main import main
from stdpipe.distill import terms
from stdpipe.distill.names import SCHEMES
from stdpipe.distill.term import LossInputs
from stdpipe.evaluation.protocols import PROTOCOLS
from stdpipe.models.base import Features
from stdpipe.models.zoo import ZOO
from stdpipe.training import config

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
TEXTS = [*PAGES, *(ROOT / name for name in ("README.md", "CHANGELOG.md")),
         *sorted((ROOT / "benchmarks").glob("*.md"))]  # fmt: skip
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|<(https?://[^>\s]+)>")


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    """docs/generated.py, which is no package."""
    sys.path.insert(0, str(DOCS))  # as conf.py does, for the files beside it
    spec = spec_from_file_location("generated", DOCS / "generated.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(text: str, language: str) -> list[str]:
    return [code for found, code in FENCE.findall(text) if found == language]


def anchors(text: str) -> set[str]:
    """What `#...` may name in a page: its headings as GitHub spells them, and its own labels."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}
    return slugs | set(re.findall(r"^\((\S+)\)=$", text, re.MULTILINE))


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Of a file on the disk, and of a heading in it; those to the web are at least well formed."""
    text = page.read_text()
    assert "{doc}`" not in text, "write a link: it leads on outside the built pages, too"
    for link, bare in LINK.findall(FENCE.sub("", text)):
        parts = urlsplit(link or bare)
        if parts.scheme:
            assert parts.scheme == "https", link or bare
            assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), link or bare
            continue
        target = page.parent / parts.path if parts.path else page
        assert target.exists(), f"{page.name}: {link}"
        if parts.fragment:
            assert parts.fragment in anchors(target.read_text()), f"{page.name}: {link}"


def test_every_page_is_in_the_table_of_contents() -> None:
    contents = "\n".join(blocks((DOCS / "index.md").read_text(), "{toctree}"))
    listed = re.findall(r"^(\w+)$", contents, re.MULTILINE)
    assert sorted(listed) == sorted(page.stem for page in PAGES if page.stem != "index")


def command_lines(text: str) -> Iterator[list[str]]:
    """The words behind `stdpipe` of each command in a page's shell blocks, lines joined."""
    indented = re.findall(r"(?:^ {4,}\S.*\n)+", FENCE.sub("", text), re.MULTILINE)
    for block in [*blocks(text, "sh"), *map(dedent, indented)]:
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "stdpipe" in words and "=" not in words[0]:
                yield words[words.index("stdpipe") + 1 :]


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_commands_can_be_typed(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Click takes every option and value; nothing runs. Modules named are those of examples/."""
    monkeypatch.chdir(ROOT / "examples")
    monkeypatch.setattr(sys, "path", list(sys.path))
    text = page.read_text()
    for words in command_lines(text):
        command: click.Command = main
        rest = list(words)
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            command = command.commands[rest.pop(0)]
        if not (rest and rest[0] in ("--help", "--version")):
            filled = [re.sub(r"\$\w+", "0", word) for word in rest]
            command.make_context(command.name, filled, help_option_names=["-h", "--help"])


def test_there_are_commands_to_check() -> None:
    """The two pages that walk through everything have all of the main ones."""
    for name in ("tutorial", "vimeo", "videos"):
        found = {words[0] for words in command_lines((DOCS / f"{name}.md").read_text())}
        wanted = {"extract-teacher", "train-student", "evaluate", "export", "upscale", "cache"}
        assert wanted <= found


def test_what_is_generated_is_whole(generated: ModuleType) -> None:
    """Every key, command, option, scheme, protocol and mark."""
    for name, cls in (("student_keys", config.StudentTraining),
                      ("teacher_keys", config.TeacherTraining)):  # fmt: skip
        rows = generated.GENERATED[name]().splitlines()[2:]
        keys = list(config.to_mapping(cls()))
        assert [row.split("`")[1] for row in rows] == keys
        for row, key in zip(rows, keys, strict=True):
            default = row.split("|")[2].strip().strip("`")
            assert config.load(cls, None, [f"{key}={default}"]) == cls()
            assert len(row.split("|")[3]) > 10
    text = generated.commands()
    for command in main.commands.values():
        assert f"\n## stdpipe {command.name}\n" in f"\n{text}"
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.opts[-1] in text
    assert all(f"| `{name}` |" in generated.schemes() for name in SCHEMES)
    assert all(f"### {name}\n" in generated.protocols() for name in PROTOCOLS)
    marks = [mark for page in PAGES for mark in generated.MARK.findall(page.read_text())]
    assert sorted(marks) == sorted(generated.GENERATED)


def cells(markdown: str) -> dict[str, list[str]]:
    """Each row's cells, by the name in back quotes in its first."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines()]
    return {row[0].strip("`"): row[1:] for row in rows[2:]}


@pytest.mark.slow
def test_the_tables_of_networks_are_the_commands(
    generated: ModuleType, stdpipe: Callable[..., Any]
) -> None:
    """What `stdpipe models --json` says stands in the page, with why counts differ."""
    rows = json.loads(stdpipe("models", "--json").stdout)["models"]
    counted, published = (cells(generated.GENERATED[x]()) for x in ("networks", "published"))
    notes = generated.GENERATED["differences"]().splitlines()
    assert list(counted) == list(published) == [row["name"] for row in rows]
    for row in rows:
        of, name = row["published"], row["name"]
        role, kind, frames, parameters, _, tmac, deformable, channels = counted[name]
        assert (role, kind) == (row["role"] or "", row["kind"])
        assert (int(frames), int(channels)) == (row["frames"], row["f_sr_channels"])
        assert int(parameters.replace(",", "")) == row["parameters"]
        assert float(tmac) == pytest.approx(row["tmac"], abs=5e-4)
        assert float(deformable or 0) == pytest.approx(row["tmac_deformable"], abs=5e-4)
        source, parameters, tmac, paper_tmac = published[name]
        assert source.replace("\\", "") == row["source"]
        for cell, count, kind in ((parameters, of["parameters"], ","), (tmac, of["tmac"], ".3f")):
            form = f" ({of['form']})" if of["form"] else ""
            assert cell == (f"{count:{kind}}{form}" if count else "")
        assert float(paper_tmac or 0) == (of["std_paper_tmac"] or 0)
        told = [note for note in notes if note.startswith(f"- `{name}`: ")]
        assert len(told) == bool(of["note"])


def test_every_scheme_is_explained(generated: ModuleType) -> None:
    text = generated.fill((DOCS / "schemes.md").read_text())
    assert all(f"`{name}`" in text for name in SCHEMES if name != "none")


def test_a_mark_that_names_nothing_is_no_page(generated: ModuleType) -> None:
    with pytest.raises(KeyError):
        generated.fill("<!-- generated: nothing -->")
    assert generated.fill("a <!-- generated: nothing -->") == "a <!-- generated: nothing -->"


def test_the_scheme_that_extend_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its two pieces of code, put where the page says: zero for equal features, else a gradient."""
    equation, line = blocks((DOCS / "extend.md").read_text(), "python")
    edges = ModuleType("edges")
    exec(compile(equation, "edges.py", "exec"), edges.__dict__)
    ((name, file),) = eval(f"{{{line}}}").items()
    assert file == edges.__name__
    monkeypatch.setattr(terms, "TERMS", {**terms.TERMS, name: edges.TERMS[name]})
    f_sr = torch.rand(1, 2, 64, 16, 16)
    hr = torch.rand(1, 2, 3, 16, 16)

    def loss(student: torch.Tensor) -> dict[str, torch.Tensor]:
        features = Features(student, student, student, hr)
        learners = terms.build_helpers({"edges": 1.0}, (64, 64))
        inputs = LossInputs(features, {"hr": hr, "f_sr": f_sr}, learners)
        return terms.scheme_loss(inputs, {"edges": 1.0})[0]

    assert loss(f_sr)["edges"] == 0
    assert loss(f_sr + 0.5)["edges"] < 1e-10  # a constant has no edges
    other = torch.rand_like(f_sr).requires_grad_()
    loss(other)["loss"].backward()
    assert other.grad is not None
    assert other.grad.abs().sum() > 0


def test_the_quoted_lines_begin_where_the_code_does() -> None:
    """extend.md shows the examples without their docstrings, by line number."""
    for name, first in re.findall(
        r"\.\./examples/(\w+\.py)\n.*\n:lines: (\d+)-", (DOCS / "extend.md").read_text()
    ):
        source = (ROOT / "examples" / name).read_text()
        docstring = ast.parse(source).body[0]
        assert docstring.end_lineno == int(first) - 2


@pytest.mark.parametrize("name", ["cache", "encodings", "protocols"])
def test_quoted_figures_are_results(name: str) -> None:
    """A decimal in a table of these pages stands in RESULTS.md, too; sizes in TB are computed."""
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    rows = [row for row in (DOCS / f"{name}.md").read_text().splitlines() if row.startswith("|")]
    quoted = {n for r in rows if " TB" not in r for n in re.findall(r"\d+\.\d+(?:e-\d+)?", r)}
    assert quoted
    assert not {number for number in quoted if number not in results}


def build(out: Path) -> None:
    """As `make docs` does; a warning is an error."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, "-d", out / "cache", DOCS, out / "html"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("myst_parser"), reason="pip install '.[docs]'")
def test_it_builds_and_needs_no_network(tmp_path: Path) -> None:
    """In strict mode, in which a link within that leads nowhere is an error. What a page loads
    lies beside it."""
    build(tmp_path)
    html = tmp_path / "html"
    assert {page.stem for page in html.glob("*.html")} >= {page.stem for page in PAGES}
    for page in html.glob("*.html"):
        text = page.read_text()
        loaded = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", text)
        assert not [tag for tag in loaded if re.search(r"(?:src|href)=\"(?:https?:)?//", tag)]
    for style in html.rglob("*.css"):
        assert not re.search(r"@import|url\(['\"]?(?:https?:)?//", style.read_text()), style
    networks = (html / "networks.html").read_text()
    assert all(networks.count(f">{name}</span></code>") >= 2 for name in ZOO)


def type_all(page: str, folder: Path) -> None:
    """Type all shell blocks of a page in a folder, one after the other, as a reader does."""
    script = "\n".join(["set -eu", *blocks((DOCS / page).read_text(), "sh")])
    beside = Path(sys.executable).parent  # stdpipe and python of the same installation
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": f"{beside}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("onnxscript"), reason="pip install '.[export]'")
def test_the_tutorial_runs(tmp_path: Path) -> None:
    type_all("tutorial.md", tmp_path)
    for made in ("cache.zarr/complete.json", "runs/taught/weights.pt", "results/table.md",
                 "large.mp4", "student.onnx"):  # fmt: skip
        assert (tmp_path / made).is_file()


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("onnxscript"), reason="pip install '.[export]'")
def test_from_videos_to_a_phone(tmp_path: Path, films: Path) -> None:
    """On real film of two sizes: the sources held out are scored, and what is made is a video."""
    (tmp_path / "films").symlink_to(films)
    type_all("videos.md", tmp_path)
    for made in ("films.zarr/complete.json", "runs/phone/weights.pt", "results/phone/table.md",
                 "report/index.html", "phone.onnx", "large.mp4"):  # fmt: skip
        assert (tmp_path / made).is_file()
