"""Manifests that were changed and sealed again, in every way that a type or a size can be wrong.

Each is refused in one line, or serves what it says; nothing else is raised. The command line holds
every other exception for a bug (exit 70), so the CLI is what is asked here.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings, strategies as st

from stdpipe.cache import open_reader
from stdpipe.cache.errors import UserError
from stdpipe.cache.layout import MANIFEST
from stdpipe.cache.manifest import _sha256
from stdpipe.cache.seal import seal, unseal
from stdpipe.cli.main import main

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.sampled_from([0, 1, 3, 2**20]),
    st.sampled_from([2**30, 2**40, {}, [], ["f_sr"], ["f_lr"], ["attention"], ["", ""]]),
    st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8),
    st.sampled_from(["float32", "int8", "trunk-int8", "zstd", "edvr", "bicubic", "no.such:Net"]),
    st.lists(st.integers() | st.text(max_size=4), max_size=3),
    st.sampled_from([{"7x16x16": {"entries": [key], "places": [place]}} for key in ("", "x")
                     for place in (0, 1, 9)]),
)  # fmt: skip
FIELDS = [
    "made_by", "entries", "frames", "channels", "f_lr_channels", "height", "width", "targets",
    "encoding", "compression", "notes", "format_version", "cache_id", "colour",
    "groups",
]  # fmt: skip
INNER = [
    ("made_by", name)
    for name in ("teacher", "teacher_sha256", "degradation", "amp", "seed", "views", "lr_8bit")
] + [("notes", name) for name in ("error", "data", "batch")] + [
    ("error", name) for name in ("f_sr_rmse", "sr_psnr", "attention_rmse", "measured_on")
]  # fmt: skip
REMOVED = object()
changes = st.lists(
    st.tuples(st.sampled_from([(name,) for name in FIELDS] + INNER), ODD | st.just(REMOVED)),
    min_size=1,
    max_size=3,
)


def change(content: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Set or remove one field, where what holds it is still a mapping."""
    where: Any = content
    for name in ("notes", "error") if path[0] == "error" else path[:-1]:
        where = where.get(name) if isinstance(where, dict) else None
    if isinstance(where, dict):
        if value is REMOVED:
            where.pop(path[-1], None)
        else:
            where[path[-1]] = value


def reseal(root: Path, content: dict[str, Any]) -> None:
    """Both copies, with a checksum and a cache_id that fit."""
    if content.get("cache_id"):
        identity = {k: v for k, v in content.items() if k in ("format_version", "made_by")}
        content["cache_id"] = _sha256(identity)
        derived = ("notes", "cache_id", "digest")
        content["digest"] = _sha256({k: v for k, v in content.items() if k not in derived})
    for name in (MANIFEST, f"journal/{MANIFEST}"):
        (root / name).write_bytes(seal(content))


@pytest.fixture(scope="module")
def root(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache to change, again and again."""
    return Path(shutil.copytree(tiny_cache, tmp_path_factory.mktemp("fuzz") / "c"))


def run(*arguments: object) -> None:
    told = CliRunner().invoke(main, list(map(str, arguments)), prog_name="stdpipe")
    assert told.exit_code in (0, 1), told.stderr


def look(root: Path, content: dict[str, Any], commands: list[list[object]]) -> None:
    """Open the cache as training does, read a crop of each array, then run the commands."""
    reseal(root, content)
    try:
        reader = open_reader(root, allow_incomplete=True)
        for name in reader.manifest.given:
            reader.read(next(iter(reader.entries), "absent"), name, h=4, w=4)
    except UserError:
        pass
    for command in commands:
        run(*command)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changed=changes)
def test_a_changed_manifest_is_refused_or_served(
    root: Path, tiny_cache: Path, changed: list[tuple[tuple[str, ...], Any]]
) -> None:
    content = unseal((tiny_cache / MANIFEST).read_bytes())
    for path, value in changed:
        change(content, path, value)
    info, verify = ["cache", "info", root], ["cache", "verify", root, "--json"]
    look(root, content, [info, verify])


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changed=changes)
def test_check_and_repair_of_a_changed_manifest(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_cache: Path,
    changed: list[tuple[tuple[str, ...], Any]],
) -> None:
    root = Path(shutil.copytree(tiny_cache, tmp_path_factory.mktemp("fuzz") / "c"))
    content = unseal((tiny_cache / MANIFEST).read_bytes())
    for path, value in changed:
        change(content, path, value)
    check = ["cache", "check", root, "--teacher-weights", "random:0", "--clips", 1]
    look(root, content, [check, ["cache", "repair", root]])
    shutil.rmtree(root)
