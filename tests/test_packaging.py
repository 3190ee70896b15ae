"""Tests what installs, under which names, and in which direction imports point."""

import ast
import configparser
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOMES = {"stdpipe": ROOT / "stdpipe", "stdpipe.cache": ROOT / "cache", "stdpipe.cli": ROOT / "cli"}
HOMES["stdpipe.configs"] = ROOT / "configs"
VERBS = {
    "extract", "train", "train_teacher", "evaluate", "report", "experiment", "upscale", "export",
    "api", "bench", "check", "plan", "demo", "degrade",
}  # fmt: skip
# Every room may use these, and so does every plain module at the top of stdpipe/.
COMMON = {
    "cache.errors", "cache.files", "cache.schema",
    "assets", "suggest", "templates", "resample", "device", "distributed", "faults",
}  # fmt: skip
# room -> what else of stdpipe it may import: rooms, or single modules
STANDS_ON = {
    "models": set(),
    "data": set(),
    "distill": {"models"},
    "evaluation": {"cache.checksum", "cache.seal", "data", "models"},
    "deploy": {"data", "evaluation", "models"},
    "features": {"cache", "models", "data", "distill"},
    "training": {"cache", "models", "data", "distill", "evaluation", "features"},
    "grid": {"cache", "models", "data", "distill", "evaluation", "features", "training"},
    "reporting": {
        "cache", "models", "data", "distill", "evaluation", "features", "training", "grid"
    },
    "assets": set(),
}  # fmt: skip
MOST_LINES = 400  # of a file; a longer one is split by what its parts know


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def packages_on_disk() -> Iterator[str]:
    for name, home in HOMES.items():
        for init in home.rglob("__init__.py"):
            yield ".".join([name, *init.parent.relative_to(home).parts])


def modules() -> dict[str, Path]:
    """Full name of every module that ships -> its file; a package is its __init__.py."""
    found = {}
    for name, home in HOMES.items():
        for file in home.rglob("*.py"):
            *folders, stem = file.relative_to(home).with_suffix("").parts
            found[".".join([name, *folders, *([] if stem == "__init__" else [stem])])] = file
    return found


def imports(file: Path) -> Iterator[str]:
    """Full names of what a file imports, modules and names in them, wherever the import stands."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Module of stdpipe -> the modules of stdpipe that it imports."""
    known = modules()
    found = {}
    for name, file in known.items():
        # `from stdpipe.cache.errors import UserError` imports no module of that name
        own = {i if i in known else i.rpartition(".")[0] for i in imports(file)}
        found[name] = {module for module in own & known.keys() if module != name}
    return found


def room(module: str) -> str:
    """The folder that a module lies in, without "stdpipe."; "" for one at the top of stdpipe/."""
    first = module.split(".")[1:2]
    return first[0] if first and first[0] not in VERBS | COMMON else ""


def arrows(graph: dict[str, set[str]], rooms: set[str]) -> Iterator[tuple[str, str]]:
    """The imports that lead out of the rooms."""
    for module, others in graph.items():
        if room(module) in rooms:
            yield from ((module, other) for other in others if room(other) != room(module))


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The groups of modules that import each other, by whatever detour."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            new = graph.get(ahead.pop(), set()) - seen
            seen |= new
            ahead.extend(new)
        return seen

    behind = {module: reached(module) for module in graph}
    found = []
    for module in graph:
        group = {other for other in behind[module] if module in behind[other]}
        if group and group not in found:
            found.append(group)
    return found


