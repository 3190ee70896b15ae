"""Weights on disk: what loads, what is refused, and in which words."""

import argparse
import datetime
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stdpipe.cache.errors import UserError
from stdpipe.models import checkpoints
from stdpipe.models.checkpoints import load_network, read_checkpoint, save_network
from stdpipe.models.edvr import EDVR
from stdpipe.models.fastdvdnet import FastDVDnet
from stdpipe.models.zoo import parse

TINY = "edvr:num_feat=8,num_frame=3,num_extract_block=1,num_reconstruct_block=1"


def tiny() -> EDVR:
    return EDVR(num_feat=8, num_frame=3, num_extract_block=1, num_reconstruct_block=1)


def equal(a: nn.Module, b: nn.Module) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine)


class RunsCode:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


def one_line(error: pytest.ExceptionInfo[Exception], path: Path) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_our_own_file(tmp_path: Path) -> None:
    """Says by itself which network it is for and for which degradation."""
    net, path = tiny(), tmp_path / "weights.pt"
    save_network(path, net, TINY, "bd")
    loaded, facts = load_network(None, str(path))
    assert equal(loaded, net)
    assert facts["degradation"] == "bd"
    assert facts["sha256"] == checkpoints.file_sha256(path)
    again, _ = load_network(facts["network"], str(path))
    assert equal(again, net)
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pt"]


def test_a_file_of_an_older_revision(tmp_path: Path) -> None:
    """Its names and shapes fit, its images would not: refused with both revisions. Files from
    before revisions were written are of the first."""
    path = tmp_path / "weights.pt"
    net = FastDVDnet(waist=16)
    save_network(path, net, "fastdvdnet:waist=16", "bd")
    assert equal(load_network(None, str(path))[0], net)
    content = torch.load(path, weights_only=True)
    del content["revision"]
    torch.save(content, path)
    with pytest.raises(ValueError, match="revision 1 of fastdvdnet:waist=16, which is") as error:
        load_network(None, str(path))
    assert "revision 3 here" in one_line(error, path)
    torch.save(content["params"], path)  # of somebody's own: nobody knows, so it is taken
    load_network("fastdvdnet:waist=16", str(path))


