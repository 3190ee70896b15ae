"""No file that a command reads, however broken, ends in a traceback.

Real commands write one valid file of each format. Each example breaks a copy of it and runs one of
the commands that read it, in this process. The command may take the file or refuse it: it exits
with 0, 1 or 2 within half a minute. A fault of stdpipe itself would exit with 70.

Not asserted: what is told, and which broken files are refused.
"""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from stdpipe.cache.seal import seal, unseal
from stdpipe.cli.main import main

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
Command = Callable[..., Any]
Words = tuple[object, ...]

TEACHER = (
    "edvr:num_feat=4,deformable_groups=1,num_frame=3,num_extract_block=1,num_reconstruct_block=1"
)
STUDENT = "vdsr:num_layer=3,num_feat=4"
# These decide how long a training takes, so the command line has the last word on them.
SHORT = {
    "steps": 1, "patch": 16, "batch": 1, "workers": 0, "accumulate": 1, "warmup_steps": 0,
    "compile": "false", "save_every": 1, "evaluate_every": 0,
}  # fmt: skip
NEW: Words = ("--scheme", "none", "--student", STUDENT, "--out", "new")
TRAIN: Words = ("train-student", "--data", "data", "--device", "cpu")
TRAIN += tuple(word for key, value in SHORT.items() for word in ("--set", f"{key}={value}"))
FROM_CACHE: Words = (*TRAIN, "--cache", "c.zarr", "--scheme", "sd")
RUN: Words = (*FROM_CACHE, "--student", STUDENT, "--out", "run")
EVALUATE: Words = ("evaluate", "--data", "data", "--device", "cpu", "--pictures", 0)
EXPERIMENT = {
    "name": "small",
    "data": "data",
    "teachers": {"edvr": {"weights": "embedded"}},
    "students": {STUDENT: {"lr": 1e-3}, "vdsr:num_layer=4": None},
    "schemes": {"none": "none", "sd": {"scheme": "sd", "lambda1": 2.0}},
    "seeds": [0, 1],
    "training": {"steps": 2, "patch": 16, "warmup_steps": 0},
    "tests": {"own": {"data": "own", "protocol": "vimeo"}},
    "baselines": ["bicubic"],
}


def load_torch(data: bytes) -> Any:
    return torch.load(BytesIO(data), weights_only=True)


def dump_torch(content: Any) -> bytes:
    file = BytesIO()
    torch.save(content, file)
    return file.getvalue()


def load_lines(data: bytes) -> Any:
    return [json.loads(line) for line in data.splitlines()]


def dump_lines(content: Any) -> bytes:
    lines = content if isinstance(content, list) else [content]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def load_table(data: bytes) -> Any:
    return [line.split(",") for line in data.decode().splitlines()]


def dump_table(content: Any) -> bytes:
    rows = content if isinstance(content, list) else [content]
    cells = (row if isinstance(row, list) else [row] for row in rows)
    return "".join(",".join(map(str, row)) + "\n" for row in cells).encode()


def dump_sealed(content: Any) -> bytes:
    sealable = isinstance(content, dict) and content and "crc32c" not in content
    return seal(content, indent=1) if sealable else dump_json(content)


def dump_json(content: Any) -> bytes:
    return json.dumps(content).encode()


def dump_yaml(content: Any) -> bytes:
    return yaml.safe_dump(content, sort_keys=False).encode()


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    path: str
    commands: tuple[Words, ...]
    """Those that read it, the valid one with exit code 0."""
    load: Callable[[bytes], Any] | None = None
    dump: Callable[[Any], bytes] = dump_json
    """Both for mutations of the content; without them the bytes alone are broken."""


