"""Tiny caches for the tests of stdpipe.cache: a few entries of two frames and three channels."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stdpipe.cache import Manifest, open_place, open_writer
from stdpipe.cache.place import Place

MakeManifest = Callable[..., Manifest]
Arrays = Callable[[Manifest, str], dict[str, np.ndarray]]
Build = Callable[[Path, Manifest], Path]


def _manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "made_by": {"teacher": "edvr-l", "weights_sha256": "abc", "seed": 0, "views": "full"},
        "entries": tuple(f"00001/{i:04d}@{i % 8}" for i in range(4)),
        "frames": 2,
        "channels": 3,
        "height": 20,
        "width": 132,
        "encoding": "float32",
    }
    return Manifest(**(fields | changes))


def _arrays(manifest: Manifest, key: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(manifest.index[key])
    return {
        name: rng.standard_normal(manifest.arrays[name].shape[1:], dtype=np.float32)
        for name in manifest.given
    }


def _extra(key: str) -> Mapping[str, Any]:
    return {"source_crc32": len(key)}


def _build(path: Path, manifest: Manifest) -> Path:
    with open_writer(path, manifest) as writer:
        for key in manifest.entries:
            if key not in writer.committed:
                writer.write(key, _arrays(manifest, key), _extra(key))
        writer.finalise()
    return path


def _files(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture
def make_manifest() -> MakeManifest:
    """Manifest fields by name; the rest has small defaults."""
    return _manifest


@pytest.fixture
def manifest() -> Manifest:
    """Four entries in float32, two inner chunks wide."""
    return _manifest()


@pytest.fixture
def arrays() -> Arrays:
    """The values of an entry: a function of its position only."""
    return _arrays


@pytest.fixture
def build() -> Build:
    """Write what is missing of a cache, and finish it."""
    return _build


@pytest.fixture
def cache(tmp_path: Path, manifest: Manifest) -> Path:
    """A complete cache."""
    return _build(tmp_path / "cache.zarr", manifest)


@pytest.fixture
def files_of() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder, by relative path; locks apart, which hold nothing."""
    return _files


@pytest.fixture
def place(s3: str) -> Place:
    """An empty prefix of an object store."""
    return open_place(s3)