@pytest.mark.parametrize(
    ("wrapper", "prefix"),
    [
        *((wrapper, "") for wrapper in (None, *checkpoints.CONTAINERS)),
        *(("state_dict", prefix) for prefix in ("module.", "generator.", "net.", "model.")),
        (None, "module.generator."),
        ("model", "_orig_mod."),
        ("state_dict", "net._orig_mod."),
        ("model", "module._orig_mod."),
        ("state_dict", "generator_ema.module."),
    ],
)
def test_foreign_files(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    """Parameters at the top or one level down, with a wrapper's prefix; the name must be given."""
    net, path = tiny(), tmp_path / "theirs.pth"
    state: dict[str, Any] = {prefix + k: v for k, v in net.state_dict().items()}
    state["step_counter"] = torch.zeros(1)
    torch.save({wrapper: state, "iter": 3} if wrapper else state, path)
    loaded, facts = load_network(TINY, str(path))
    assert equal(loaded, net)
    assert facts["degradation"] is None
    with pytest.raises(ValueError, match="does not say which network"):
        load_network(None, str(path))


def test_averaged_weights_come_first(tmp_path: Path) -> None:
    """Of params and params_ema, BasicSR tests the second; others write it with a dash."""
    path = tmp_path / "both.pth"
    for averaged in ("params_ema", "params-ema"):
        torch.save({"params": {"a": torch.zeros(1)}, averaged: {"a": torch.ones(1)}}, path)
        state, _ = read_checkpoint(path)
        assert state["a"] == 1


def test_a_generator_and_its_average(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The average is taken, in either order, and a warning says so."""
    path = tmp_path / "both.pth"
    plain, averaged = {"generator.a": torch.zeros(1)}, {"generator_ema.a": torch.ones(1)}
    for state in (plain | averaged, averaged | plain):
        caplog.clear()
        torch.save({"state_dict": {**state, "generator_ema.steps": torch.ones(1)}}, path)
        assert read_checkpoint(path)[0] == {"a": torch.ones(1)}
        assert "generator_ema is taken" in caplog.text
    caplog.clear()
    torch.save({"state_dict": averaged}, path)
    assert read_checkpoint(path)[0] == {"a": torch.ones(1)}
    assert not caplog.text


def test_safetensors(tmp_path: Path) -> None:
    """They hold names and tensors alone, so the network is named; damage is told in one line."""
    net, path = tiny(), tmp_path / "theirs.safetensors"
    save_file({f"module.{k}": v for k, v in net.state_dict().items()}, path)
    assert equal(load_network(TINY, str(path))[0], net)
    whole = path.read_bytes()
    for damaged in (whole[:7], whole[:400], whole[:-1], b"\xff" * 64):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="is no safetensors file, or a damaged one") as error:
            read_checkpoint(path)
        one_line(error, path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        read_checkpoint(path)


def test_values_beside_the_tensors(tmp_path: Path) -> None:
    """What training scripts leave there does not keep the weights from loading; none of it is
    made, so a file cannot feed NumPy anything."""
    allowed = set(torch.serialization.get_safe_globals())
    net, path = tiny(), tmp_path / "theirs.pth"
    beside = {
        "psnr": np.float64(27.3),
        "best": np.float32(27.5),
        "losses": np.arange(3.0),
        "names": np.array(["a", "b"]),
        "time": datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
        "took": datetime.timedelta(seconds=3),
        "root": Path("data"),
        "args": argparse.Namespace(lr=1e-4, out=Path("x")),
    }
    for zipped in (True, False):
        torch.save({"state_dict": net.state_dict(), **beside}, path,
                   _use_new_zipfile_serialization=zipped)  # fmt: skip
        assert equal(load_network(TINY, str(path))[0], net)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.", b"numpy.core."))  # NumPy 1's names
    assert equal(load_network(TINY, str(path))[0], net)
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_the_container_with_weights_is_taken(tmp_path: Path) -> None:
    """Not a dictionary of settings of a container's name; and a foreign file's "network" is not
    our header."""
    net, path = tiny(), tmp_path / "theirs.pth"
    for beside in ({"params": {"lr": 1}}, {"network": "EDVR"}, {"network": "EDVR", "params": {}}):
        torch.save({**beside, "state_dict": net.state_dict()}, path)
        assert equal(load_network(TINY, str(path))[0], net)
    torch.save({"lr": {"params": 1}, "params": {"lr": 1}, **net.state_dict()}, path)
    assert equal(load_network(TINY, str(path))[0], net)


def test_arrays(tmp_path: Path) -> None:
    """By torch's names, of any type of numbers; text beside them is no weight."""
    net, path = tiny(), tmp_path / "theirs.npz"
    arrays = {k: v.numpy() for k, v in net.state_dict().items()}
    for kind in ("f4", ">f4", "f8", "longdouble"):
        np.savez(path, **{k: v.astype(kind) for k, v in arrays.items()}, names=np.array(["a"]))
        assert equal(load_network(TINY, str(path))[0], net)


def test_arrays_in_a_file_of_torch(tmp_path: Path) -> None:
    """No array is made of what a pickle says; the message says what to write instead."""
    path = tmp_path / "theirs.pth"
    arrays = {k: v.numpy() for k, v in tiny().state_dict().items()}
    for content in (arrays, {"state_dict": arrays, "epoch": 3}):
        torch.save(content, path)
        with pytest.raises(UserError, match=r"numpy\.savez") as error:
            read_checkpoint(path)
        one_line(error, path)


def test_a_whole_network_pickled(tmp_path: Path) -> None:
    """Many scripts save {"model": model}: the message says how to strip it."""
    path = tmp_path / "model_epoch_50.pth"
    torch.save({"epoch": 50, "model": tiny()}, path)
    with pytest.raises(
        UserError, match=r"asks for stdpipe.*EDVR; .* state_dict\(\) alone"
    ) as error:
        read_checkpoint(path)
    one_line(error, path)


def zipped(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"")


@pytest.mark.parametrize("suffix", [".pth", ".npz", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\n<!DOCTYPE html><html><title>Sign in</title></html>", "is a web page"),
        (b"\xef\xbb\xbf<html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0", "an ONNX file"),
    ],
)
def test_what_a_download_left(tmp_path: Path, suffix: str, content: bytes, told: str) -> None:
    """It is told by what it is, whatever its name says."""
    path = tmp_path / f"theirs{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=told) as error:
        read_checkpoint(path)
    one_line(error, path)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["model.pth"], "is a zip file around model.pth: unpack it"),
        (["a/", "a/1.pth", "a/2.pth", "a/3", "a/4"], "around a/1.pth, a/2.pth, a/3, ...: unpack"),
        (["m/data.pkl", "m/constants.pkl", "m/code/x.py"], "is a TorchScript file"),
        (["m/archive_format", "m/models/model.json"], "is a program of torch.export"),
        (["weight.npy", "bias.npy"], "end in .npz"),
    ],
)
def test_other_zip_files(tmp_path: Path, names: list[str], told: str) -> None:
    """Torch's own checkpoints are zip files too, so others are told by their members."""
    path = tmp_path / "theirs.pth"
    zipped(path, *names)
    with pytest.raises(UserError, match=told) as error:
        read_checkpoint(path)
    one_line(error, path)


