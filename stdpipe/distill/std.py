"""The paper's loss, L = L_rec + lambda1 L_SD + lambda2 L_TD (Eq. 9), and its parts none, sd, td."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from stdpipe.distill.attention import attention_map, sd_loss
from stdpipe.distill.charbonnier import charbonnier
from stdpipe.distill.time import memory_cells, td_loss
from stdpipe.models.base import Features


class Weights(NamedTuple):
    """lambda1 and lambda2; a part of weight zero is not computed."""

    sd: float
    td: float


def scheme_weights(scheme: str, lambda1: float, lambda2: float) -> Weights:
    """ "none", "sd", "td" or "std" as weights."""
    schemes = {
        "none": Weights(0, 0),
        "sd": Weights(lambda1, 0),
        "td": Weights(0, lambda2),
        "std": Weights(lambda1, lambda2),
    }
    return schemes[scheme]


def std_loss(
    student: Features,
    batch: Mapping[str, Tensor],
    weights: Weights,
    memory: nn.Module,
    attention: str = "sum2",
    attention_norm: str = "none",
    td_scale: str = "none",
) -> dict[str, Tensor]:
    """Loss parts of a batch: "loss" (Eq. 9), "rec", and "sd", "td", "cell_var" where they count.

    student: features of all T frames, (B, T, ...). batch: "hr" (B, T, 3, H, W) and the teacher's
    "f_sr" (B, T, 64, H, W) or, enough for sd with sum2, "attention" (B, T, H, W).
    td_scale="variance" divides L_TD by the variance of the teacher's cell: shrinking all cells,
    which training the shared ConvLSTM would otherwise reward, then gains nothing. The part "td" is
    L_TD itself, undivided.
    """
    parts = {"rec": charbonnier(student.sr, batch["hr"])}
    loss = parts["rec"]
    if weights.sd:
        parts["sd"] = sd_loss(
            attention_map(student.f_sr.float(), attention),
            teacher_map(batch, attention),
            attention_norm,
        )
        loss = loss + weights.sd * parts["sd"]
    if weights.td:
        cell_teacher, cell_student = memory_cells(memory, batch["f_sr"], student.f_sr)
        parts["td"] = td_loss(cell_teacher, cell_student)
        # over pixels, channel by channel: constant channels that differ are no memory either
        variance = cell_teacher.float().var(dim=(0, 2, 3)).mean()
        parts["cell_var"] = variance.detach()
        # with its gradient: a constant divisor would leave the pull towards small cells as it is
        scale = variance.clamp(min=1e-12) if td_scale == "variance" else 1.0
        loss = loss + weights.td * parts["td"] / scale
    return {"loss": loss, **parts}


def teacher_map(batch: Mapping[str, Tensor], attention: str) -> Tensor:
    """The teacher's map: from f_sr where it is at hand, else as cached (which is sum2)."""
    if "f_sr" in batch:
        return attention_map(batch["f_sr"].float(), attention)
    assert attention == "sum2"
    return batch["attention"].float()
