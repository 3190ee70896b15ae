"""Fixtures for tests on real frames: skipped, with a reason, where the frames are absent."""

import os
from pathlib import Path

import pytest


def _real_data(name: str) -> Path:
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("STDPIPE_DATA", beside)) / name
    if not folder.is_dir():
        pytest.skip(f"real frames ({name}) are not here: set STDPIPE_DATA to the folder with them")
    return folder


@pytest.fixture(scope="session")
def vid4() -> Path:
    """The folder of Vid4's ground truth: GT/{calendar,city,foliage,walk}/*.png."""
    return _real_data("vid4")


@pytest.fixture(scope="session")
def footage() -> Path:
    """A small real data set in Vimeo90K's layout."""
    return _real_data("footage")
