"""Every distillation term by name, and the whole loss: L = L_rec + sum of weight * term.

A term's equation is in a file of its own; here is what of student and teacher it is given. Terms
whose names end in "-lr" do on F^LR what their namesakes do on F^SR.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from torch import Tensor, nn

from stdpipe.distill import affinity, kd_mean2, kd_mse, output, pisr
from stdpipe.distill.attention import attention_map, sd_loss
from stdpipe.distill.charbonnier import charbonnier
from stdpipe.distill.time import cell_variance, memory_cells, td_loss
from stdpipe.models.base import Features
from stdpipe.models.convlstm import ConvLSTM

F_SR_CHANNELS = 64  # channels of F^SR in every network that can teach it, and of the ConvLSTM


@dataclass(frozen=True)
class LossInputs:
    """What a term looks at: features of T frames of B clips, and how to compare them."""

    student: Features
    """(B, T, C, ., .) each."""
    batch: Mapping[str, Tensor]
    """"hr" (B, T, 3, H, W), and of the teacher what the terms need: "f_sr", "f_lr", "sr" as the
    student's, or "attention" (B, T, H, W), which is sum2."""
    helpers: Mapping[str, nn.Module]
    """What is trained with the student and left behind: `build_helpers` builds it."""
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


class Value(NamedTuple):
    """A term's value, logged under its name; what divides it in the sum; what is logged beside."""

    value: Tensor
    divisor: Tensor | float = 1.0
    variance: Tensor | None = None


class Term(NamedTuple):
    """One part of a loss. needs: of the teacher; "sr" is made of f_sr and its last convolution."""

    compute: Callable[[LossInputs], Value]
    needs: str
    weight: float
    source: str


def _sd(x: LossInputs) -> Value:
    student = attention_map(x.f_sr.float(), x.attention)
    return Value(sd_loss(student, teacher_map(x.batch, x.attention), x.attention_norm))


def _sd_lr(x: LossInputs) -> Value:
    student = attention_map(x.f_lr.float(), x.attention)
    teacher = attention_map(x.batch["f_lr"].float(), x.attention)
    return Value(sd_loss(student, teacher, x.attention_norm))


def _td(x: LossInputs, memory: str, student: Tensor, teacher: Tensor) -> Value:
    """td_scale="variance" divides L_TD by the variance of the teacher's cell: shrinking all cells,
    which training the shared ConvLSTM would otherwise reward, then gains nothing."""
    cell_teacher, cell_student = memory_cells(x.helpers[memory], teacher, student)
    variance = cell_variance(cell_teacher)
    # with its gradient: a constant divisor would leave the pull towards small cells as it is
    scale = variance.clamp(min=1e-12) if x.td_scale == "variance" else 1.0
    return Value(td_loss(cell_teacher, cell_student), scale, variance.detach())


def _pisr(x: LossInputs, adapters: str, student: Tensor, teacher: Tensor) -> Value:
    mean, scale = x.helpers[adapters](student.flatten(0, 1))
    return Value(pisr.laplace_loss(mean, scale, teacher.flatten(0, 1)))


