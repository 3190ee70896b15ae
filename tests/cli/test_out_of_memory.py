"""Where memory does not suffice: one line, with options that the command has."""

from collections.abc import Callable
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("step", "arguments", "advice"),
    [
        (
            "stdpipe.upscale.upscale",
            ["upscale", "in.mp4", "out.mp4"],
            "Cut frames into smaller tiles (--tile), or choose --amp bf16.",
        ),
        (
            "stdpipe.evaluate.evaluate",
            ["evaluate", "--data", "d", "--model", "bicubic"],
            "Choose --amp bf16, or smaller frames.",
        ),
        ("stdpipe.export.export", ["export", "--out", "net.onnx"], "Take smaller frames."),
        (
            "stdpipe.extract.extract_teacher",
            ["extract-teacher", "--data", "d", "--cache", "c"],
            "Lower batch or patch, or choose --amp bf16.",
        ),
        (
            "stdpipe.train.train_students",
            ["train-student", "--data", "d", "--student", "vdsr", "--out", "o"],
            "Lower batch or patch, or choose --amp bf16.",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_advice_can_be_followed(
    refused: Command,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    arguments: list[str],
    advice: str,
) -> None:
    def too_much(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\nMore of it")

    monkeypatch.setattr(step, too_much)
    told = refused(*arguments)
    assert told == f"stdpipe: CUDA out of memory. Tried to allocate 2 GiB. {advice}"
