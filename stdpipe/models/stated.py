"""Refuse files of weights that ask for more memory than weights take, by what they state, before
anything is allocated: a zip file of a kilobyte may hold gigabytes of zeros."""

import io
import math
import pickletools
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from stdpipe.cache.errors import UserError

MOST_BYTES = 2**33  # of a file: the largest network here, its average and its optimiser
MOST_PICKLED = 2**23  # of names, shapes and settings; each byte may become an object of 64
NUMBER = 8  # bytes, as reading.py takes arrays
FREELY = 2**28  # bytes that any file may hold
TIMES = 16  # what more may grow in unpacking: weights hardly compress
BYTEARRAY = ("__builtin__ bytearray", "builtins bytearray")
LEGACY_PICKLES = 5  # of a file of torch before 1.6


def refuse_large(content: bytes, path: Path) -> None:
    """Raise UserError for a zip file or a pickle that would take far more memory than weights of
    its size. Damaged ones are left to whoever reads them."""
    try:
        if content.startswith(b"\x80"):
            _refuse_pickles(content, path, LEGACY_PICKLES)
        elif content.startswith(b"PK"):
            _refuse_zip(content, path)
    except UserError:
        raise
    except Exception:  # damaged: its reader says so
        return


def _refuse_zip(content: bytes, path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = file.infolist()
        _refuse_sum(sum(each.file_size for each in members), content, path)
        for each in members:
            if each.filename.endswith("data.pkl"):
                _refuse_pickles(file.read(each), path, 1)
            if each.filename.endswith(".npy"):
                with file.open(each) as stream:
                    _refuse_sum(NUMBER * _count(stream), content, path, TIMES * NUMBER)


def _refuse_sum(stated: int, content: bytes, path: Path, times: int = TIMES) -> None:
    if stated > max(FREELY, times * len(content)):
        held = f"states that it holds {stated:,} bytes in its {len(content):,}"
        raise UserError(f"{path} {held}, and no weights pack so well: check where it comes from")


def _count(stream: IO[bytes]) -> int:
    """Return how many numbers the header of an array in a file of arrays states."""
    old = np.lib.format.read_magic(stream) == (1, 0)
    read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    return math.prod(read(stream)[0])


def _refuse_pickles(content: bytes, path: Path, count: int) -> None:
    """Look through a file's first pickles without running them."""
    stream = io.BytesIO(content)
    for _ in range(count):
        start = stream.tell()
        for code, argument, at in pickletools.genops(stream):
            if (at or 0) - start > MOST_PICKLED:
                told = f"holds a pickle of more than {MOST_PICKLED:,} bytes beside its tensors"
                raise UserError(f"{path} {told}: save the network's state_dict() alone")
            # torch allows it, of any length
            if code.name == "GLOBAL" and argument in BYTEARRAY:
                told = "asks for a bytearray, which no network has"
                raise UserError(f"{path} {told}: save the network's state_dict() alone")
