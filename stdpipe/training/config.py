"""The options of both kinds of training, each with its default and its meaning.

A YAML file or `--set key=value` changes them; configs/paper.yaml lists them all.
"""

import dataclasses
import keyword
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, StrictBool
from pydantic.dataclasses import dataclass

from stdpipe.cache import schema
from stdpipe.cache.errors import UserError
from stdpipe.cache.files import refuse_secrets
from stdpipe.data.patch import fits, multiple
from stdpipe.device import Amp
from stdpipe.distill.schemes import parse_scheme, weighed_terms
from stdpipe.suggest import nearest

BY_TERM = ("share", "from", "until", "decay")  # keys that are set by term


def _number(value: object) -> object:
    """Return text such as 1e-4, which YAML 1.1 does not take for a number, as a float."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


# strict: bool is no int
Seed = Annotated[int, Field(strict=True, gt=-(2**63), lt=2**63)]
Positive = Annotated[int, Field(strict=True, gt=0)]
NotNegative = Annotated[int, Field(strict=True, ge=0)]
Float = Annotated[float, BeforeValidator(_number), Field(strict=True, allow_inf_nan=False)]
Number = Annotated[Float, Field(ge=0)]
PositiveNumber = Annotated[Float, Field(gt=0)]


@dataclass(frozen=True)
class Training:
    """The options that both kinds of training share."""

    steps: Positive = 800_000
    """Optimiser steps in all, warm-up included."""
    batch: Positive = 2
    """Clips a step, in all processes together."""
    accumulate: Positive = 1
    """Passes that make one step, over batch / accumulate clips each, to save memory."""
    patch: Positive = 256
    """Side of the square HR crop, in pixels; a multiple of 16, or of 8 or 12 at scale 2 or 3."""
    lr: PositiveNumber = 1e-4
    """Adam's first learning rate."""
    schedule: Literal["halve", "cosine"] = "halve"
    """How lr falls: "halve" every lr_halve_every steps, or "cosine" to zero at the last step."""
    lr_halve_every: Positive = 200_000
    """Steps between halvings."""
    max_grad_norm: Number = 0.0
    """Largest norm of a step's gradients, which are scaled down to it; 0 sets no limit."""
    seed: Seed = 0
    """Seed of the initial weights and, unless data_seed is set, of order and crops."""
    data_seed: Seed = -1
    """Seed of order, crops and (without a cache) orientations; -1 means seed."""
    amp: Amp = "none"
    """Mixed precision: "none", "bf16" or "fp16" (with loss scaling)."""
    warm_start: Annotated[Float, Field(ge=-1, le=1)] = -1
    """Share of steps in which a causal network starts from a state that has run, half of them
    on a still scene; -1 takes what the network asks for."""
    warm_steps: Positive = 50
    """The most frames that such a state has run."""
    workers: NotNegative = 1
    """Processes that read and degrade clips; 0 does it in the training process."""
    log_every: Positive = 50
    """Steps between lines of metrics.jsonl."""
    save_every: Positive = 500
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        if not fits(self.patch, None):  # of which scale the networks are, they say themselves
            raise UserError(f"patch must be {multiple(None)} HR pixels, got {self.patch}")
        if self.batch % self.accumulate:
            raise UserError(f"accumulate ({self.accumulate}) does not divide batch ({self.batch})")

    @property
    def stream_seed(self) -> int:
        """The seed of the clips' order and crops."""
        return self.seed if self.data_seed == -1 else self.data_seed


@dataclass(frozen=True)
class TeacherTraining(Training):
    """Options of train-teacher, whose loss is Charbonnier on one random frame of each clip."""

    steps: Positive = 600_000
    lr: PositiveNumber = 4e-4
    schedule: Literal["halve", "cosine"] = "cosine"
    batch: Positive = 32
    max_grad_norm: Number = 10.0
    """Without a limit, EDVR's offsets can explode (xinntao/EDVR issues 16 and 62)."""
    tsa_steps: NotNegative = 0
    """First steps, which train the TSA fusion alone, after --init from a net without TSA."""
    train_only: str = ""
    """Parts of the network to train, by comma, while the rest stays as in --init; a part that it
    lacks starts fresh. RBPN's new head is "output". Empty trains everything."""
    imitation: Number = 1e-4
    """Weight of the L1 between LR and pisr's encoding of HR."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The names in train_only; none where everything is trained."""
        return tuple(name.strip() for name in self.train_only.split(",") if name.strip())

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tsa_steps and self.parts:
            raise UserError(
                f"tsa_steps ({self.tsa_steps}) ends by training everything, and train_only "
                f"({self.train_only}) never does; set one of them"
            )
        if self.tsa_steps > self.steps:
            raise UserError(f"tsa_steps ({self.tsa_steps}) must not exceed steps ({self.steps})")


