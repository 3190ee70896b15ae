"""What is promised: public names with their signatures, and a cache that Zarr alone reads."""

import ast
import importlib.metadata as metadata
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import stdpipe as api

ROOT = Path(__file__).parents[1]


def run(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_public_name_changes_unseen() -> None:
    """If this is meant: python docs/public.py > docs/api.txt, and a line in CHANGELOG.md."""
    pytest.importorskip("griffe")
    listed = (ROOT / "docs" / "api.txt").read_text()
    assert run(ROOT / "docs" / "public.py") == listed
    first = {re.split(r"[(.]", line)[0] for line in listed.splitlines()}
    assert first == set(api.__all__)


def test_type_checkers_see_the_same_names() -> None:
    """The block for type checkers in stdpipe/__init__.py imports what __getattr__ gives."""
    body = ast.parse((ROOT / "stdpipe" / "__init__.py").read_text()).body
    block = next(node for node in body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {name: f"stdpipe.{module}" for name, module in api._PUBLIC.items()}


def needed_by(package: str) -> set[str]:
    """A distribution and all that it needs, without extras."""
    found, waiting = set(), [package]
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        for text in metadata.requires(name) or ():
            if "extra ==" not in text and "python_version <" not in text:
                waiting.append(re.match(r"[\w.-]+", text)[0])  # type: ignore[index]
    return found


@pytest.fixture(scope="module")
def zarr_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with zarr, numpy and what these need, and nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    for name in needed_by("zarr") | needed_by("numpy"):
        for file in metadata.files(name) or ():
            top, place = file.parts[0], Path(str(file.locate()))
            if top != ".." and len(file.parts) > 0 and not (folder / top).exists():
                for _ in file.parts[1:]:
                    place = place.parent
                (folder / top).symlink_to(place)
    return folder


def test_a_cache_is_read_without_stdpipe(tmp_path: Path, tiny: Path, zarr_alone: Path) -> None:
    """examples/read_cache.py in a Python that has zarr and numpy alone; the cache has grown."""
    cache = tmp_path / "c.zarr"
    options = {"weights": "embedded", "encoding": "int8", "orientations": 2, "accept_teacher": True}
    api.extract_teacher(tiny, cache, targets=["sr"], **options)
    api.extract_teacher(tiny, cache, targets=["sr", "f_sr", "attention"], **options)
    opened = api.open_cache(cache)
    entry = opened.manifest["entries"][3]
    start = (
        f"import sys, runpy; sys.path = [{str(zarr_alone)!r}, *[p for p in sys.path if 'site-pack' "
        "not in p]]; script, *words = sys.argv[1:]; sys.argv = [script, *words]; "
        "runpy.run_path(script, run_name='__main__'); "
        "assert not {'stdpipe', 'torch'} & sys.modules.keys()"
    )
    out = tmp_path / "clip.npz"
    run("-S", "-I", "-c", start, ROOT / "examples" / "read_cache.py", cache, entry, out)
    with np.load(out) as found:
        turn = int(entry.rpartition("@")[2])
        for name in ("f_sr", "attention"):
            mine = found[name]
            if turn & 1:
                mine = mine[..., ::-1]
            if turn & 2:
                mine = mine[..., ::-1, :]
            if turn & 4:
                mine = mine.swapaxes(-1, -2)
            theirs = opened.read(entry, name).numpy()
            np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6)
