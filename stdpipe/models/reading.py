"""Read files of weights, and says of a file that is none what it is and what to do.

Torch's files load with weights_only=True, always: one that would run code is refused.
"""

import io
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from stdpipe.cache.errors import UserError
from stdpipe.cache.schema import read_bytes
from stdpipe.models.foreign import values_beside
from stdpipe.models.stated import MOST_BYTES, refuse_large

KINDS = {  # by how a file begins, in lower case
    (b"<!doctype html", b"<html", b"<?xml"): (
        "a web page, not the file that was asked for: download it by the link of the file itself"
    ),
    (b"version https://git-lfs",): (
        "a git-lfs pointer, not the file itself: run `git lfs pull` where it lies"
    ),
    # the format's version and its writer, which torch.onnx and stdpipe export both give
    tuple(b"\x08%c\x12\x07pytorch" % version for version in range(1, 20)): (
        "an ONNX file, which only runs: give the weights that it was made from"
    ),
}
FOLDER = 0x10  # the attribute of one, in a zip file
PROGRAMS = {  # a member of a zip file
    "constants.pkl": "a TorchScript file, which is code: save torch.jit.load(FILE).state_dict()",
    "archive_format": "a program of torch.export: save torch.export.load(FILE).state_dict",
}


class Unneeded:
    """Stands in the place of a value beside the tensors; whatever it was made of is dropped."""

    def __new__(cls, *_: object) -> "Unneeded":
        return super().__new__(cls)

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def read_file(path: Path) -> Any:
    """Return what a file of torch, of safetensors or, named .npz, of arrays holds.

    Raises FileNotFoundError, or UserError for a file that is damaged, something else, or would run
    code on loading.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the file in it, such as {path / 'weights.pt'}")
    try:
        content = read_bytes(path, MOST_BYTES)
    except FileNotFoundError:
        raise FileNotFoundError(f"no weights file {path}") from None
    if not content:
        raise UserError(f"{path} is empty: copy or download it again")
    start = content[:200].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for beginnings, told in KINDS.items():
        if start.startswith(beginnings):
            raise UserError(f"{path} is {told}")
    refuse_large(content, path)
    if part := damaged_part(io.BytesIO(content)):
        told = f"the checksum of {part!r} in it does not fit: copy or download it again"
        raise UserError(f"{path} is damaged: {told}")
    if path.suffix == ".npz":
        return _arrays(content, path)
    return _safetensors(content, path) if path.suffix == ".safetensors" else _torch(content, path)


def damaged_part(file: Path | BinaryIO) -> str | None:
    """Return the part of a zip file that does not fit its checksum, which torch does not look at.

    None where all fit, where there are none (torch leaves them out on request), and for other
    files.
    """
    if not zipfile.is_zipfile(file):
        return None
    name = "its directory"
    try:
        with zipfile.ZipFile(file) as opened:
            parts = opened.infolist()
            for part in parts if any(part.CRC for part in parts) else ():
                name = part.filename
                # torch takes a part that is marked as a folder for one without bytes
                if part.external_attr & FOLDER and not part.is_dir():
                    return name
                with opened.open(part) as stream:
                    while stream.read(1 << 20):
                        pass
    except MemoryError:
        raise
    except Exception:  # damage can raise anything
        return name
    return None


def _arrays(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    """Return the arrays of numbers; text and the like beside them is no weight of anything."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        numbers = {name: x for name, x in arrays.items() if x.dtype.kind in "biuf"}
        # one type, since torch takes neither big-endian numbers nor those of 16 bytes
        return {name: torch.from_numpy(x.astype(np.float64)) for name, x in numbers.items()}
    except MemoryError:
        raise
    except Exception as error:  # damage can raise anything
        raise UserError(f"{path} is no file of arrays, or a damaged one: {_line(error)}") from None


def _safetensors(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    try:
        return load(content)
    except MemoryError:
        raise
    except Exception as error:  # of a type of numbers that torch does not have, a KeyError
        told = "is no safetensors file, or a damaged one"
        raise UserError(f"{path} {told}: {_line(error)}") from None


def _torch(content: bytes, path: Path) -> Any:
    _refuse_other_zips(content, path)
    harmless = torch.serialization.safe_globals([(Unneeded, name) for name in values_beside()])
    try:
        with warnings.catch_warnings(), harmless:
            warnings.simplefilter("ignore", UserWarning)  # about pickle protocols of damaged files
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # damage inside a pickle can raise anything
        told = "is no checkpoint, or a truncated or damaged one"
        # torch's words for a function or class that is more than tensors and plain values
        if asked := re.search(r"GLOBAL (\S+)", str(error)):
            told = f"would run code on loading and is refused: it asks for {asked[1]}; where that "
            told += "is installed and trusted, save the network's state_dict() alone"
        raise UserError(f"{path} {told}") from None


def _refuse_other_zips(content: bytes, path: Path) -> None:
    """Raise UserError for a zip file that is not torch's own kind of one."""
    names = _members(content)
    files = {name.rpartition("/")[2] for name in names}
    for member, told in PROGRAMS.items():
        if member in files:
            raise UserError(f"{path} is {told} with torch.save, and give that")
    if names and all(name.endswith(".npy") for name in names):
        raise UserError(f"{path} is a file of arrays: let its name end in .npz")
    if names and "data.pkl" not in files:
        held = ", ".join(repr(name)[1:-1] for name in names[:3]) + ", ..." * (len(names) > 3)
        raise UserError(f"{path} is a zip file around {held}: unpack it and give the checkpoint")


def _members(content: bytes) -> list[str]:
    if not content.startswith(b"PK"):
        return []
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            return [name for name in file.namelist() if not name.endswith("/")]
    except Exception:  # damaged: torch.load will say so
        return []


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
