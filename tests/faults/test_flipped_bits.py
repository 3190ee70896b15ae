"""One bit of a run's files or of weights has flipped: the command that reads the file refuses it.

Many flips in every kind of file are in tests/benchmarks/test_flips.py; here a few go through the
commands. Not asserted: damage to weights in containers without sums (safetensors, bare pickles).
"""

import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stdpipe.models.checkpoints import load_network
from stdpipe.models.reading import damaged_part, read_file

Command = Callable[..., Any]


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def weight_of(file: Path) -> int:
    """Where a number of the largest tensor lies in a file of torch."""
    with zipfile.ZipFile(file) as parts:
        part = max(parts.infolist(), key=lambda part: part.file_size)
        return part.header_offset + part.file_size


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, tiny: Path, train: Command, stdpipe: Command
) -> Path:
    """A run of one step of three, which can be resumed."""
    out = tmp_path_factory.mktemp("run") / "run"
    stdpipe(*train(out, tiny, "--scheme", "none", steps=1))
    return out


@pytest.mark.parametrize("name", ["config.yaml", "checkpoint.pt"])
def test_a_run_with_a_flipped_bit_is_not_resumed(
    tmp_path: Path, tiny: Path, run: Path, train: Command, stdpipe: Command, refused: Command,
    name: str,
) -> None:  # fmt: skip
    """Whole it goes on. A digit of config.yaml, a weight of the checkpoint."""
    shutil.copytree(run, tmp_path / "run")
    command = train(tmp_path / "run", tiny, "--scheme", "none", steps=1)
    stdpipe(*command)
    file = tmp_path / "run" / name
    before = file.read_bytes()
    flip(file, weight_of(file) if file.suffix == ".pt" else before.rindex(b"1"))
    told = refused(*command)
    assert name in told
    assert "damaged" in told
    assert file.read_bytes() != before  # nothing was written over it
    if name != "checkpoint.pt":
        assert name in stdpipe("runs", tmp_path).stderr
        assert name in refused("report", tmp_path / "run", "--out", tmp_path / "page")


def test_a_damaged_line_of_a_log(
    tmp_path: Path, tiny: Path, run: Path, train: Command, stdpipe: Command, refused: Command
) -> None:
    """Nothing shows it; a run whose checkpoint is whole goes on, and says what it leaves out."""
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "metrics.jsonl"
    flip(file, file.read_bytes().rindex(b"1"))
    assert "metrics.jsonl" in stdpipe("runs", tmp_path).stderr
    assert "metrics.jsonl" in refused("report", tmp_path / "run", "--out", tmp_path / "page")
    told = stdpipe(*train(tmp_path / "run", tiny, "--scheme", "none", steps=1)).stderr
    assert "metrics.jsonl is damaged" in told
    assert file.read_bytes() == b""


def test_a_torn_last_line_is_no_damage(
    tmp_path: Path, tiny: Path, run: Path, train: Command, stdpipe: Command
) -> None:
    """A crash can end a line anywhere."""
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "metrics.jsonl"
    line = file.read_bytes()
    for kept in (1, len(line) // 2, len(line) - 5, len(line) - 2, len(line) - 1):
        file.write_bytes(line + line[:kept])
        stdpipe(*train(tmp_path / "run", tiny, "--scheme", "none", steps=1))
        assert file.read_bytes() in (line, 2 * line)


def test_weights_with_a_flipped_bit(
    tmp_path: Path, tiny: Path, run: Path, stdpipe: Command, refused: Command
) -> None:
    weights = Path(shutil.copy(run / "weights.pt", tmp_path))
    command = ("evaluate", "--data", tiny, "--weights", weights)
    stdpipe(*command)
    flip(weights, weight_of(weights))
    assert "data/" in refused(*command)


def test_weights_of_others(tmp_path: Path) -> None:
    """Torch's zips and NumPy's; files that torch wrote without sums, on request, still open."""
    state = load_network("vdsr:num_layer=3,num_feat=8", "random:0")[0].state_dict()
    torch.save(state, tmp_path / "a.pth")
    arrays: dict[str, Any] = {k: v.numpy() for k, v in state.items()}
    np.savez(tmp_path / "b.npz", **arrays)
    try:
        torch.serialization.set_crc32_options(compute_crc32=False)
        torch.save(state, tmp_path / "c.pth")
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)
    for name in ("a.pth", "b.npz", "c.pth"):
        found = read_file(tmp_path / name)
        assert all(torch.equal(found[key].float(), value) for key, value in state.items())
    for name in ("a.pth", "b.npz"):
        flip(tmp_path / name, weight_of(tmp_path / name))
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            read_file(tmp_path / name)


def test_a_part_that_is_marked_as_a_folder(tmp_path: Path) -> None:
    """Torch takes it for one without bytes, and serves whatever lies in memory."""
    torch.save({"w": torch.ones(9)}, tmp_path / "w.pt")
    content = bytearray((tmp_path / "w.pt").read_bytes())
    assert damaged_part(io.BytesIO(content)) is None
    at = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    content[at + 38] ^= 0x10
    assert damaged_part(io.BytesIO(content))


def test_an_exported_file_with_a_flipped_bit_or_beside_another(
    tmp_path: Path, stdpipe: Command, refused: Command
) -> None:
    for seed in (0, 1):
        out, weights = tmp_path / f"{seed}.pt2", f"random:{seed}"
        given = ("--model", "rrn-8", "--weights", weights, "--out", out, "--size", "32x24")
        stdpipe("export", *given, "--format", "torch")
    one, other = tmp_path / "0.pt2", tmp_path / "1.pt2"
    whole = one.read_bytes()
    one.write_bytes(other.read_bytes())
    assert str(one) in refused("bench", one, "--frames", 1)
    one.write_bytes(whole)
    flip(one, len(whole) // 2)
    assert str(one) in refused("bench", one, "--frames", 1)
    one.write_bytes(whole)
    beside = tmp_path / "0.pt2.json"
    flip(beside, beside.read_bytes().index(b"random:0") + 7)
    assert str(beside) in refused("bench", one, "--frames", 1)
