"""What installs, under which name, and in which direction imports point."""

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
STAGES = {"extract", "train", "train_teacher", "evaluate", "demo", "runs", "config"}
STAGES |= {"export", "upscale", "footage", "report", "experiment"}
STAGES |= {"trainer", "students", "run_list", "watch"}
# room -> what of stdpipe it may import; "" stands for plain modules such as stdpipe.suggest
MAY_IMPORT = {
    "cache": {"cache"},
    "models": {"models", ""},
    "data": {"data", ""},
    "distill": {"distill", "models", ""},
    "evaluation": {"evaluation", "data", ""},
    # it runs the stages for experiment.py, as demo.py does
    "grid": {
        "grid", "config", "extract", "train", "train_teacher", "evaluate", "cache", "data",
        "distill", "evaluation", "models", "",
    },
    "reporting": {"reporting", "evaluation", "data", "distill", "models", ""},
}  # fmt: skip


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def packages_on_disk() -> Iterator[str]:
    for name, home in HOMES.items():
        for init in home.rglob("__init__.py"):
            yield ".".join([name, *init.parent.relative_to(home).parts])


def imports(file: Path) -> Iterator[str]:
    """Full names of the modules a file imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms(file: Path) -> Iterator[str]:
    """Of stdpipe's rooms, those that a file imports from."""
    for name in imports(file):
        first, *rest = name.split(".")
        if first == "stdpipe" and rest:
            plain = (ROOT / "stdpipe" / f"{rest[0]}.py").exists() and rest[0] not in STAGES
            yield "" if plain else rest[0]


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


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_no_import_points_upward(room: str) -> None:
    home = ROOT / room if room == "cache" else ROOT / "stdpipe" / room
    found = {(file.name, other) for file in home.rglob("*.py") for other in rooms(file)}
    assert found
    assert {pair for pair in found if pair[1] not in MAY_IMPORT[room]} == set()


def test_nothing_below_imports_the_commands() -> None:
    for home in (ROOT / "stdpipe", ROOT / "cache", ROOT / "configs"):
        for file in home.rglob("*.py"):
            assert "cli" not in set(rooms(file)), file


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