def test_names_in_our_own_files_are_not_touched(tmp_path: Path) -> None:
    """A user's network may call a part `module` or `generator`; its own file brings it back."""
    state = {"generator.conv.weight": torch.zeros(2), "step_counter": torch.ones(1)}
    path = tmp_path / "weights.pt"
    torch.save({"network": "mine:Net", "degradation": "bd", "params": state}, path)
    assert read_checkpoint(path)[0].keys() == state.keys()


def test_a_checkpoint_of_another_network(tmp_path: Path) -> None:
    """Keys that lack, that are unknown and that have other shapes are counted and named."""
    path = tmp_path / "student.pth"
    state: dict[str, Tensor] = FastDVDnet(waist=16).state_dict()
    torch.save(state, path)
    with pytest.raises(ValueError, match="does not fit") as error:
        load_network(TINY, str(path))
    text = one_line(error, path)
    assert "lacks" in text
    assert "conv_first.bias" in text
    assert "has unknown" in text
    assert "stage1.down0" in text
    torch.save({**tiny().state_dict(), "conv_hr.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"has other shapes for 1 \(conv_hr.weight\); only"):
        load_network(TINY, str(path))


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        ("fastdvdnet:waist=16", "fastdvdnet-half"),  # a size that has no name
        ("vdsr:channels=1", "vdsr"),
        ("rrn-8", "rrn"),
        ("rlsp-64:published=true", "rlsp"),
        ("swrn", "rlsp"),
    ],
)
def test_a_file_says_whose_it_is(tmp_path: Path, held: str, asked: str) -> None:
    """The network's name is told, where one of the zoo has the file's names and shapes."""
    path = tmp_path / "theirs.pth"
    spec = parse(held)
    torch.save({f"module.{k}": v for k, v in spec.build().state_dict().items()}, path)
    with pytest.raises(UserError, match="does not fit") as error:
        load_network(asked, str(path))
    known = "waist" not in held
    assert (f"those of {spec}" in one_line(error, path)) == known
    if known:
        load_network(held, str(path))


def test_a_name_that_contradicts_the_file(tmp_path: Path) -> None:
    """Both are named, with what to do; options that agree, or are left open, pass."""
    path = tmp_path / "weights.pt"
    save_network(path, tiny(), TINY, "bd")
    load_network("edvr:num_frame=3", str(path))
    for name in ("fastdvdnet", "edvr:num_feat=16"):
        with pytest.raises(ValueError, match="was asked for; change one") as error:
            load_network(name, str(path))
        assert TINY.split(":")[0] in one_line(error, path)


def test_a_file_that_would_run_code(tmp_path: Path) -> None:
    """It is refused, and its code did not run."""
    path, marker = tmp_path / "evil.pth", tmp_path / "marker"
    torch.save({"params": RunsCode(marker)}, path)
    with pytest.raises(ValueError, match=r"would run code .* refused: it asks for posix") as error:
        read_checkpoint(path)
    one_line(error, path)
    path.write_bytes(pickle.dumps(RunsCode(marker)))  # a bare pickle of a newer protocol
    with pytest.raises(ValueError, match="is no checkpoint") as error:
        read_checkpoint(path)
    one_line(error, path)
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_cut_short(tmp_path: Path, zipped: bool) -> None:
    """Wherever it was cut, the error is one line with the file's name.

    A file of the old format, cut inside the name of a function, seems to ask for another function:
    the error then says so, and which.
    """
    path = tmp_path / "cut.pth"
    torch.save(tiny().state_dict(), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in (0, 1, 50, 200, 400, 900, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(
            ValueError, match=r"is (no checkpoint, or a|empty)|asks for tor"
        ) as error:
            read_checkpoint(path)
        assert not zipped or "run code" not in one_line(error, path)


@pytest.mark.parametrize("junk", [b"hello, I am no checkpoint\n", bytes(range(256)), b"\x80\x02."])
def test_a_file_of_something_else(tmp_path: Path, junk: bytes) -> None:
    """Text, noise, an empty pickle: no checkpoint, and not mistaken for an attack."""
    path = tmp_path / "junk.pth"
    path.write_bytes(junk)
    with pytest.raises(ValueError, match="is no checkpoint, or a") as error:
        read_checkpoint(path)
    one_line(error, path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([1, 2], "holds a list, not a dictionary"),
        (torch.zeros(2), "holds a Tensor, not a dictionary"),
        ({}, "holds no weights"),
        ({"params": 3}, "holds no weights"),
        ({"epoch": 3}, "holds no weights"),
    ],
)
def test_a_file_without_weights(tmp_path: Path, content: Any, told: str) -> None:
    """A healthy file with something else in it."""
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=told):
        read_checkpoint(path)


def test_no_file(tmp_path: Path) -> None:
    """Missing is not damaged."""
    with pytest.raises(FileNotFoundError, match="no weights file"):
        load_network(TINY, str(tmp_path / "absent.pth"))
