"""What a distillation term declares, what it is given and what it returns.

A term is declared beside its equation, in a file of its own; terms.py lists all of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from torch import Tensor, nn

from stdpipe.distill.names import F_SR_CHANNELS
from stdpipe.models.base import Features


class Channels(NamedTuple):
    """Channels of the student's and the teacher's maps; 0 for an F^LR that no term reads."""

    f_sr: int
    f_lr: int = 0
    teacher_f_lr: int = 0
    teacher_f_sr: int = F_SR_CHANNELS


class FeatureLevel(NamedTuple):
    """The map that a term compares: F^SR, or F^LR for terms whose names end in "-lr"."""

    features: str
    """Its name in Features and in a batch."""
    title: str
    suffix: str
    """Ends the names of helpers and of logged values on this level."""


F_SR, F_LR = FeatureLevel("f_sr", "F^SR", ""), FeatureLevel("f_lr", "F^LR", "_lr")


@dataclass(frozen=True)
class LossInputs:
    """Says what a term looks at: features of T frames of B clips, and how to compare them."""

    student: Features
    """(B, T, C, ., .) each."""
    batch: Mapping[str, Tensor]
    """"hr" (B, T, 3, H, W), and of the teacher what the terms need: "f_sr", "f_lr", "sr" as the
    student's, or "attention" (B, T, H, W), which is sum2."""
    helpers: Mapping[str, nn.Module]
    """What the terms train beside the student, by role."""
    attention: str = "sum2"
    attention_norm: str = "none"
    td_scale: str = "none"

    @cached_property
    def f_sr(self) -> Tensor:
        """The student's F^SR in the teacher's channels."""
        return _framewise(self.helpers["adapter"], self.student.f_sr)

    @cached_property
    def f_lr(self) -> Tensor:
        """The student's F^LR in the teacher's channels."""
        return _framewise(self.helpers["adapter_lr"], self.student.f_lr)

    def aligned(self, level: FeatureLevel) -> Tensor:
        """f_sr or f_lr."""
        return self.f_sr if level is F_SR else self.f_lr


class Value(NamedTuple):
    """Says what a term came to."""

    value: Tensor
    divisor: Tensor | float = 1.0
    """Divides the value in the sum, not in the log."""
    beside: tuple[Tensor, ...] = ()
    """What is logged under the term's `logs`."""


class Memory(NamedTuple):
    """A ConvLSTM that is frozen for good once its term collapses."""

    role: str
    """Its name among the helpers."""
    frozen: str
    """Where checkpoint.pt says whether it is frozen."""


@dataclass(frozen=True)
class Term:
    """One part of a loss."""

    compute: Callable[[LossInputs], Value]
    needs: str
    """What of the teacher it compares: "attention", "f_sr", "f_lr" or "sr"."""
    weight: float
    """The weight where the scheme gives none."""
    source: str
    """Whose equation it is."""
    about: str
    """What it compares, in one sentence."""
    helpers: Mapping[str, Callable[[Channels], nn.Module]] = field(default_factory=dict)
    """Role -> builder of each module that it trains beside the student; they are left behind."""
    logs: tuple[str, ...] = ()
    """The names of what it logs beside its value."""
    weight_key: str = ""
    """The config key that gives its default weight instead of `weight`."""
    memory: Memory | None = None
    """The helper that the collapse guard watches."""
    privileged: bool = False
    """It expects a teacher that was shown HR."""


def adapter(level: FeatureLevel) -> dict[str, Callable[[Channels], nn.Module]]:
    """The helper that brings a level's maps to the teacher's channels, for Term.helpers."""

    def build(channels: Channels) -> nn.Module:
        mine, theirs = student_and_teacher(channels, level)
        return nn.Identity() if mine == theirs else nn.Conv2d(mine, theirs, 1)

    return {f"adapter{level.suffix}": build}


def student_and_teacher(channels: Channels, level: FeatureLevel) -> tuple[int, int]:
    """The channels of both at one level."""
    if level is F_SR:
        return channels.f_sr, channels.teacher_f_sr
    return channels.f_lr, channels.teacher_f_lr


def _framewise(module: nn.Module, features: Tensor) -> Tensor:
    out: Tensor = module(features.flatten(0, 1)).unflatten(0, features.shape[:2])
    return out
