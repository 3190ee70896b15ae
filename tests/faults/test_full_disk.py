"""No space left, played by a limit on the size of any file a process may write."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stdpipe import cache

Command = Callable[..., Any]
LIMIT = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
"""


def test_extract_keeps_what_is_committed(
    tmp_path: Path, tiny: Path, tiny_cache: Path, extract: Command, stdpipe: Command, spawn: Command
) -> None:
    command = extract(tiny, tmp_path / "c", "--orientations", 2)
    full = spawn(command, LIMIT.format(size=100_000))
    assert (full.returncode, full.stdout) == (1, "")
    assert full.stderr == (
        f"stdpipe: no space left for cache {tmp_path / 'c'}: make "
        "space and run the same command again, it resumes\n"
    )
    stdpipe(*command)
    assert cache.verify(tmp_path / "c").ok == 6
    assert cache.load_manifest(tmp_path / "c") == cache.load_manifest(tiny_cache)


@pytest.mark.slow
def test_train_tells_it_and_goes_on(
    tmp_path: Path, tiny: Path, train: Command, stdpipe: Command, spawn: Command
) -> None:
    """A checkpoint is larger than the limit; metrics and config are smaller."""
    command = train(tmp_path / "run", tiny, "--scheme", "none")
    full = spawn(command, LIMIT.format(size=100_000))
    assert (full.returncode, full.stdout) == (1, ""), full.stderr
    assert full.stderr == (
        "stdpipe: [Errno 27] File too large; make space and run the same command again\n"
    )
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    stdpipe(*command)
    assert (tmp_path / "run" / "weights.pt").exists()