TERMS = {
    "sd": Term(_sd, "attention", 1.0, "L_SD, paper Eq. 5"),
    "td": Term(
        lambda x: _td(x, "memory", x.f_sr, x.batch["f_sr"]), "f_sr", 100.0, "L_TD, paper Eq. 7"
    ),
    "kd-mse": Term(
        lambda x: Value(kd_mse.kd_mse_loss(x.f_sr, x.batch["f_sr"])),
        "f_sr", kd_mse.WEIGHT, "mean square distance of F^SR, paper Table 3",
    ),
    "kd-mean2": Term(
        lambda x: Value(kd_mean2.kd_mean2_loss(x.student.f_lr, x.batch["f_lr"])),
        "f_lr", kd_mean2.WEIGHT, "Gao et al. 2018, paper Table 3",
    ),
    "sd-lr": Term(_sd_lr, "f_lr", 1.0, "L_SD on F^LR, paper Table 4"),
    "td-lr": Term(
        lambda x: _td(x, "memory_lr", x.f_lr, x.batch["f_lr"]),
        "f_lr", 100.0, "L_TD on F^LR, paper Table 4",
    ),
    "pisr": Term(
        lambda x: _pisr(x, "pisr", x.student.f_lr, x.batch["f_lr"]),
        "f_lr", pisr.WEIGHT, "Lee et al. 2020, on F^LR",
    ),
    "pisr-sr": Term(
        lambda x: _pisr(x, "pisr_sr", x.student.f_sr, x.batch["f_sr"]),
        "f_sr", pisr.WEIGHT, "Lee et al. 2020, on F^SR",
    ),
    "affinity": Term(
        lambda x: Value(
            affinity.affinity_loss(x.student.f_lr.flatten(0, 1), x.batch["f_lr"].flatten(0, 1))
        ),
        "f_lr", affinity.WEIGHT, "FAKD, He et al. 2020",
    ),
    "output": Term(
        lambda x: Value(output.output_loss(x.student.sr, x.batch["sr"])),
        "sr", output.WEIGHT, "L1 to the teacher's SR, FAKD",
    ),
}  # fmt: skip

MEMORIES = {"td": "memory", "td-lr": "memory_lr"}  # whose ConvLSTM is whose


def build_helpers(
    terms: Mapping[str, float], f_sr_channels: int, f_lr_channels: tuple[int, int] = (0, 0)
) -> dict[str, nn.Module]:
    """What the terms train beside the student; memory and adapter always, and first: a student of
    one seed then begins alike in every scheme. f_lr_channels: the student's and the teacher's."""
    mine, theirs = f_lr_channels
    built: dict[str, nn.Module] = {
        "memory": ConvLSTM(),
        "adapter": _adapter(f_sr_channels, F_SR_CHANNELS),
    }
    if {"sd-lr", "td-lr"} & terms.keys():
        built["adapter_lr"] = _adapter(mine, theirs)
    if "td-lr" in terms:
        built["memory_lr"] = ConvLSTM(theirs, theirs)
    if "pisr" in terms:
        built["pisr"] = pisr.Adapters(mine, theirs)
    if "pisr-sr" in terms:
        built["pisr_sr"] = pisr.Adapters(f_sr_channels, F_SR_CHANNELS)
    return built


def _adapter(student: int, teacher: int) -> nn.Module:
    """What brings the student's features to the teacher's channels, where they do not agree."""
    return nn.Identity() if student == teacher else nn.Conv2d(student, teacher, 1)


def _framewise(module: nn.Module, features: Tensor) -> Tensor:
    out: Tensor = module(features.flatten(0, 1)).unflatten(0, features.shape[:2])
    return out


def teacher_map(batch: Mapping[str, Tensor], attention: str) -> Tensor:
    """The teacher's map: from f_sr where it is at hand, else as cached (which is sum2)."""
    if "f_sr" in batch:
        return attention_map(batch["f_sr"].float(), attention)
    assert attention == "sum2"
    return batch["attention"].float()


def scheme_loss(inputs: LossInputs, terms: Mapping[str, float]) -> dict[str, Tensor]:
    """Loss parts of a batch: "loss", "rec" (Eq. 8), and each term by its name, unweighted.

    Beside td there is "cell_var", the variance of the teacher's cells ("cell_var_lr" for td-lr).
    """
    taught = {name: values.detach() for name, values in inputs.batch.items()}
    inputs = replace(inputs, batch=taught)  # no gradient enters the teacher, even if it asks
    parts = {"rec": charbonnier(inputs.student.sr, taught["hr"])}
    loss = parts["rec"]
    for name, weight in terms.items():
        value, divisor, variance = TERMS[name].compute(inputs)
        parts[name] = value
        if variance is not None:
            parts[name.replace("td", "cell_var").replace("-", "_")] = variance
        loss = loss + weight * value / divisor
    return {"loss": loss, **parts}
