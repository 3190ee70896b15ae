"""Weights, results, caches and experiments that name a module of someone's own: none is imported,
by no command, unless --allow-module says so."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stdpipe.models.checkpoints import load_network, save_network

Command = Callable[..., Any]
EXAMPLE = Path(__file__).parents[2] / "examples" / "own_teacher.py"
OWN = "bait:Mine:width=8"
ALLOW = ("--allow-module", "bait")
GRID = {
    "name": "e",
    "teachers": {"t": "embedded"},
    "students": ["fastdvdnet-quarter"],
    "schemes": ["none"],
    "tests": {"own": {"data": "own"}},
    "training": {"steps": 1, "warmup_steps": 0, "batch": 1, "patch": 32, "workers": 0},
}
NAMED = {  # where an experiment can name a network
    "students": {"students": [OWN]},
    "baselines": {"baselines": [OWN]},
    "weighed": {"baselines": ["@w.pt"]},
    "teachers": {"teachers": {"t": {"weights": "random:0", "network": OWN}}},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny: Path, stdpipe: Command) -> Path:
    """Files that name bait:Mine: weights, a cache, a result, students and experiments."""
    root = tmp_path_factory.mktemp("made")
    code = EXAMPLE.read_text() + "\nopen('imported', 'w').close()\n"
    (root / "bait.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "path", list(sys.path))
        net, told = load_network(OWN, "random:0")
        save_network(root / "w.pt", net, told["network"], "bd")
        found = ("--teacher", OWN, "--weights", "w.pt", "--encoding", "float32")
        stdpipe("extract-teacher", "--data", tiny, *found, "--cache", "c.zarr")
        one = ("--model", f"{OWN}@w.pt", "--pictures", 0)
        stdpipe("evaluate", "--data", tiny, *one, "--out", "result")
        del sys.modules["bait"]
    (root / "list.yaml").write_text(yaml.safe_dump({"a": {"student": OWN}}))
    for name, changes in NAMED.items():
        (root / f"{name}.yaml").write_text(yaml.safe_dump({**GRID, **changes}))
    (root / "imported").unlink()
    return root


@pytest.fixture
def here(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of those files, in the folder where commands run; the module is not yet imported."""
    folder = Path(shutil.copytree(made, tmp_path / "here"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    sys.modules.pop("bait", None)


def command(words: str, tiny: Path) -> list[str]:
    return words.replace("DATA", str(tiny)).split()


REFUSED = [
    "evaluate --data DATA --weights w.pt --out out",
    "upscale DATA/sequences/00001/0001 out --weights w.pt",
    "export --weights w.pt --out out.pt2 --format torch",
    "extract-teacher --data DATA --weights w.pt --cache out",
    "extract-teacher --data DATA --weights w.pt --cache out --plan",
    "train-student --data DATA --students list.yaml --scheme none --out out",
    "train-student --data DATA --student vdsr --live-teacher w.pt --scheme output --out out",
    "models pisr:student=bait:Mine",
    "cache check c.zarr --teacher-weights w.pt",
    *(f"experiment {name}.yaml --data DATA --out out" for name in NAMED),
    *(f"experiment {name}.yaml --data DATA --out out --plan" for name in NAMED),
]


@pytest.mark.parametrize("words", REFUSED)
def test_refused(here: Path, tiny: Path, stdpipe: Command, words: str) -> None:
    """In one line that names the module and the way on; nothing is imported, nothing is left."""
    code = 2 if "list.yaml" in words else 1
    if words.startswith("experiment") and "weighed" not in words:
        code = 2
    told = stdpipe(*command(words, tiny), code=code).stderr.splitlines()[-1]
    assert "bait:Mine" in told
    assert "--allow-module bait" in told
    assert not (here / "imported").exists()
    assert not list(here.glob("out/**/*.pt"))


@pytest.mark.parametrize(
    "words",
    [
        "report result --out out",
        "runs result",
        "cache info c.zarr",
        "cache verify c.zarr",
        "cache repair c.zarr",
        "train-teacher --data DATA --teacher edvr-m --init w.pt --out out",
        "train-student --data DATA --student vdsr --cache c.zarr --out out --set steps=1"
        " --set batch=1 --set patch=32 --set workers=0 --config paper --set warmup_steps=0",
    ],
)
def test_not_imported(here: Path, tiny: Path, stdpipe: Command, words: str) -> None:
    """What only tells or compares the name."""
    stdpipe(*command(words, tiny), code=int("--init" in words))
    assert not (here / "imported").exists()


@pytest.mark.parametrize(
    "words",
    [
        REFUSED[0],
        REFUSED[1],
        REFUSED[4],
        "models pisr:student=bait:Mine --json",
        "train-student --data DATA --students list.yaml --scheme none --out out --set steps=1"
        " --set batch=1 --set patch=32 --set workers=0 --config paper --set warmup_steps=0",
        "cache check c.zarr --teacher-weights w.pt",
        "report result --out out",
    ],
)
def test_allowed(here: Path, tiny: Path, stdpipe: Command, words: str) -> None:
    """The same, when the user says that the module is trusted."""
    stdpipe(*command(words, tiny), *ALLOW)
    assert (here / "imported").exists()


@pytest.mark.parametrize("name", NAMED)
def test_allowed_in_an_experiment(here: Path, tiny: Path, stdpipe: Command, name: str) -> None:
    where = ("--data", tiny, "--out", "out", "--plan")
    stdpipe("experiment", f"{name}.yaml", *where, *ALLOW)
    assert (here / "imported").exists()


def test_the_word_ends_with_the_command(here: Path, tiny: Path, stdpipe: Command) -> None:
    """In a process of many commands, as a notebook is."""
    stdpipe(*command(REFUSED[4], tiny), *ALLOW)
    stdpipe(*command(REFUSED[4], tiny), code=1)


@pytest.mark.parametrize("module", ["bait:Mine", "", "../bait", "ba it"])
def test_no_module(here: Path, refused: Command, module: str) -> None:
    """A class, or a path, is no module's name."""
    told = refused("report", "result", "--out", "out", "--allow-module", module, code=2)
    assert repr(module) in told
