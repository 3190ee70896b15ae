"""Types of network options. models/zoo.py checks a name's options against them."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, Strict

MOST_OPTION = 512  # the largest whole number in an option: channels, blocks, frames


def _check_odd(num_frame: int) -> int:
    if num_frame < 3 or num_frame % 2 == 0:
        raise ValueError(f"num_frame is a window's length, odd and at least 3, got {num_frame}")
    return num_frame


Count = Annotated[int, Field(ge=0, le=MOST_OPTION)]  # of what may be left out: blocks, say
Positive = Annotated[int, Field(ge=1, le=MOST_OPTION)]  # of channels, which must be there
Window = Annotated[int, Field(le=MOST_OPTION), AfterValidator(_check_odd)]
Width = Annotated[float, Field(gt=0, le=4), Strict(False)]  # YAML 1.1 reads 1e-1 as text
Channels = Literal[1, 3]  # Y alone, or RGB
Scale = Literal[2, 3, 4]  # SR size / LR size
Form = Literal["published", "deep"]
