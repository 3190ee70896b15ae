"""The data of `stdpipe demo`: seven real clips and a small trained EDVR (see SOURCES.md)."""

from pathlib import Path

EMBEDDED = "embedded"  # what the EDVR's file is called where weights are asked for
TEACHER = Path(__file__).with_name("teacher.pt")
SAMPLE = Path(__file__).with_name("sample")


def named(weights: str) -> str:
    """Return the file that `embedded` names; any other name is its own."""
    return str(TEACHER) if weights == EMBEDDED else weights