JSON = {"load": json.loads}
YAML = {"load": yaml.safe_load, "dump": dump_yaml}
FORMATS = {
    "config": Format(
        "train.yaml",
        ((*TRAIN, *NEW, "--config", "train.yaml"),),
        **YAML,
    ),
    "run config": Format(
        "run/config.yaml", (RUN, ("runs", "run"), ("report", "run", "--out", "page")), **YAML
    ),
    "metrics": Format(
        "run/metrics.jsonl",
        (RUN, ("runs", "run"), ("report", "run", "--out", "page")),
        load_lines,
        dump_lines,
    ),
    "result": Format(
        "result/result.json",
        (
            ("runs", "result", "run"),
            ("report", "result", "--out", "page"),
            (*EVALUATE, "--model", "bicubic", "--out", "result", "--overwrite"),
        ),
        **JSON,
    ),
    "frames": Format(
        "stopped/unfinished/frames.csv",
        ((*EVALUATE, "--model", "bicubic", "--out", "stopped"),),
        load_table,
        dump_table,
    ),
    "experiment": Format(
        "experiment.yaml", (("experiment", "experiment.yaml", "--out", "e", "--plan"),), **YAML
    ),
    "students": Format(
        "students.yaml", ((*FROM_CACHE, "--students", "students.yaml", "--out", "new"),), **YAML
    ),
    "weights": Format(
        "weights.pt", ((*EVALUATE, "--weights", "weights.pt"),), load_torch, dump_torch
    ),
    "checkpoint": Format("part/checkpoint.pt", ((*RUN[:-1], "part"),), load_torch, dump_torch),
    "manifest": Format(
        "c.zarr/manifest.json",
        (("cache", "info", "c.zarr"), ("cache", "verify", "c.zarr"), (*RUN[:-1], "new")),
        unseal,
        dump_sealed,
    ),
    "journal": Format(
        "c.zarr/journal/0-of-1.000000.jsonl",
        (("cache", "info", "c.zarr"), ("cache", "verify", "c.zarr"), (*RUN[:-1], "new")),
    ),
    "packed": Format(
        "data.h5", (("evaluate", "--data", "data.h5", "--model", "bicubic", "--pictures", 0),)
    ),
    "list": Format(
        "data/sep_testlist.txt", ((*EVALUATE, "--model", "bicubic"),), load_table, dump_table
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def valid(make_data: Command, stdpipe: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a valid file of each format, made by the commands."""
    folder = tmp_path_factory.mktemp("valid")
    with inside(folder):
        data = make_data(Path("data"), clips=2, height=32, width=32)
        (data / "sep_trainlist.txt").write_text("00001/0001\n")
        stdpipe("pack-clips", "--data", "data", "--out", "data.h5")
        views = ("--views", "baked", "--baked", 1, "--patch", 16, "--encoding", "int8")
        teacher = ("--teacher", TEACHER, "--weights", "random:0", *views, "--compression", "zstd")
        stdpipe("extract-teacher", "--data", "data", "--cache", "c.zarr", *teacher)
        stdpipe(*RUN)
        shutil.copy("run/weights.pt", "weights.pt")
        Path("part").mkdir()
        for name in ("config.yaml", "metrics.jsonl", "checkpoint.pt"):
            shutil.copy(f"run/{name}", "part")
        content = load_torch(Path("run/checkpoint.pt").read_bytes())
        for key, value in content["memory"].items():  # 1 MB that sd does not train
            content["memory"][key] = torch.zeros(1).expand(value.shape)
        Path("part/checkpoint.pt").write_bytes(dump_torch(content))
        stdpipe(*EVALUATE, "--model", "bicubic", "--out", "result")
        shutil.copy(Path(__file__).parents[2] / "configs" / "demo.yaml", "train.yaml")
        Path("students.yaml").write_bytes(
            dump_yaml({"a": {"student": STUDENT}, "b": {"student": STUDENT, "lr": 0.1, "seed": 1}})
        )
        Path("experiment.yaml").write_bytes(dump_yaml(EXPERIMENT))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("stdpipe.evaluation.frame_log.FrameLog.finish", interrupted)
            stdpipe(*EVALUATE, "--model", "bicubic", "--out", "stopped", code=130)
    return folder


def interrupted(*_: object) -> None:
    """Instead of the last step of an evaluation."""
    raise KeyboardInterrupt


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder, and for half a minute at most."""

    def late(*_: object) -> None:
        raise AssertionError("a command took more than half a minute")

    before, handler = Path.cwd(), signal.signal(signal.SIGALRM, late)
    os.chdir(folder)
    signal.alarm(0 if folder.name.startswith("valid") else 30)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        os.chdir(before)


VALUES = st.sampled_from(
    [None, True, 0, -1, 3, 10**30, -(2**63), 0.5, 1e308, float("inf"), float("nan"), "", "x",
     "../x", "\0", "é" * 300, "1e999", [], [1], [[]], {}, {"x": 1}, {"": None}]
).map(deepcopy)  # fmt: skip
BYTES = st.sampled_from(
    [b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"{", b"]", b"\n", b":", b"&a [*a]", b"- !!python/x",
     b"%s", b"9" * 5000, b"[" * 5000]
)  # fmt: skip


def places(content: Any) -> list[tuple[Any, Any]]:
    """Each container in a tree of dicts and lists with each of its keys."""
    if isinstance(content, torch.Tensor) or not isinstance(content, dict | list):
        return []
    keys = list(content) if isinstance(content, dict) else range(len(content))
    found: list[tuple[Any, Any]] = [(content, key) for key in keys]
    return found + [place for key in keys for place in places(content[key])]


@st.composite
def broken_trees(draw: st.DrawFn, content: Any) -> Any:
    """A tree with up to three values deleted, doubled, replaced or under another name."""
    holder = [content]
    for _ in range(draw(st.integers(1, 3))):
        where, key = draw(st.sampled_from(places(holder)))
        change = draw(
            st.sampled_from(["replace", "replace", "replace", "delete", "double", "rename"])
        )
        if change == "replace":
            where[key] = draw(VALUES)
        elif where is holder:
            where[key] = [where[key], where[key]] if change == "double" else draw(VALUES)
        elif change == "delete":
            del where[key]
        elif isinstance(where, list):
            where.insert(key, where[key] if change == "double" else draw(VALUES))
        else:
            value = where[key] if change == "double" else where.pop(key)
            where[draw(st.sampled_from(["x", "", "steps", "network", "clips"]))] = value
    return holder[0]


@st.composite
def broken_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes of a file cut off, or with some of them replaced."""
    start = draw(st.integers(0, len(data)))
    if draw(st.booleans()):
        return data[:start] + draw(BYTES)
    end = start + draw(st.sampled_from([0, 1, 8, 200]))
    return data[:start] + draw(BYTES | st.binary(max_size=20)) + data[end:]


@st.composite
def broken_files(draw: st.DrawFn, kind: Format, data: bytes) -> bytes:
    """What an example puts in the place of a valid file."""
    if kind.load is None or draw(st.integers(0, 2)) == 0:
        return draw(broken_bytes(data))
    try:
        return kind.dump(draw(broken_trees(kind.load(data))))
    except (TypeError, ValueError):  # the format cannot say that
        return draw(broken_bytes(data))


def check(kind: Format, words: Words, valid: Path, folder: Path, data: bytes | None) -> None:
    """Run a command on a copy of `valid`, its file replaced by `data` unless that is None."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(valid, folder)
    if data is not None:
        (folder / kind.path).write_bytes(data)
    with inside(folder):
        result = CliRunner().invoke(main, [str(word) for word in words], prog_name="stdpipe")
    told = f"stdpipe {' '.join(map(str, words))}: {result.output[-2000:]}"
    assert result.exit_code in ((0, 1, 2) if data is not None else (0,)), told
    assert isinstance(result.exception, SystemExit | None), told
    assert "Traceback" not in result.output, told


def fuzz(kind: Format, valid: Path, folder: Path, examples: int, *phases: Phase) -> None:
    """Break the file of a format in so many ways."""
    for words in kind.commands:
        check(kind, words, valid, folder, None)

    @settings(
        max_examples=examples,
        phases=phases,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        words=st.sampled_from(kind.commands),
        data=broken_files(kind, (valid / kind.path).read_bytes()),
    )
    def run(words: Words, data: bytes) -> None:
        check(kind, words, valid, folder, data)

    run()


@pytest.fixture(autouse=True)
def tracebacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file with the traceback of a fault goes where pytest tidies up."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.parametrize("name", FORMATS)
def test_broken_files(name: str, valid: Path, tmp_path: Path) -> None:
    fuzz(FORMATS[name], valid, tmp_path / "copy", 15, Phase.generate)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_many_broken_files(name: str, valid: Path, tmp_path: Path) -> None:
    fuzz(FORMATS[name], valid, tmp_path / "copy", 200, Phase.generate, Phase.shrink)


@pytest.mark.parametrize(
    "change",
    [lambda file: file.attrs.clear(), lambda file: [file.__delitem__(key) for key in list(file)]],
    ids=["attributes", "arrays"],
)
def test_a_packed_file_without_its(change: Command, valid: Path, tmp_path: Path) -> None:
    """An HDF5 file that is whole, but not one of ours."""
    with h5py.File(shutil.copy(valid / "data.h5", tmp_path / "data.h5"), "r+") as file:
        change(file)
    kind, data = FORMATS["packed"], (tmp_path / "data.h5").read_bytes()
    check(kind, kind.commands[0], valid, tmp_path / "copy", data)
