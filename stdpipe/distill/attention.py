"""Spatial attention maps and space distillation, terms sd and sd-lr (paper, Section 3.1).

Axes: any leading axes (B, T), then C H W.
"""

from collections.abc import Mapping
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from stdpipe.distill.spread import map_variance
from stdpipe.distill.term import F_LR, F_SR, FeatureLevel, LossInputs, Term, Value, adapter


def attention_map(f_sr: Tensor, kind: str = "sum2") -> Tensor:
    """Return M(F^SR), (..., C, H, W) -> (..., H, W): kind "sum" is Eq. 1, "sum2" 2, "max2" 3."""
    match kind:
        case "sum":
            return f_sr.abs().sum(-3)
        case "sum2":
            return f_sr.square().sum(-3)
        case "max2":
            return f_sr.square().amax(-3)
    raise ValueError(f"attention {kind!r} is unknown (known: sum, sum2, max2)")


def sd_loss(student_map: Tensor, teacher_map: Tensor, norm: str = "none") -> Tensor:
    """Return L_SD, Eq. 5: the mean square distance of maps (..., H, W), over frames and pixels.

    norm="l2" first divides each map by its own L2 norm (Zagoruyko and Komodakis 2017).
    """
    if norm == "l2":
        student_map = F.normalize(student_map.flatten(-2), dim=-1)
        teacher_map = F.normalize(teacher_map.flatten(-2), dim=-1)
    return F.mse_loss(student_map, teacher_map)


def teacher_map(batch: Mapping[str, Tensor], attention: str) -> Tensor:
    """Return the teacher's map (B, T, H, W), made of f_sr where the batch has it, else as cached:
    a map of kind sum2."""
    if "f_sr" in batch:
        return attention_map(batch["f_sr"].float(), attention)
    assert attention == "sum2"
    return batch["attention"].float()


def term(level: FeatureLevel) -> Term:
    """Return L_SD on one level."""
    on_f_sr = level is F_SR
    return Term(
        partial(_compute, level),
        needs="attention" if on_f_sr else "f_lr",
        weight=1.0,
        weight_key="lambda1",
        source="paper, Eq. 5" if on_f_sr else "paper, Table 4",
        about=f"L_SD: the mean square distance between attention maps of {level.title}.",
        helpers=adapter(level),
    )


def _compute(level: FeatureLevel, x: LossInputs) -> Value:
    """Return L_SD; `normalise` divides it by the variance of the teacher's map."""
    student = attention_map(x.aligned(level).float(), x.attention)
    if level is F_SR:
        teacher = teacher_map(x.batch, x.attention)
    else:
        teacher = attention_map(x.batch["f_lr"].float(), x.attention)
    divisor = map_variance(teacher) if x.normalise else 1.0
    return Value(sd_loss(student, teacher, x.attention_norm), divisor)


TERMS = {"sd": term(F_SR), "sd-lr": term(F_LR)}
