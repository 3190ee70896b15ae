"""The interface of a distillation term: its declaration, its inputs and its value.

A term is declared beside its equation, in a file of its own; names.py lists all of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from torch import Tensor, nn

from stdpipe.distill.names import of_teacher
from stdpipe.models.base import Features

Channels = Mapping[str, tuple[int, int]]
""""f_sr" and "f_lr" -> the channels of the student's map and of the teacher's."""


class FeatureLevel(NamedTuple):
    """The map that a term compares: F^SR, or F^LR for terms whose names end in "-lr"."""

    features: str
    """The map's name in Features and in a batch."""
    title: str
    suffix: str
    """Ends the names of helpers and of logged values on this level."""


F_SR, F_LR = FeatureLevel("f_sr", "F^SR", ""), FeatureLevel("f_lr", "F^LR", "_lr")


@dataclass(frozen=True)
class LossInputs:
    """The features of T frames of B clips that a term compares, and how it compares them."""

    student: Features
    """(B, T, C, ., .) each."""
    batch: Mapping[str, Tensor]
    """"hr" (B, T, 3, H, W), and the teacher's maps that the terms need: "f_sr", "f_lr", "sr" in the
    student's layout (or "sr" of luma alone), or "attention" (B, T, H, W), which is sum2. Where
    clips of LR alone are among them, "has_hr" (B, T) is 1 where there is HR, and 0 where not."""
    helpers: Mapping[str, nn.Module]
    """The modules that the terms train beside the student, by role."""
    attention: str = "sum2"
    attention_norm: str = "none"
    td_scale: str = "none"
    normalise: bool = False
    td_crop: tuple[int, int, int] | None = None
    """Where TD's ConvLSTM runs, y, x and side in HR pixels; None means everywhere."""
    output_to_hr: float = 0.0
    progress: float = 0.0
    """The share of the run's steps that are done."""

    @cached_property
    def f_sr(self) -> Tensor:
        """The student's F^SR in the teacher's channels."""
        return _framewise(self.helpers["adapter"], self.student.f_sr)

    @cached_property
    def f_lr(self) -> Tensor:
        """The student's F^LR in the teacher's channels."""
        return _framewise(self.helpers["adapter_lr"], self.student.f_lr)

    def of_teacher(self, number: int) -> "LossInputs":
        """Return what the terms of one of several teachers see."""
        batch = {name: self.batch[name] for name in ("hr", "has_hr") if name in self.batch}
        batch |= of_teacher(self.batch, number)
        return replace(self, batch=batch, helpers=of_teacher(self.helpers, number))

    def aligned(self, level: FeatureLevel) -> Tensor:
        """Return the student's map of one level in the teacher's channels."""
        return self.f_sr if level is F_SR else self.f_lr


class Value(NamedTuple):
    """The value of a term."""

    value: Tensor
    divisor: Tensor | float = 1.0
    """Divides the value in the sum, not in the log."""
    beside: tuple[Tensor, ...] = ()
    """The values that are logged under the names in the term's `logs`."""


@dataclass(frozen=True)
class Term:
    """One part of a loss."""

    compute: Callable[[LossInputs], Value]
    needs: str
    """The teacher's map that it compares: "attention", "f_sr", "f_lr" or "sr"."""
    weight: float
    """The weight where the scheme gives none."""
    source: str
    """The publication of the equation."""
    about: str
    """What the term compares, in one sentence."""
    helpers: Mapping[str, Callable[[Channels], nn.Module]] = field(default_factory=dict)
    """Role -> builder of each module that it trains beside the student; they are left behind."""
    logs: tuple[str, ...] = ()
    """The names of the values that it logs beside its own."""
    weight_key: str = ""
    """The config key that gives its default weight instead of `weight`."""
    memory: str = ""
    """The role of its ConvLSTM, which is frozen for good once the term collapses."""
    frozen: str = ""
    """The key of checkpoint.pt that says whether the ConvLSTM is frozen."""
    privileged: bool = False
    """Whether it expects a teacher that was shown HR."""


def adapter(level: FeatureLevel) -> dict[str, Callable[[Channels], nn.Module]]:
    """Return the helper that brings a level's maps to the teacher's channels."""

    def build(channels: Channels) -> nn.Module:
        mine, theirs = channels[level.features]
        return nn.Identity() if mine == theirs else nn.Conv2d(mine, theirs, 1)

    return {f"adapter{level.suffix}": build}


def _framewise(module: nn.Module, features: Tensor) -> Tensor:
    out: Tensor = module(features.flatten(0, 1)).unflatten(0, features.shape[:2])
    return out
