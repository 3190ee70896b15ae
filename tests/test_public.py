"""What is promised: public names with their signatures, and a cache that Zarr alone reads."""

import ast
import importlib.metadata as metadata
import inspect
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import stdpipe as api
from stdpipe.data.views import orient

ROOT = Path(__file__).parents[1]


def run(*words: object, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == code, done.stderr
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


def read_alone(zarr_alone: Path, *words: object, code: int = 0) -> None:
    """examples/read_cache.py in a Python that has zarr and numpy alone."""
    start = (
        f"import sys, runpy; sys.path = [{str(zarr_alone)!r}, *[p for p in sys.path if 'site-pack' "
        "not in p]]; script, *words = sys.argv[1:]; sys.argv = [script, *words]; "
        "runpy.run_path(script, run_name='__main__'); "
        "assert not {'stdpipe', 'torch'} & sys.modules.keys()"
    )
    run("-S", "-I", "-c", start, ROOT / "examples" / "read_cache.py", *words, code=code)


@pytest.mark.parametrize("encoding", ["int8", "float16", "trunk-int8"])
def test_a_cache_is_read_without_stdpipe(
    tmp_path: Path, tiny: Path, zarr_alone: Path, encoding: str
) -> None:
    """One that has grown; of a trunk, the image and attention."""
    cache, out = tmp_path / "c.zarr", tmp_path / "clip.npz"
    options: dict[str, Any] = {"weights": "embedded", "encoding": encoding, "orientations": 2}
    options |= {"accept_teacher": True}
    api.extract_teacher(tiny, cache, targets=["sr"], **options)
    api.extract_teacher(tiny, cache, targets=["sr", "f_sr", "attention"], **options)
    opened = api.open_cache(cache)
    entry = opened.manifest["entries"][3]
    read_alone(zarr_alone, cache, entry, out)
    turn = int(entry.rpartition("@")[2])
    with np.load(out) as found:
        whole = {"sr", "f_sr", "attention"} - ({"f_sr"} if encoding == "trunk-int8" else set())
        assert set(found) == whole
        for name in whole:
            mine = orient(torch.from_numpy(found[name].astype(np.float32)), turn)
            mine = mine / 255 if name == "sr" else mine
            torch.testing.assert_close(mine, opened.read(entry, name), rtol=1e-6, atol=1e-6)


def test_a_cache_of_two_sizes_is_read_without_stdpipe(
    tmp_path: Path, make_data: Callable[..., Path], zarr_alone: Path
) -> None:
    """The clip of another size, and the last of the first size, which stand in two lists."""
    data = make_data(tmp_path / "data", clips=3)
    other = make_data(tmp_path / "other", clips=2, height=48) / "sequences/00001/0002"
    shutil.rmtree(data / "sequences/00001/0002")
    shutil.copytree(other, data / "sequences/00001/0002")
    cache, out = tmp_path / "c.zarr", tmp_path / "clip.npz"
    api.extract_teacher(data, cache, weights="embedded", encoding="int8", accept_teacher=True)
    opened = api.open_cache(cache)
    assert list(opened.manifest["groups"]) == ["7x48x48"]
    for key in ("00001/0002", "00001/0003"):
        (turn,) = opened.orientations(key)
        read_alone(zarr_alone, cache, f"{key}@{turn}", out)
        with np.load(out) as found:
            mine = orient(torch.from_numpy(found["f_sr"]), turn)
        torch.testing.assert_close(mine, opened.read(key, "f_sr"), rtol=1e-6, atol=1e-6)


def test_what_is_not_finished_is_not_read(tmp_path: Path, tiny: Path, zarr_alone: Path) -> None:
    cache = tmp_path / "c.zarr"
    options: dict[str, Any] = {"weights": "embedded", "accept_teacher": True, "targets": ["sr"]}
    api.extract_teacher(tiny, cache, part=(0, 2), **options)
    entries = json.loads((cache / "manifest.json").read_text())["entries"]
    read_alone(zarr_alone, cache, entries[0], tmp_path / "clip.npz", code=1)


class Student(nn.Module):
    """For the snippets: images alone."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, lr: Tensor) -> Tensor:
        return self.gain * lr.repeat_interleave(4, -1).repeat_interleave(4, -2)


def snippets() -> list[str]:
    """The indented lines of the docstrings of public names, and the code of docs/api.md."""
    found = []
    for name in ("extract_teacher", "open_cache", "CachedClips", "Distillation", "load_network",
                 "evaluate_network", "upscale_video"):  # fmt: skip
        lines = inspect.getdoc(getattr(api, name)).splitlines()  # type: ignore[union-attr]
        code = [line for line in lines if line.startswith("    ")]
        assert code, f"{name} has no example"
        found.append(inspect.cleandoc("\n".join(code)))
    return found + re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text(), re.DOTALL)


def test_examples_of_every_name_run(
    tmp_path: Path,
    make_data: Any,
    save_frames: Any,
    train: Any,
    stdpipe: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In order, each with what those before it made."""
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path / "data", 2, 256, 256)
    stdpipe(*train(tmp_path / "runs/a", tmp_path / "data", "--student", "rrn-8", "--scheme", "none",
                   "--config", "recipe", steps=1))  # fmt: skip
    (tmp_path / "vid4").symlink_to(tmp_path / "data")
    save_frames(tmp_path / "in.mp4", np.zeros((4, 32, 32, 3), np.uint8))
    clips = ("00001/0001", np.zeros((7, 256, 256, 3)))
    names: dict[str, Any] = {
        "stdpipe": api, "DataLoader": DataLoader, "student": Student(), "random": random,
        "key": clips[0], "clip": clips[1], "y": 0, "x": 0,
        "crop": lambda clip, y, x, side: clip[:, y : y + side, x : x + side],
    }  # fmt: skip
    for code in snippets():
        short = code.replace("2 * 1000", "2").replace('protocol="vid4"', 'protocol="vimeo"')
        if "Distillation(" in code and "for batch" not in code:
            clip = names["clips"][0]
            names["batch"] = {k: x[None] for k, x in clip.items() if isinstance(x, Tensor)}
        exec(short, names)
    assert (tmp_path / "out.mp4").is_file()
