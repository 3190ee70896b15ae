"""Every command gives from a packed file what it gives from the folder, to the last bit."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stdpipe import cache
from stdpipe.cache.seal import unseal

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def packed(tiny: Path, stdpipe: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("packed") / "tiny.h5"
    stdpipe("pack-clips", "--data", tiny, "--out", file)
    return Path(file)


def files_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_evaluate(tmp_path: Path, tiny: Path, packed: Path, stdpipe: Command) -> None:
    results = []
    for data in (tiny, packed):
        out = tmp_path / data.name
        stdpipe("evaluate", "--data", data, "--model", "bicubic", "--out", out)
        results.append(unseal((out / "result.json").read_bytes()) | {"data": None})
        del results[-1]["files"]["table.md"]  # which names the data
    assert results[0] == results[1]
    assert files_of(tmp_path / tiny.name / "pictures") == files_of(out / "pictures")


def test_extract_and_check(
    tmp_path: Path, tiny: Path, packed: Path, tiny_cache: Path, extract: Command, stdpipe: Command
) -> None:
    """Byte for byte, but for the note that says where the data lay, and for files' times."""
    stdpipe(*extract(packed, tmp_path / "c", "--orientations", 2))
    made, expected = (cache.load_manifest(c) for c in (tmp_path / "c", tiny_cache))
    assert made.cache_id == expected.cache_id
    contents = [files_of(c) for c in (tmp_path / "c", tiny_cache)]
    for path in ("manifest.json", "journal/manifest.json", "journal/0-of-1.000000.jsonl"):
        assert all(files.pop(path) for files in contents)
    assert contents[0] == contents[1]
    assert cache.digest(tmp_path / "c") == cache.digest(tiny_cache)
    for more in ((), ("--data", packed)):  # where the manifest says, and where the user does
        told = stdpipe("cache", "check", tmp_path / "c", "--teacher-weights", "random:0", *more)
        assert told.stdout.endswith("6 checked, 0 beyond\n")


def weights(run: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(run / "weights.pt", weights_only=True)["params"]
    return loaded


@pytest.mark.parametrize(
    ("scheme", "workers"), [("sd", 0), pytest.param("std", 2, marks=pytest.mark.slow)]
)
def test_train_student(
    tmp_path: Path, tiny: Path, packed: Path, tiny_cache: Path, train: Command, stdpipe: Command,
    scheme: str, workers: int,
) -> None:  # fmt: skip
    """From a cache that was made from the folder; and a run begun on one goes on with the other."""
    more = ("--cache", tiny_cache, "--scheme", scheme)
    for name, data in (("folder", tiny), ("packed", packed)):
        stdpipe(*train(tmp_path / name, data, *more, steps=2, workers=workers))
    here, there = weights(tmp_path / "folder"), weights(tmp_path / "packed")
    assert all(torch.equal(here[key], there[key]) for key in here)
    stdpipe(*train(tmp_path / "packed", tiny, *more, steps=2, workers=workers))


def test_train_teacher(tmp_path: Path, tiny: Path, packed: Path, stdpipe: Command) -> None:
    network = "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1"
    settings = ("--set", "steps=1", "--set", "batch=1", "--set", "patch=32", "--set", "workers=0")
    for data in (tiny, packed):
        out = tmp_path / data.name
        stdpipe("train-teacher", "--data", data, "--teacher", network, "--out", out, *settings)
    here, there = weights(tmp_path / tiny.name), weights(tmp_path / packed.name)
    assert all(torch.equal(here[key], there[key]) for key in here)


def test_damage_is_told_in_one_line_by_worker_processes_too(
    tmp_path: Path, packed: Path, train: Command, refused: Command
) -> None:
    copy = Path(shutil.copy(packed, tmp_path / "c.h5"))
    content = bytearray(copy.read_bytes())
    for at in range(12_000, len(content), 1000):
        content[at] ^= 1
    copy.write_bytes(content)
    told = refused(*train(tmp_path / "run", copy, "--scheme", "none", workers=1))
    assert told.startswith("stdpipe: clip 00001/000")
    assert told.endswith(f"is damaged in {copy}: copy the file again, or pack it again")
