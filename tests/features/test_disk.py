"""Room on the disk: what fits uncompressed passes unweighed, the rest is weighed and refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stdpipe import cache
from stdpipe.cache.errors import UserError

Command = Callable[..., Any]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """free(bytes): so many are left, wherever one asks."""

    def leave(count: int) -> None:
        usage = shutil.disk_usage("/")._replace(free=count)
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage)

    return leave


def test_what_fits_uncompressed_is_not_weighed(
    tmp_path: Path, tiny: Path, extract: Command, stdpipe: Command, refused: Command,
    free: Callable[[int], None], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Three clips of f_sr and attention in float32, sr in bytes; less, and one is weighed."""

    def weigh(*_: object) -> dict[str, int]:
        raise UserError("weighed")

    monkeypatch.setattr("stdpipe.extract.weigh", weigh)
    uncompressed = 3 * 7 * (64 * 4 + 4 + 3) * 32 * 48
    free(uncompressed - 1)
    assert refused(*extract(tiny, tmp_path / "c")) == "stdpipe: weighed"
    free(uncompressed)
    stdpipe(*extract(tiny, tmp_path / "c"))


def test_free_bytes(tmp_path: Path) -> None:
    """Of the folder that exists; an object store is not asked."""
    here = cache.open_place(tmp_path / "not" / "there").free_bytes()
    assert here is not None
    assert here == pytest.approx(cache.open_place(f"file://{tmp_path}").free_bytes(), rel=0.5)
    assert cache.open_place("s3://bucket/cache.zarr").free_bytes() is None


def test_an_extraction_that_does_not_fit_writes_nothing(
    tmp_path: Path, tiny: Path, extract: Command, refused: Command, free: Callable[[int], None]
) -> None:
    free(1000)
    told = refused(*extract(tiny, tmp_path / "c"))
    assert told.startswith("stdpipe: 3 clips as float32 need about 0.0 GB, but 0.0 GB are free")
    assert "choose a smaller --encoding (--plan weighs them all) or another disk" in told
    assert not (tmp_path / "c").exists()


def test_only_what_is_missing_has_to_fit(
    tmp_path: Path, tiny_cache: Path, tiny: Path, extract: Command, stdpipe: Command,
    free: Callable[[int], None],
) -> None:  # fmt: skip
    shutil.copytree(tiny_cache, tmp_path / "c")
    free(0)
    stdpipe(*extract(tiny, tmp_path / "c", "--orientations", 2))
