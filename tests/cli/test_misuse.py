"""Wrong use: exit 2, one line that says what was meant, before anything is read or written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
EXTRACT = ["extract-teacher", "--data", "nowhere", "--cache", "c"]
STUDENT = ["train-student", "--data", "nowhere", "--student", "fastdvdnet", "--out", "run"]
TEACHER = ["train-teacher", "--data", "nowhere", "--out", "run"]
UPSCALE = ["upscale", "in.mp4", "out.mp4"]
EXPORT = ["export", "--model", "bicubic"]
EVALUATE = ["evaluate", "--data", "nowhere", "--model", "bicubic"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bogus"], "No such option '--bogus'"),
        (["extract"], "No such command 'extract'"),
        (["cache", "inof", "c"], "No such command 'inof'"),
        (["evaluate"], "Missing option '--data'"),
        ([*EXTRACT, "--orientation", "2"], "No such option '--orientation'"),
        ([*EXTRACT, "--orientations", "9"], "9 is not in the range"),
        ([*EXTRACT, "--teacher", "edvr-s"], "unknown network 'edvr-s'; did you mean 'edvr-"),
        ([*EXTRACT, "--teacher", "edvr:num_fea=3"], "did you mean 'num_feat'?"),
        ([*EXTRACT, "--degradation", "bd-center"], "did you mean 'bd-centred'?"),
        ([*EXTRACT, "--encoding", "int4"], "'int4' is not one of 'float32', 'float16'"),
        ([*EXTRACT, "--targets", "f_sr,atention"], "did you mean 'attention'?"),
        ([*EXTRACT, "--amp", "bf8"], "'bf8' is not one of"),
        ([*EXTRACT, "--views", "baked", "--baked", "0"], "--baked 0"),
        ([*EXTRACT, "--views", "baked", "--patch", "44"], "--patch 44"),
        ([*STUDENT[:3], "--student", "fastdvd"], "did you mean 'fastdvdnet'?"),
        ([*STUDENT, "--scheme", "srd"], "scheme 'srd' is unknown; did you mean 'sd'?"),
        ([*STUDENT, "--set", "stepps=1"], "did you mean 'steps'?"),
        ([*STUDENT, "--set", "steps"], "should read key=value"),
        ([*STUDENT, "--set", "steps=10", "--set", "warmup_steps=20"], "warmup_steps (20)"),
        ([*STUDENT, "--config", "papr"], "no config 'papr'; did you mean 'paper'?"),
        ([*STUDENT, "--config", "mine.yaml"], "mine.yaml"),
        ([*STUDENT, "--config", "edvr"], "no config 'edvr'"),
        ([*TEACHER, "--teacher", "edvr", "--config", "demo"], "no config 'demo'"),
        ([*EXTRACT, "--cache", "b"], "--cache is given twice"),
        ([*STUDENT, "--scheme=sd", "--scheme", "std"], "--scheme is given twice"),
        ([*EXTRACT, "--seed", "1", "--seed", "1"], "--seed is given twice"),
        (["cache", "check", "c", "--teacher", "a", "--teacher-weights", "b"], "is given twice"),
        ([*STUDENT, "--degradation", "blur"], "unknown degradation 'blur'"),
        ([*TEACHER, "--teacher", "edvr:num_feat"], "should read key=value"),
        ([*TEACHER, "--teacher", "edvr", "--degradation", "b"], "did you mean 'bi'?"),
        ([*STUDENT, "--set", "accumulate=3"], "accumulate (3) does not divide batch (4)"),
        ([*STUDENT[:3], *STUDENT[5:]], "Missing option '--student'"),
        ([*STUDENT, "--students", "no.yaml"], "no.yaml"),
        (["runs"], "Missing argument 'DIR...'"),
        (["pack-clips", "--data", "d", "--out", "o", "--split", "val"], "'val' is not one of"),
        ([*EVALUATE, "--protocol", "vid5"], "unknown protocol 'vid5'; did you mean 'vid4'?"),
        ([*EVALUATE, "--model", "bicubik@w.pt"], "did you mean 'bicubic'?"),
        ([*EVALUATE, "--metrics", "temporl"], "unknown metrics 'temporl'; did you mean 'temporal'"),
        ([*EVALUATE, "--model", "edvr", "--weights", "w.pt"], "--weights is for a single --model"),
        ([*EVALUATE[:3], "--model", "edvr@a.pt", "--weights", "w.pt"], "is for a single --model"),
        ([*EVALUATE, "--pictures", "-1"], "-1 is not in the range"),
        ([*EVALUATE, "--crop", "few"], "'few' is not a valid integer"),
        ([*EVALUATE, "--teacher", "EDVR"], "unknown network 'EDVR'"),
        (["upscale", "in.mp4"], "Missing argument 'OUTPUT'"),
        ([*UPSCALE, "--model", "bicubi"], "did you mean 'bicubic'?"),
        ([*UPSCALE, "--tile", "-1"], "-1 is not in the range"),
        ([*UPSCALE, "--crf", "52"], "52 is not in the range"),
        ([*UPSCALE, "--fps", "0"], "0.0 is not in the range"),
        ([*EXPORT], "Missing option '--out'"),
        ([*EXPORT, "--out", "n.onnx", "--format", "tflite"], "'tflite' is not one of"),
        ([*EXPORT, "--out", "n.pt2"], "onnx writes a .onnx file, but --out is n.pt2"),
        ([*EXPORT, "--out", "n", "--format", "torch"], "torch writes a .pt2 file, but --out is n"),
        ([*EVALUATE, "--model", "no.such:Net"], "cannot import network no.such:Net"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_misuse(
    tmp_path: Path,
    refused: Command,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    told = refused(*arguments, code=2)
    assert message in told
    assert "--help)" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["cache"]], ids=["main", "cache"])
def test_no_arguments_show_the_help(stdpipe: Command, arguments: list[str]) -> None:
    assert stdpipe(*arguments, code=2).stderr.startswith("Usage: stdpipe")


def test_a_folder_called_demo_does_not_hide_the_config(
    tmp_path: Path, refused: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`stdpipe demo` makes that very folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    told = refused(*STUDENT, "--config", "demo", "--scheme", "none")
    assert "data folder nowhere does not exist" in told


def test_an_unknown_network_names_all_that_are_known(refused: Command) -> None:
    told = refused(*EXTRACT, "--teacher", "vrt", code=2)
    assert "(known: bicubic, edvr, edvr-m, edvr-l, fastdvdnet" in told


def test_options_that_may_be_given_twice(refused: Command) -> None:
    settings = ("--set", "steps=9", "--set", "warmup_steps=1", "--scheme", "none")
    told = refused(*STUDENT, "--json", "--json", *settings)
    assert "data folder nowhere" in told
    assert "data folder nowhere" in refused(*EVALUATE, "--model", "vdsr@random:0")


def test_help_offers_only_configs_that_the_command_takes(stdpipe: Command) -> None:
    offered = {name: stdpipe(name, "--help").stdout for name in ("train-student", "train-teacher")}
    assert "paper or demo" in " ".join(offered["train-student"].split())
    assert "demo" not in offered["train-teacher"]