def run(*command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_listed_packages_are_the_folders() -> None:
    listed = setup_cfg()["options"]["packages"].split()
    assert sorted(listed) == sorted(packages_on_disk())
    assert len(set(listed)) == len(listed)


def test_folders_at_the_top_install_under_stdpipe() -> None:
    lines = setup_cfg()["options"]["package_dir"].strip().splitlines()
    mapped = {name: ROOT / home for name, home in (line.split(" = ") for line in lines)}
    assert mapped == {name: home for name, home in HOMES.items() if name != "stdpipe"}


def test_every_folder_is_a_room_and_every_verb_a_file() -> None:
    """Otherwise the tests below would pass over what they do not know."""
    folders = {init.parent.name for init in (ROOT / "stdpipe").glob("*/__init__.py")}
    assert folders == STANDS_ON.keys()
    plain = {file.stem for file in (ROOT / "stdpipe").glob("*.py")} - {"__init__"}
    assert plain <= VERBS | COMMON


def test_no_room_imports_a_verb(graph: dict[str, set[str]]) -> None:
    found = list(arrows(graph, {*STANDS_ON, "cache"}))
    assert found
    assert [pair for pair in found if pair[1].removeprefix("stdpipe.") in VERBS] == []


@pytest.mark.parametrize("name", STANDS_ON)
def test_a_room_stands_on_the_rooms_below_it(name: str, graph: dict[str, set[str]]) -> None:
    allowed = {f"stdpipe.{other}" for other in COMMON | STANDS_ON[name]}

    def may(other: str) -> bool:
        return other in allowed or f"stdpipe.{room(other)}" in allowed

    assert [pair for pair in arrows(graph, {name}) if not may(pair[1])] == []


def test_what_every_room_may_use_imports_no_room(graph: dict[str, set[str]]) -> None:
    allowed = {f"stdpipe.{name}" for name in COMMON}
    found = [(m, other) for m in allowed & graph.keys() for other in graph[m] - allowed]
    assert found == []


def test_the_cache_knows_nothing_but_itself(graph: dict[str, set[str]]) -> None:
    assert any(module.startswith("stdpipe.cache.") for module in graph)
    assert list(arrows(graph, {"cache"})) == []


def test_nothing_below_imports_the_commands(graph: dict[str, set[str]]) -> None:
    above = {module for module in graph if room(module) == "cli"}
    assert above
    assert [(m, o) for m in graph.keys() - above for o in graph[m] & above] == []


def test_no_modules_import_each_other(graph: dict[str, set[str]]) -> None:
    """Imports within functions count, too: they are how a circle is hidden."""
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
    assert circles(graph) == []


def test_no_file_outgrows_its_room() -> None:
    sizes = {name: len(file.read_text().splitlines()) for name, file in modules().items()}
    assert {name: size for name, size in sizes.items() if size > MOST_LINES} == {}


def test_nobody_imports_a_top_level_folder() -> None:
    for home in HOMES.values():
        for file in home.rglob("*.py"):
            tops = {name.split(".")[0] for name in imports(file)}
            assert not tops & {"cache", "cli", "configs"}, file


@pytest.mark.parametrize("module", ["stdpipe.cli.main", "stdpipe.data.layouts", "stdpipe.cache"])
def test_what_must_answer_at_once_does_without_torch(module: str, tmp_path: Path) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules)"
    assert run(sys.executable, "-c", code, cwd=tmp_path) == "False\n"


def test_help_does_without_torch_and_zarr(tmp_path: Path) -> None:
    code = (
        "import sys, click.testing\nfrom stdpipe.cli.main import main\n"
        "for name in (*main.commands, ''):\n"
        "    click.testing.CliRunner().invoke(main, [*filter(None, [name]), '--help'])\n"
        "print({'torch', 'zarr', 'numpy'} & set(sys.modules))"
    )
    assert run(sys.executable, "-c", code, cwd=tmp_path) == "set()\n"


def test_assets_and_configs_are_there_as_resources() -> None:
    assets = files("stdpipe.assets")
    assert (assets / "sample" / "sep_trainlist.txt").is_file()
    assert (assets / "teacher.pt").is_file()
    assert (files("stdpipe.configs") / "paper.yaml").is_file()
    assert (files("stdpipe.configs") / "experiments" / "table1.yaml").is_file()
    assert (files("stdpipe") / "py.typed").is_file()
    for name in ("page.html", "page.css", "page.js"):
        assert (files("stdpipe.reporting") / name).is_file()


def test_every_source_file_says_what_it_is_for() -> None:
    for home in HOMES.values():
        for file in home.rglob("*.py"):
            if file.name != "__init__.py":
                assert ast.get_docstring(ast.parse(file.read_text())), file


@pytest.mark.slow
def test_the_wheel(tmp_path: Path) -> None:
    """Built from a copy, so that nothing is left in the working tree."""
    tracked = run("git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in tracked:
        if (ROOT / name).is_file():
            (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "src" / name).write_bytes((ROOT / name).read_bytes())
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q")
    run(*pip, "-w", str(tmp_path / "out"), ".", cwd=tmp_path / "src")
    (wheel,) = (tmp_path / "out").glob("stdpipe-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"stdpipe"}
    for home, folder in (("cache", "cache"), ("cli", "cli"), ("configs", "configs")):
        for file in (ROOT / home).glob("*.[py][ya]*"):
            if file.suffix in (".py", ".yaml"):
                assert f"stdpipe/{folder}/{file.name}" in names
    for file in (ROOT / "stdpipe" / "assets").rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            assert file.relative_to(ROOT).as_posix() in names
    assert {
        "stdpipe/py.typed",
        "stdpipe/reporting/page.css",
        "stdpipe/reporting/page.html",
    } <= names
    assert not [name for name in names if "tests" in name.split("/")]
