"""Things that are not what the command expects: one line, exit 1, and nothing is lost."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stdpipe import cache
from stdpipe.cache.seal import seal, unseal
from stdpipe.models.checkpoints import load_network, save_network

Command = Callable[..., Any]
NET = "edvr:num_feat=8,deformable_groups=2"


@pytest.fixture
def data(tmp_path: Path, tiny: Path) -> Path:
    """A data set of one's own to break."""
    return Path(shutil.copytree(tiny, tmp_path / "data"))


@pytest.fixture
def copy(tmp_path: Path, tiny_cache: Path) -> Path:
    """A cache of one's own to break."""
    return Path(shutil.copytree(tiny_cache, tmp_path / "copy.zarr"))


def contents(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# the data set


def test_no_data_folder(tmp_path: Path, extract: Command, train: Command, refused: Command) -> None:
    absent = tmp_path / "absent"
    told = f"stdpipe: data folder {absent} does not exist: check the path"
    assert refused(*extract(absent, tmp_path / "c")) == told
    assert refused(*train(tmp_path / "run", absent, "--scheme", "none")) == told
    assert refused("evaluate", "--data", absent, "--model", "bicubic") == told
    assert refused("train-teacher", "--data", absent, "--teacher", NET, "--out", absent) == told
    assert list(tmp_path.iterdir()) == []


def test_a_frame_that_was_not_downloaded(
    tmp_path: Path, data: Path, extract: Command, refused: Command
) -> None:
    (data / "sequences/00001/0002/im4.png").unlink()
    told = refused(*extract(data, tmp_path / "c"))
    assert "clip 00001/0002 of sep_trainlist.txt lacks im4.png" in told
    assert not (tmp_path / "c").exists()


def test_a_frame_that_was_half_downloaded(
    tmp_path: Path, data: Path, extract: Command, train: Command, stdpipe: Command, refused: Command
) -> None:
    frame = data / "sequences/00001/0002/im4.png"
    whole = frame.read_bytes()
    frame.write_bytes(whole[:100])
    told = refused(*extract(data, tmp_path / "c"))
    assert f"clip 00001/0002: {frame} cannot be read" in told
    again = refused(*train(tmp_path / "run", data, "--scheme", "none", steps=4))
    assert f"clip 00001/0002: {frame} cannot be read" in again
    frame.write_bytes(whole)
    stdpipe(*extract(data, tmp_path / "c"))
    assert cache.verify(tmp_path / "c").ok == 3


def test_a_worker_process_tells_its_error_in_one_line_too(
    tmp_path: Path, data: Path, train: Command, refused: Command
) -> None:
    for clip in (1, 2, 3):
        frame = data / f"sequences/00001/000{clip}/im4.png"
        frame.write_bytes(frame.read_bytes()[:100])  # its header is whole
    told = refused(*train(tmp_path / "run", data, "--scheme", "none", workers=1))
    assert told.startswith("stdpipe: clip 00001/000")
    assert "im4.png cannot be read" in told


# weights


@pytest.mark.parametrize(
    ("keep", "message"), [(0, "is empty"), (40, "truncated"), (5000, "truncated")]
)
def test_truncated_weights(
    tmp_path: Path, tiny: Path, refused: Command, keep: int, message: str
) -> None:
    file = tmp_path / "w.pt"
    save_network(file, load_network(NET, "random:0")[0], NET, "bd")
    file.write_bytes(file.read_bytes()[:keep])
    told = refused("evaluate", "--data", tiny, "--weights", file)
    assert told.startswith(f"stdpipe: {file} is ")
    assert message in told


def test_weights_of_another_network(
    tmp_path: Path, tiny: Path, extract: Command, refused: Command
) -> None:
    file = tmp_path / "w.pt"
    save_network(file, load_network("edvr:num_feat=8", "random:0")[0], "edvr:num_feat=8", "bd")
    told = refused("evaluate", "--data", tiny, "--weights", file, "--model", NET)
    assert "holds edvr:num_feat=8, but edvr:deformable_groups=2,num_feat=8 was asked for" in told
    torch.save({"params": {"conv.weight": torch.zeros(1)}}, file)
    told = refused("evaluate", "--data", tiny, "--weights", file, "--model", NET)
    assert f"{file} does not fit this network: it lacks" in told
    told = refused("evaluate", "--data", tiny, "--weights", file)
    assert f"{file} does not say which network it is for" in told


class Evil:
    """Would make a file, were it unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def test_weights_that_would_run_code(tmp_path: Path, tiny: Path, refused: Command) -> None:
    mark, zipped, plain = (tmp_path / name for name in ("mark", "zipped.pt", "plain.pt"))
    torch.save({"params": Evil(mark)}, zipped)
    plain.write_bytes(pickle.dumps({"params": Evil(mark)}))
    for file in (zipped, plain):
        told = refused("evaluate", "--data", tiny, "--model", NET, "--weights", file)
        assert str(file) in told
        assert not mark.exists()
    assert "would run code" in refused(
        "evaluate", "--data", tiny, "--model", NET, "--weights", zipped
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a network, or give --weights"),
        (["--model", NET], f"{NET} needs weights: give a checkpoint file, or random:SEED"),
        (["--model", NET, "--weights", "random:x"], "should read random:SEED"),
        (["--weights", "random:0"], "name a network"),
        (["--model", NET, "--weights", "w.pt"], "no weights file w.pt"),
    ],
    ids=["nothing", "no weights", "seed", "no name", "no file"],
)
def test_weights_that_are_not_there(
    tiny: Path, refused: Command, arguments: list[str], message: str
) -> None:
    assert message in refused("evaluate", "--data", tiny, *arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_no_such_device(
    tmp_path: Path, tiny: Path, extract: Command, train: Command, refused: Command
) -> None:
    cuda = ("--device", "cuda")
    for command in (
        extract(tiny, tmp_path / "c", *cuda),
        train(tmp_path / "run", tiny, "--scheme", "none", *cuda),
        ["evaluate", "--data", tiny, "--model", "bicubic", *cuda],
    ):
        assert "device 'cuda' is not to be had" in refused(*command)
    assert list(tmp_path.iterdir()) == []


# the cache


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--weights", "random:1"), "teacher_sha256 'random:0', but 'random:1' was asked for"),
        (("--degradation", "bi"), "degradation 'bd', but 'bi' was asked for"),
        (("--orientations", "1"), "orientations 2, but 1 was asked for"),
        (("--seed", "4"), "seed 0, but 4 was asked for"),
        (("--encoding", "float16"), "encoding 'float32', but 'float16' was asked for"),
    ],
    ids=["weights", "degradation", "orientations", "seed", "encoding"],
)
def test_extract_refuses_a_cache_of_another_kind(
    tiny: Path, copy: Path, extract: Command, refused: Command, more: tuple[str, str], message: str
) -> None:
    before = contents(copy)
    asked = more if more[0] == "--orientations" else ("--orientations", 2, *more)
    told = refused(*extract(tiny, copy, *asked))
    assert f"cache {copy} was made by" in told
    assert message in told
    assert contents(copy) == before


def test_extract_refuses_another_clip_list(
    tmp_path: Path, make_data: Command, copy: Path, extract: Command, refused: Command
) -> None:
    """One that lacks a clip of the cache; one that has more makes it grow."""
    data = make_data(tmp_path / "fewer", clips=2)
    told = refused(*extract(data, copy, "--orientations", 2))
    assert "entries_digest" in told
    assert "the same clips and teacher" in told


def test_extract_refuses_a_folder_of_something_else(
    tmp_path: Path, tiny: Path, extract: Command, refused: Command
) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    assert "is not a cache, it holds thesis.tex" in refused(*extract(tiny, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert "is not a cache" in refused(*extract(tiny, tmp_path / "thesis.tex"))
    assert (tmp_path / "thesis.tex").read_text() == "all of it"


def test_train_refuses_a_cache_of_another_degradation_or_teacher(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, refused: Command
) -> None:
    command = train(tmp_path / "run", tiny, "--cache", tiny_cache)
    told = refused(*command, "--degradation", "bi")
    assert "degradation 'bd', but 'bi' was asked for" in told
    save_network(tmp_path / "w.pt", load_network(NET, "random:0")[0], NET, "bd")
    told = refused(*command, "--teacher-weights", tmp_path / "w.pt")
    assert "teacher_sha256 'random:0', but '" in told
    assert not (tmp_path / "run").exists()


def test_train_refuses_an_unfinished_cache(
    tmp_path: Path, tiny: Path, copy: Path, train: Command, refused: Command
) -> None:
    (copy / "complete.json").unlink()
    told = refused(*train(tmp_path / "run", tiny, "--cache", copy))
    assert f"cache {copy} is incomplete" in told
    assert "run the same extract-teacher command again" in told


def test_another_format_version_is_refused(
    tmp_path: Path, tiny: Path, copy: Path, train: Command, refused: Command
) -> None:
    manifest = unseal((copy / "manifest.json").read_bytes())
    for name in ("manifest.json", "journal/manifest.json"):
        (copy / name).write_bytes(seal({**manifest, "format_version": 99}))
    told = refused(*train(tmp_path / "run", tiny, "--cache", copy))
    assert "has format version 99, this stdpipe reads 2 and 3: use the stdpipe that made it" in told
    assert told == refused("cache", "info", copy)


@pytest.mark.parametrize("scheme", ["sd", "std"])
def test_a_flipped_bit_is_never_a_feature(
    tmp_path: Path, tiny: Path, copy: Path, train: Command, refused: Command, scheme: str
) -> None:
    for shard in [*copy.glob("f_sr/c.*"), *copy.glob("attention/c.*")]:
        content = bytearray(shard.read_bytes())
        for at in range(64, len(content), 4096):  # whatever window is read, it is hit
            content[at] ^= 1
        shard.write_bytes(content)
    settings = {"warmup_steps": 0}
    told = refused(*train(tmp_path / "run", tiny, "--cache", copy, "--scheme", scheme, **settings))
    assert "is damaged" in told
    assert "stdpipe cache verify" in told


def test_std_without_a_cache(tmp_path: Path, tiny: Path, train: Command, refused: Command) -> None:
    told = refused(*train(tmp_path / "run", tiny))
    assert "scheme 'std' learns from a teacher: give --cache" in told
    told = refused(*train(tmp_path / "run", tiny, "--cache", tmp_path / "absent"))
    assert "is not a cache (no manifest.json): check the path" in told
    told = refused(*train(tmp_path / "run", tiny, "--cache", "s4://bucket/c.zarr"))
    assert "Unable to recognise URL" in told
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_that_is_a_file(
    tmp_path: Path, tiny: Path, train: Command, refused: Command
) -> None:
    (tmp_path / "run").write_text("mine")
    assert str(tmp_path / "run") in refused(*train(tmp_path / "run", tiny, "--scheme", "none"))
    assert (tmp_path / "run").read_text() == "mine"
