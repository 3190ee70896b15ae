"""Sort errors into those of the user, those of the machine, and bugs of stdpipe."""

import os
import sysconfig
import tempfile
import traceback
from pathlib import Path

# how torch reports it on CUDA and on CPUs
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
# how gloo and NCCL report that another rank has died
PEER_GONE = ("Connection closed by peer", "Connection reset by peer", "NCCL communicator was abort")
BUG = "this is a bug of stdpipe"


def one_line(error: Exception) -> str:
    """Return an error's message without the worker's traceback that a DataLoader puts before it."""
    text = str(error).strip() or type(error).__name__
    if text.startswith("Caught "):
        text = text.rpartition(f"{type(error).__name__}: ")[2]
    place = _own_place(error)
    return " ".join((f"{place}: {type(error).__name__}: {text}" if place else text).split())


def cause(error: Exception) -> Exception:
    """Return the full disk that torch.save hides behind a RuntimeError, or the error itself."""
    from stdpipe.cache.files import is_full  # here: --help has no need of numpy

    hidden = error.__context__ if isinstance(error, RuntimeError) else None
    return hidden if isinstance(hidden, OSError) and is_full(hidden) else error


def says(error: Exception, marks: tuple[str, ...]) -> bool:
    """Tell whether a RuntimeError, which torch raises for many reasons, has one of these texts."""
    return isinstance(error, RuntimeError) and any(mark in one_line(error) for mark in marks)


def is_bug(error: Exception) -> bool:
    """Tell whether an error is none that the user, more memory or another try can mend."""
    is_known = _is_told(error) or _own_place(error) is not None
    return not (is_known or says(error, (*OUT_OF_MEMORY, *PEER_GONE, "DataLoader worker")))


def _is_told(error: Exception) -> bool:
    """Tell whether an error's message alone says what was wrong."""
    from stdpipe.cache.errors import UserError

    return isinstance(error, UserError | OSError | MemoryError)


def _own_place(error: Exception) -> str | None:
    """Return the file and line where an error arose, if that is a network of the user's own."""
    if _is_told(error):
        return None
    libraries = tuple(map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")))
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module, file = frame.f_globals.get("__name__", ""), frame.f_code.co_filename
        if module.partition(".")[0] == "stdpipe":
            return None
        if Path(file).is_file() and not file.startswith(libraries):
            return f"{file}, line {line}"
    return None


def report_bug(error: Exception) -> str:
    """Write a bug's traceback to a file; return what to tell the user."""
    from stdpipe.cache.files import without_secrets  # here: --help has no need of numpy

    what = f"{BUG} ({type(error).__name__}: {one_line(error)[:200]})"
    try:
        fd, path = tempfile.mkstemp(".txt", "stdpipe-")
        with os.fdopen(fd, "w", errors="replace") as file:
            file.write(without_secrets("".join(traceback.format_exception(error))))
        return f"{what}: please report it with its traceback, which lies in {path}"
    except OSError:
        return f"{what}: run it again with STDPIPE_TRACEBACK=1 and report what it shows"
