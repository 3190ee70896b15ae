"""Every option of the two kinds of training: a key, its default, one sentence with the unit.

A YAML file or `--set key=value` changes them; configs/paper.yaml lists them all. The dataclasses
stop at the stages: models and stores get plain arguments.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from stdpipe.cache.errors import UserError
from stdpipe.distill.schemes import parse_scheme
from stdpipe.suggest import nearest

ATTENTIONS = ("sum", "sum2", "max2")
AMPS = ("none", "bf16", "fp16")


@dataclass(frozen=True)
class Training:
    """What both kinds of training share."""

    steps: int = 800_000
    """Optimiser steps in all, warm-up included."""
    batch: int = 2
    """Clips a step, in all processes together."""
    accumulate: int = 1
    """Passes over a batch / accumulate of them each that make one step: less memory, same step."""
    patch: int = 256
    """Side of the square HR crop, in pixels; a multiple of 16."""
    lr: float = 1e-4
    """Adam's first learning rate."""
    schedule: str = "halve"
    """How it falls: "halve" every lr_halve_every steps, or "cosine" to zero at the last step."""
    lr_halve_every: int = 200_000
    """Steps between halvings."""
    max_grad_norm: float = 0.0
    """Gradients are scaled down to this norm; 0 leaves them alone."""
    seed: int = 0
    """Of initial weights, and of order and crops unless data_seed says otherwise."""
    data_seed: int = -1
    """Of order, crops and (without a cache) orientations; -1 takes seed."""
    amp: str = "none"
    """Mixed precision: "none", "bf16" or "fp16" (with loss scaling)."""
    workers: int = 1
    """Processes that read and degrade clips; 0 does it in the training process."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl."""
    save_every: int = 500
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        _positive(self, "steps", "batch", "accumulate", "patch", "lr", "lr_halve_every")
        _positive(self, "log_every", "save_every")
        _not_negative(self, "max_grad_norm", "workers")
        _one_of("schedule", self.schedule, ("halve", "cosine"))
        _one_of("amp", self.amp, AMPS)
        if self.patch % 16:
            raise UserError(f"patch must be a multiple of 16 HR pixels, got {self.patch}")
        if self.batch % self.accumulate:
            raise UserError(
                f"accumulate ({self.accumulate}) does not divide batch ({self.batch}); a step's "
                "clips are shared out equally"
            )

    @property
    def stream_seed(self) -> int:
        """Of the clips' order and crops."""
        return self.seed if self.data_seed == -1 else self.data_seed


@dataclass(frozen=True)
class TeacherTraining(Training):
    """train-teacher: Charbonnier on one random frame a clip."""

    steps: int = 600_000
    lr: float = 4e-4
    schedule: str = "cosine"
    batch: int = 32
    max_grad_norm: float = 10.0
    """Unbounded, EDVR's offsets can explode (xinntao/EDVR issues 16, 62)."""
    tsa_steps: int = 0
    """First steps in which the TSA fusion alone is trained, after --init from a net without TSA."""
    train_only: str = ""
    """Parts of the network, by comma, that are trained while the rest stays as --init has it; what
    --init lacks of them starts fresh. RBPN's new head: "output". Empty trains everything."""
    imitation: float = 1e-4
    """Weight of the L1 between LR and what a teacher that sees HR (pisr) makes of HR."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Those of train_only; none where everything is trained."""
        return tuple(name.strip() for name in self.train_only.split(",") if name.strip())

    def __post_init__(self) -> None:
        super().__post_init__()
        _not_negative(self, "tsa_steps", "imitation")
        if self.tsa_steps and self.parts:
            raise UserError(
                f"tsa_steps ({self.tsa_steps}) begin with the fusion and go on with everything, "
                f"train_only ({self.train_only}) never does; set one of them"
            )
        if self.tsa_steps > self.steps:
            raise UserError(
                f"tsa_steps ({self.tsa_steps}) is more than steps ({self.steps}); lower tsa_steps "
                "or raise steps"
            )