@dataclass(frozen=True)
class StudentTraining(Training):
    """Options of train-student: L = L_rec + lambda1 L_SD + lambda2 L_TD (Eq. 9), or other terms."""

    evaluate_every: NotNegative = 0
    """Steps between evaluations on the data's test clips, in OUT/evaluations; 0 leaves them out."""
    hold_out: NotNegative = 0
    """Clips of the train list that are scored every evaluate_every steps instead of trained on."""
    keep: Literal["last", "best"] = "last"
    """Whether weights.pt has the last weights, or those of the best score on hold_out; the last
    ones are then in last.pt."""
    ema: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    """Decay of the average of weights over steps, which weights.pt then has; 0 averages none."""
    scheme: str = "std"
    """A name of distill.names.SCHEMES, or several by comma, with weights: "std,output=0.5"."""
    warmup_steps: NotNegative = 20_000
    """First steps, which have L_rec alone and read no cache."""
    lambda1: Number = 1.0
    """Weight of L_SD, on F^SR (sd) or F^LR (sd-lr), where the scheme gives none."""
    lambda2: Number = 100.0
    """Weight of L_TD, on F^SR (td) or F^LR (td-lr), where the scheme gives none."""
    share: dict[str, PositiveNumber] = dataclasses.field(default_factory=dict)
    """Term -> the norm of its gradient beside L_rec's, which then sets its weight."""
    share_every: NotNegative = 50
    """Steps between measurements of these norms; 0 measures, and logs, none."""
    from_: dict[str, NotNegative] = dataclasses.field(default_factory=dict)
    """Term -> the step at which it begins, where not at warmup_steps."""
    until: dict[str, Positive] = dataclasses.field(default_factory=dict)
    """Term -> the step at which it ends, where not with the run."""
    decay: dict[str, NotNegative] = dataclasses.field(default_factory=dict)
    """Term -> the step from which its weight falls linearly, to zero where it ends."""
    luma: Number = 0.0
    """Weight of a second L_rec, on luma alone, in every scheme and in the warm-up."""
    output_to_hr: Annotated[Float, Field(ge=0, le=1)] = 0.0
    """Share of the run in which the target of `output` goes from the teacher's image to HR; 0
    leaves it the teacher's (ECO, AAAI 2024)."""
    attention: Literal["sum", "sum2", "max2"] = "sum2"
    """Map of Eqs. 1 to 3: "sum", "sum2" or "max2"; only "sum2" can be read without f_sr."""
    attention_norm: Literal["none", "l2"] = "none"
    """"l2" divides each map by its norm (Zagoruyko); the paper does not say whether it does."""
    memory: Literal["trained", "frozen"] = "trained"
    """Whether the ConvLSTM is "trained" with the student, as in the paper, or "frozen"."""
    normalise: StrictBool = False
    """Divide L_SD by the variance of the teacher's map and L_TD by that of its cell, over all clips
    of a step: both then have no unit, and a collapse of the ConvLSTM gains nothing."""
    td_scale: Literal["none", "variance"] = "none"
    """"variance" is normalise for L_TD alone."""
    td_crop: NotNegative = 0
    """Side in HR pixels of the squares that tile a patch, of which the ConvLSTM sees one a step,
    drawn at random, to save time; 0 shows it the whole patch."""
    channels_last: StrictBool = True
    """Keep maps with their channels last in memory, which is faster on CPUs and in mixed precision;
    a GPU in float32 keeps torch's layout."""
    recompute: StrictBool = False
    """Compute student and ConvLSTM again in the backward pass, to save memory."""
    compile: StrictBool = False
    """Compile the student: the first step takes a minute or more, later ones less time."""

    @property
    def terms(self) -> dict[str, float]:
        """The scheme's terms and weights; empty for "none"."""
        return parse_scheme(self.scheme, self.lambda1, self.lambda2)

    @property
    def first_taught(self) -> int:
        """The first step that has a term; `steps` where none has."""
        return min((self.span(term)[0] for term in self.terms), default=self.steps)

    def span(self, term: str) -> tuple[int, int]:
        """Return the steps at which a term begins and ends."""
        return self.from_.get(term, self.warmup_steps), self.until.get(term, self.steps)

    def fade(self, term: str, step: int) -> float:
        """Return the part of a term's weight at a step: 1, less while it decays, 0 outside."""
        first, stop = self.span(term)
        falls = self.decay.get(term, stop)
        if not first <= step < stop:
            return 0.0
        return 1.0 if step < falls else (stop - step) / (stop - falls)

    def __post_init__(self) -> None:
        super().__post_init__()
        spread = "normalise true" if self.normalise else f"td_scale {self.td_scale}"
        if spread != "td_scale none" and self.accumulate > 1:
            raise UserError(
                f"{spread} needs all clips of a step at once, and accumulate "
                f"({self.accumulate}) splits them: set one of them back"
            )
        if self.normalise and self.attention_norm != "none":
            raise UserError(
                "normalise true divides maps by the teacher's spread, and attention_norm "
                f"{self.attention_norm} by their own norm: set one of them back"
            )
        if self.td_crop and (self.td_crop % 8 or self.patch % self.td_crop):
            raise UserError(
                f"td_crop ({self.td_crop}) should be a multiple of 8 HR pixels that divides patch "
                f"({self.patch})"
            )
        if self.keep == "best" and not (self.hold_out and self.evaluate_every):
            raise UserError(
                f"keep=best needs clips to score: hold_out is {self.hold_out} and evaluate_every "
                f"{self.evaluate_every}; set both"
            )
        if self.hold_out and not self.evaluate_every:
            raise UserError(
                f"hold_out={self.hold_out} leaves out clips that evaluate_every=0 never scores: "
                "set evaluate_every, too"
            )
        self._check_spans()
        if self.share and not self.share_every:
            raise UserError("share_every=0 measures no gradients, and share needs them: set one")
        for term in weighed_terms(self.scheme) & self.share.keys():
            raise UserError(f"{term} has a weight in scheme {self.scheme!r} and a share: keep one")

    def _check_spans(self) -> None:
        for key in BY_TERM:
            for term in getattr(self, _field(key)):
                if term not in self.terms:
                    told = f"{key}.{term} is of no term of scheme {self.scheme!r}"
                    raise UserError(f"{told}{nearest(term, self.terms)}")
        for term in self.terms:
            first, stop = self.span(term)
            begins = f"from.{term}" if term in self.from_ else "warmup_steps"
            ends = f"until.{term}" if stop < self.steps else "steps"
            if first >= min(stop, self.steps):
                raise UserError(
                    f"scheme {self.scheme!r} has no step with {term}: {begins} ({first}) is not "
                    f"below {ends} ({min(stop, self.steps)}); change one of them"
                )
            if not first <= self.decay.get(term, first) < stop:
                raise UserError(
                    f"decay.{term} ({self.decay[term]}) lies outside of the steps of {term}, from "
                    f"{begins} ({first}) to {ends} ({stop}); change one of them"
                )


