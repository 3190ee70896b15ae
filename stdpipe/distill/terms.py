"""The distillation terms by name, and the whole loss: L = L_rec + sum of weight * term.

L_rec may have a second part, on luma alone.

A new term is a file beside this one, and its name with that file's in names.py. Terms whose names
end in "-lr" do on F^LR what their namesakes do on F^SR.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from importlib import import_module
from operator import add

from torch import Tensor, nn

from stdpipe.distill.charbonnier import charbonnier
from stdpipe.distill.names import TERM_FILES, mark
from stdpipe.distill.term import LossInputs, Term
from stdpipe.models.luma import luma

TERMS: dict[str, Term] = {
    name: import_module(f"stdpipe.distill.{file}").TERMS[name] for name, file in TERM_FILES.items()
}


def build_helpers(
    terms: Mapping[str, float],
    f_sr_channels: tuple[int, int],
    f_lr_channels: tuple[int, int] = (0, 0),
) -> dict[str, nn.Module]:
    """Build the modules that the terms train beside the student, by role.

    Channels are the student's and the teacher's. `memory` and `adapter` are always built where both
    have F^SR, and first, so that a student of one seed begins alike in every scheme.
    """
    roles = ("memory", "adapter") if all(f_sr_channels) else ()
    builders = {role: TERMS["td"].helpers[role] for role in roles}
    for name, term in TERMS.items():
        if name in terms:
            builders |= term.helpers
    channels = {"f_sr": f_sr_channels, "f_lr": f_lr_channels}
    return {role: build(channels) for role, build in builders.items()}


def scheme_loss(
    inputs: LossInputs,
    terms: Mapping[str, float],
    luma_weight: float = 0.0,
    teachers: Sequence[float] = (1.0,),
    rec: bool = True,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the loss parts of a batch: "loss", "rec" (Eq. 8), "luma" where it has a weight, each
    term's unweighted value by its name, and the values that terms log beside; and, by name, the
    summands that weights multiply, of which "rec" is all of L_rec.

    teachers: the weight of each of several, whose values have names of their own, but one summand.
    rec: whether L_rec is in the loss; it is among the parts all the same.
    """
    taught = {name: values.detach() for name, values in inputs.batch.items()}
    inputs = replace(inputs, batch=taught)  # no gradient enters the teacher, even if it asks
    has_hr = taught.get("has_hr")
    parts = {"rec": charbonnier(inputs.student.sr, taught["hr"], has_hr)}
    loss = parts["rec"]
    if luma_weight:
        parts["luma"] = charbonnier(luma(inputs.student.sr.float()), luma(taught["hr"]), has_hr)
        loss = loss + luma_weight * parts["luma"]
    summands = {"rec": loss}
    weighted = [loss] if rec else []
    taught_by = {n: inputs.of_teacher(n) for n in range(1, len(teachers) + 1)}
    for name, weight in terms.items():
        for number, of_all in enumerate(teachers, 1):
            value, divisor, beside = TERMS[name].compute(taught_by[number])
            values = {name: value, **dict(zip(TERMS[name].logs, beside, strict=True))}
            parts |= {mark(key, number): x for key, x in values.items()}
            summands[name] = summands.get(name, 0) + of_all * value / divisor
        weighted.append(weight * summands[name])
    return {"loss": reduce(add, weighted or [0 * loss]), **parts}, summands