@dataclass(frozen=True)
class StudentTraining(Training):
    """train-student: L = L_rec + lambda1 L_SD + lambda2 L_TD (paper, Eq. 9), or other terms."""

    evaluate_every: int = 0
    """Steps between evaluations on the data's test clips, in OUT/evaluations; 0 leaves them out."""
    scheme: str = "std"
    """A name of distill.schemes.SCHEMES, or several by comma, with weights: "std,output=0.5"."""
    warmup_steps: int = 20_000
    """First steps with L_rec alone; no cache is read then."""
    lambda1: float = 1.0
    """Weight of L_SD, on F^SR (sd) or F^LR (sd-lr), where the scheme gives none."""
    lambda2: float = 100.0
    """Weight of L_TD, on F^SR (td) or F^LR (td-lr), where the scheme gives none."""
    attention: str = "sum2"
    """Map of Eqs. 1 to 3: "sum", "sum2" or "max2"; only "sum2" can be read without f_sr."""
    attention_norm: str = "none"
    """"l2" divides each map by its norm before comparing (Zagoruyko); the paper does not say."""
    memory: str = "trained"
    """The ConvLSTM: "trained" with the student (the paper's rule) or "frozen" as initialised."""
    td_scale: str = "none"
    """"variance" divides L_TD by the variance of the teacher's cell, so collapse gains nothing."""
    channels_last: bool = True
    """Keep maps with their channels last in memory: faster on CPUs and in mixed precision. A GPU
    in float32 keeps torch's layout, whatever this says."""
    recompute: bool = False
    """Compute student and ConvLSTM once more in the backward pass instead of keeping them."""
    compile: bool = False
    """torch.compile the student: the first step takes a minute or more, later ones less time."""

    @property
    def terms(self) -> dict[str, float]:
        """Of the scheme, each with its weight; none where it is "none"."""
        return parse_scheme(self.scheme, self.lambda1, self.lambda2)

    def __post_init__(self) -> None:
        super().__post_init__()
        _not_negative(self, "warmup_steps", "lambda1", "lambda2", "evaluate_every")
        _one_of("attention", self.attention, ATTENTIONS)
        _one_of("attention_norm", self.attention_norm, ("none", "l2"))
        _one_of("memory", self.memory, ("trained", "frozen"))
        _one_of("td_scale", self.td_scale, ("none", "variance"))
        if self.td_scale == "variance" and self.accumulate > 1:
            raise UserError(
                f"td_scale variance looks at all clips of a step at once, accumulate "
                f"({self.accumulate}) at a part of them: set one of them back"
            )
        if self.terms and self.warmup_steps >= self.steps:
            raise UserError(
                f"warmup_steps ({self.warmup_steps}) leaves nothing of steps ({self.steps}) to "
                f"scheme {self.scheme!r}; lower warmup_steps or raise steps"
            )


Options = TypeVar("Options", bound=Training)


def load(
    cls: type[Options],
    file: Path | None,
    assignments: Sequence[str],
    own: Mapping[str, Any] | None = None,
) -> Options:
    """Defaults, then a YAML file, then key=value pairs, then `own`; UserError in one line."""
    given = read_yaml(file) if file else {}
    for item in assignments:
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--set {item!r} should read key=value")
        given[key] = _parse(value, f"--set {item!r}")
    return from_mapping(cls, {**given, **(own or {})})


def from_mapping(cls: type[Options], given: Mapping[str, Any]) -> Options:
    """Check names and types; UserError names the nearest known key."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key, value in given.items():
        if key not in fields:
            raise UserError(f"unknown config key {key!r}{nearest(str(key), fields)}")
        if not _fits(value, fields[key].type):
            raise UserError(f"{key} should be {fields[key].type.__name__}, got {value!r}")  # type: ignore[union-attr]
    return cls(**{k: fields[k].type(v) for k, v in given.items()})  # type: ignore[operator]


def read_yaml(file: Path) -> dict[str, Any]:
    """A file of key: value lines; ValueError or FileNotFoundError in one line."""
    try:
        content = _parse(file.read_text(), str(file))
    except FileNotFoundError:
        raise FileNotFoundError(f"no config file {file}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} should hold key: value lines")
    return content


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{source} is no YAML: {' '.join(str(error).split())}") from None


def _fits(value: object, kind: object) -> bool:
    if kind is float:  # YAML 1.1 reads 1e-4 as text
        try:
            float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return False
        return not isinstance(value, bool)
    return type(value) is kind


def _positive(options: object, *names: str) -> None:
    for name in names:
        if not 0 < getattr(options, name) < math.inf:  # NaN is no number either
            raise UserError(f"{name} must be above zero, got {getattr(options, name)}")


def _not_negative(options: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(options, name) < math.inf:
            raise UserError(f"{name} must be zero or more, got {getattr(options, name)}")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{name} {value!r} is unknown{nearest(value, known)}")
