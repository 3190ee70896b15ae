"""What stdpipe comes with: seven real clips, a small trained EDVR, and two students that an EDVR
taught (see SOURCES.md)."""

from pathlib import Path

_HERE = Path(__file__).parent
SAMPLE = _HERE / "sample"
TEACHER = _HERE / "teacher.pt"
STUDENT = _HERE / "student.pt"  # what `upscale` takes unless told
EMBEDDED = {
    "embedded": TEACHER,
    "embedded-student": STUDENT,
    "embedded-small": _HERE / "student_small.pt",
}
"""What each file is called where weights are asked for."""


def named(weights: str) -> str:
    """Return the file that one of these names names; any other name is its own."""
    return str(EMBEDDED.get(weights, weights))
