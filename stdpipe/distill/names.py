"""Names of terms and schemes, kept apart from torch so that --help is quick."""

from collections.abc import Mapping
from typing import TypeVar

Of = TypeVar("Of")

# name of a term -> the file beside this one whose TERMS holds it, in the order of sums and tables
TERM_FILES = {
    "sd": "attention", "td": "time", "kd-mse": "kd", "kd-mean2": "kd", "sd-lr": "attention",
    "td-lr": "time", "pisr": "pisr", "pisr-sr": "pisr", "affinity": "affinity", "output": "output",
    "output-hr": "output",
}  # fmt: skip

# name of a scheme -> the terms that it stands for; each term is a scheme of its own
SCHEMES: dict[str, tuple[str, ...]] = {
    "none": (),
    "std": ("sd", "td"),
    "std-lr": ("sd-lr", "td-lr"),
    "fakd": ("affinity", "output"),
    **{name: (name,) for name in TERM_FILES},
}


def mark(name: str, teacher: int) -> str:
    """Return the name of a teacher's map, of a helper or of a value: plain for the first of several
    teachers, "output:2" for the second."""
    return name if teacher == 1 else f"{name}:{teacher}"


def of_teacher(named: Mapping[str, Of], teacher: int) -> dict[str, Of]:
    """Return what belongs to one of several teachers, by its plain names."""
    plain = {name: name.partition(":")[0] for name in named}
    return {plain[name]: x for name, x in named.items() if name == mark(plain[name], teacher)}
