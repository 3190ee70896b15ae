"""Keys and signatures in addresses: no command writes or shows one, whichever option it is in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from stdpipe.cache.errors import UserError
from stdpipe.cache.files import refuse_secrets, without_secrets
from stdpipe.cache.location import open_place
from stdpipe.cli.main import main

Command = Callable[..., Any]
SECRET = "wJalrXUtnFEMI"
ADDRESSES = {
    "keys": f"s3://AKIA:{SECRET}@bucket/c.zarr",
    "slash": f"s3://AKIA:{SECRET}/K7MDENG@bucket/c.zarr",
    "escaped": f"s3://AKIA%3A{SECRET}%40bucket/c.zarr",
    "signed": f"https://bucket.s3.amazonaws.com/c.zarr?X-Amz-Signature={SECRET}",
    "sas": f"az://account/c.zarr?sv=1&sig={SECRET}",
    "token": f"gs://{SECRET}@bucket/c.zarr",
}
GRID = {
    "name": "e",
    "teachers": {"t": "embedded"},
    "students": ["vdsr"],
    "schemes": ["none"],
    "tests": {"own": {"data": "own"}},
}
TRAIN = "train-student --student vdsr"
COMMANDS = [
    "extract-teacher --data DATA --weights embedded --cache URL",
    "extract-teacher --data DATA --weights embedded --cache URL --plan",
    "extract-teacher --data URL --weights embedded --cache out",
    "extract-teacher --data DATA --weights URL --cache out",
    "extract-teacher --data DATA --lr URL --weights embedded --cache out",
    f"{TRAIN} --data DATA --cache URL --out out",
    f"{TRAIN} --data DATA --cache c.zarr --cache URL --out out",
    f"{TRAIN} --data URL --scheme none --out out",
    f"{TRAIN} --data DATA --scheme none --out URL",
    f"{TRAIN} --data DATA --scheme none --init URL --out out",
    f"{TRAIN} --data DATA --live-teacher URL --out out",
    f"{TRAIN} --data DATA --scheme none --out out --config URL",
    f"{TRAIN} --data DATA --scheme none --out out --set lr=URL",
    f"{TRAIN} --data DATA --scheme none --out out --config config.yaml",
    "train-student --data DATA --students students.yaml --scheme none --out out",
    "train-teacher --data URL --teacher vdsr --out out",
    "train-teacher --data DATA --teacher vdsr --init URL --out out",
    "evaluate --data URL --model bicubic --out out",
    "evaluate --data DATA --model bicubic --out URL",
    "evaluate --data DATA --model vdsr@URL --out out",
    "evaluate --data DATA --weights=URL --out out",
    "experiment grid.yaml --data DATA --out out",
    "experiment recipe --data URL --out out",
    "experiment recipe --data DATA --test vid4=URL --out out --plan",
    "report URL --out out",
    "runs URL",
    "upscale URL out",
    "upscale DATA/sequences/00001/0001 URL",
    "export --weights URL --out out",
    "bench URL",
    "degrade URL out",
    "pack-clips --data URL --out out",
    "cache info URL",
    "cache verify URL",
    "cache check URL --teacher-weights random:0",
    "cache repair URL",
    "models URL",
    "URL",
]


def run(words: str, url: str, data: Path, folder: Path) -> str:
    """Run it there; return what it showed, and the name and content of every file it left."""
    (folder / "grid.yaml").write_text(yaml.safe_dump({**GRID, "data": url}))
    (folder / "students.yaml").write_text(yaml.safe_dump({"a": {"init": url}}))
    (folder / "config.yaml").write_text(yaml.safe_dump({"lr": url}))
    given = {"grid.yaml", "students.yaml", "config.yaml"}
    arguments = words.replace("DATA", str(data)).replace("URL", url).split()
    result = CliRunner().invoke(main, arguments, prog_name="stdpipe")
    assert result.exit_code in (1, 2), result.output
    assert len(result.stderr.splitlines()) == 1
    left = [path for path in folder.rglob("*") if path.name not in given]
    files = [path.read_bytes().decode(errors="replace") for path in left if path.is_file()]
    return "\n".join([result.output, *map(str, left), *files])


@pytest.mark.parametrize("words", COMMANDS)
def test_no_command_shows_or_writes_one(
    tmp_path: Path, tiny: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ADDRESSES.values():
        told = run(words, url, tiny, tmp_path)
        assert SECRET not in told
        assert words == "URL" or "AWS_ACCESS_KEY_ID" in told
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*:"))  # a Path makes a folder `s3:` of s3://


@pytest.mark.parametrize("url", ADDRESSES.values())
def test_from_python(url: str) -> None:
    with pytest.raises(UserError) as caught:
        open_place(url)
    assert SECRET not in str(caught.value)
    assert SECRET not in without_secrets(f"cannot open '{url}': no such bucket")


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/vimeo.zarr",
        "s3://bucket/me@home/c.zarr",
        "http://127.0.0.1:9000/bucket/c.zarr",
        "cannot reach http://127.0.0.1:9000: (http://[::1]:80/b)",
        "file:///data/a b/c.zarr",
        "abfss://container@account.dfs.core.windows.net/c.zarr",
        "/data/a@b/c?.zarr",
        "vdsr@/data/w.pt",
        "data:lr=/x@y,test=0.2",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    refuse_secrets(text, "it")
    assert without_secrets(text) == text


def test_a_run_of_an_older_version(tmp_path: Path, stdpipe: Command, tiny: Path) -> None:
    """Its config.yaml has the address as it was given; it is reported without the secret."""
    settings = ("--set", "steps=1", "--set", "batch=1", "--set", "patch=32", "--set", "workers=0")
    out = tmp_path / "run"
    job = ("train-student", "--data", tiny, "--student", "vdsr:num_feat=4,num_layer=3")
    job += ("--scheme", "none", *settings, "--out", out)
    stdpipe(*job)
    old = yaml.safe_load((out / "config.yaml").read_text())
    urls = list(ADDRESSES.values())
    old |= {"cache": urls[0], "other_caches": urls[1:]}
    (out / "config.yaml").write_text(yaml.safe_dump(old))
    shown = stdpipe("report", out, "--out", tmp_path / "page").output
    shown += stdpipe("runs", out, "--json").output
    for file in (tmp_path / "page").rglob("*"):
        shown += file.read_text(errors="replace") if file.is_file() else ""
    assert SECRET not in shown
    stdpipe(*job)
    assert SECRET not in (out / "config.yaml").read_text()