Options = TypeVar("Options", bound=Training)


def load(
    cls: type[Options],
    file: Path | None,
    assignments: Sequence[str],
    own: Mapping[str, Any] | None = None,
) -> Options:
    """Return the YAML file's options, overridden by key=value assignments, then by `own`.

    Where one of these names a scheme, what was set by term before is kept for its terms alone.
    """
    assigned: dict[str, Any] = {}
    for item in assignments:
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--set {item!r} should read key=value")
        assigned[key] = schema.parse_yaml(value, f"--set {item!r}") if value.strip() else ""
    given: dict[str, Any] = {}
    for more in (read_mapping(file) if file else {}, assigned, own or {}):
        if "scheme" in more:
            given = _fitting(given, str(more["scheme"]))
        given |= more
    return from_mapping(cls, given)


def _fitting(given: Mapping[str, Any], scheme: str) -> dict[str, Any]:
    """Leave out what is set of terms that a scheme lacks, and shares where it gives a weight."""
    terms, weighed = parse_scheme(scheme).keys(), weighed_terms(scheme)
    kept: dict[str, Any] = {}
    for name, value in given.items():
        key, dot, term = str(name).partition(".")
        fit = terms - weighed if key == "share" else terms
        if key in BY_TERM and isinstance(value, dict):
            kept[name] = {term: x for term, x in value.items() if term in fit}
        elif not (dot and key in BY_TERM) or term in fit:
            kept[name] = value
    return kept


def from_mapping(cls: type[Options], given: Mapping[str, Any]) -> Options:
    """Return checked options; raise UserError, with the nearest known key, for an unknown one."""
    known = [_key(field.name) for field in dataclasses.fields(cls)]
    options: dict[str, Any] = {}
    for name, value in given.items():
        key, dot, term = str(name).partition(".")
        if key not in known:
            raise UserError(f"unknown config key {key!r}{nearest(key, known)}")
        field = _field(key)
        terms = options.get(field, {})
        if dot and not isinstance(terms, dict):
            raise UserError(f"config key {name!r}: {key} is not set by term")
        options[field] = {**terms, term: value} if dot else value
    return schema.check(cls, options, "config", strict=None)


def to_mapping(options: Training) -> dict[str, Any]:
    """Return all options by key, as `from_mapping` takes them."""
    return {_key(name): value for name, value in dataclasses.asdict(options).items()}


def _field(key: str) -> str:
    """Return the field of an option; Python has its own use of the word "from"."""
    return key + "_" * keyword.iskeyword(key)


def _key(field: str) -> str:
    return field.rstrip("_")


def read_mapping(file: Path) -> dict[str, Any]:
    """Return the key: value lines of a file; raise UserError or OSError in one line."""
    try:
        content = schema.read_yaml(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"no config file {file}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} should hold key: value lines")
    if "run_id" in content:
        raise UserError(
            f"{file} is a run's own record, of more than settings: give --config the file that the "
            "run was given, and the rest by --set"
        )
    refuse_secrets(str(content), str(file))
    return content
