"""The loss of a distillation scheme: for train-student, and as a module for any training loop.

Axes: B batch, T frames of a clip, C channels, H W HR size, h w LR size.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stdpipe.cache import open_reader
from stdpipe.cache.errors import UserError
from stdpipe.data.views import generator
from stdpipe.distill.schemes import needs
from stdpipe.distill.term import LossInputs
from stdpipe.distill.terms import TERMS, build_helpers, scheme_loss
from stdpipe.distill.time import CollapseGuard, Crop, draw_crop
from stdpipe.features.targets import refuse_missing
from stdpipe.models.base import Features
from stdpipe.suggest import refuse_unknown
from stdpipe.training import metrics_log
from stdpipe.training.batch_check import BatchCheck
from stdpipe.training.config import StudentTraining, from_mapping
from stdpipe.training.term_weights import SQUARED, TermWeights, shared_map, squared_norms

# the keys of docs/config.md that shape a loss, and none that a training loop decides
SETTINGS = (
    *("luma", "share", "share_every", "from", "until", "decay", "warmup_steps", "steps", "lambda1"),
    *("lambda2", "attention", "attention_norm", "normalise", "memory", "td_scale", "td_crop"),
    *("seed", "output_to_hr"),
)
ENDLESS = 2**62  # steps of a training that does not say how many


class SchemeLosses(nn.Module):
    """The loss parts of a batch, with the helpers that are trained beside the student.

    teachers: the weight of each of several. rec: whether L_rec is part of the loss.
    """

    def __init__(
        self,
        helpers: Mapping[str, nn.Module],
        options: StudentTraining,
        teachers: Sequence[float] = (1.0,),
        rec: bool = True,
    ) -> None:
        super().__init__()
        self.helpers = nn.ModuleDict(helpers)
        self.options, self.teachers, self.rec = options, teachers, rec
        self.shared_map = shared_map(options.terms)

    def forward(
        self,
        student: Features,
        batch: Mapping[str, Tensor],
        terms: Mapping[str, float],
        step: int,
        measures: bool = False,
    ) -> dict[str, Tensor]:
        """Return the loss parts by name, means over the batch; "loss" alone has a gradient.

        terms: the weight of each. measures: whether squared norms of their gradients are among the
        parts. All that a step draws depends on its number alone: ranks, slices and a resumed run
        agree.
        """
        inputs = LossInputs(
            student,
            batch,
            dict(self.helpers.items()),
            attention=self.options.attention,
            attention_norm=self.options.attention_norm,
            td_scale=self.options.td_scale,
            normalise=self.options.normalise,
            td_crop=self._td_crop(step, batch["hr"].shape[-1]),
            output_to_hr=self.options.output_to_hr,
            progress=step / self.options.steps,
        )
        parts, summands = scheme_loss(inputs, terms, self.options.luma, self.teachers, self.rec)
        if measures:
            parts |= squared_norms(summands, student, self.shared_map)
        return {name: x if name == "loss" else x.detach() for name, x in parts.items()}

    def _td_crop(self, step: int, patch: int) -> Crop | None:
        side, seed = self.options.td_crop, self.options.stream_seed
        return draw_crop(generator(seed, "td_crop", step), side, patch) if side else None


class Distillation(nn.Module):
    """Computes the whole loss of a student, L_rec (Eq. 8) and the terms of a scheme (Eq. 9), for
    tensors of any network.

    scheme: as in --scheme, such as "output", "std" or "sd,output=1". cache: the cache whose maps
    the batches hold; where a term reads F^SR or F^LR, it says the teacher's channels.
    student_channels: C of the student's F^SR, where a term reads that; student_lr_channels likewise
    of its F^LR. rec: whether L_rec is part of the loss.

    settings: keys of docs/config.md that shape a loss: luma=1, share={"output": 2}, td_crop=32,
    normalise=True, and seed, share_every, from, until, decay, warmup_steps, steps, lambda1,
    lambda2, attention, attention_norm, memory, td_scale, output_to_hr. Unlike in train-student,
    warmup_steps is 0, gradients are measured for shares alone, and without `steps` no term ends.
    What counts as a step is a call in training mode.

    Its parameters are what the scheme trains beside the student, an adapter of channels and L_TD's
    ConvLSTM: give them to the optimiser, and move the module to the student's device. Build it
    after the student, which then begins alike in every scheme. For several processes put both into
    one module, or what this one trains drifts apart between them. The number of steps and all else
    that a resumed training needs is in its state_dict.

    Raises UserError for an unknown scheme or setting, for a scheme whose maps the cache lacks, and
    where the channels that it compares are not given.

        distillation = stdpipe.Distillation("output", cache="c.zarr")
        loss, log = distillation(batch, sr=student(batch["lr"]))
        loss.backward()
    """

    def __init__(
        self,
        scheme: str = "output",
        cache: str | os.PathLike[str] | None = None,
        student_channels: int = 0,
        *,
        student_lr_channels: int = 0,
        rec: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.options = options = _options(scheme, settings, rec)
        reader = open_reader(os.fspath(cache)) if cache else None
        held = reader.manifest.targets if reader else ()
        self._needs = needs(options.terms, options.attention, held=held)
        if reader:
            refuse_missing(reader, self._needs, f"scheme {scheme!r}")
        mine = {"f_sr": student_channels, "f_lr": student_lr_channels}
        self._check = BatchCheck(scheme, options, mine, reader, self._needs)
        widths = self._check.channels
        helpers = build_helpers(options.terms, widths["f_sr"], widths["f_lr"])
        used = {role for name in options.terms for role in TERMS[name].helpers}
        # DistributedDataParallel waits for the gradients of all that is here
        helpers = {role: helper for role, helper in helpers.items() if role in used}
        self.losses = SchemeLosses(helpers, options, rec=rec)
        self._weights = TermWeights(options, Path("this training"))
        self._guards = {
            name: CollapseGuard(helpers[TERMS[name].memory], options.memory == "frozen")
            for name in options.terms
            if TERMS[name].memory
        }
        self._measured: dict[str, float] = {}  # values of the last step that guards watch
        self.step = 0

    @property
    def needs(self) -> tuple[str, ...]:
        """The teacher's maps that the scheme reads: the targets to ask of CachedClips."""
        return tuple(sorted(self._needs))

    def forward(
        self,
        batch: Mapping[str, Any],
        sr: Tensor,
        f_sr: Tensor | None = None,
        f_lr: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Return the loss of a step, and what to log of it: values without gradient by name.

        batch: from CachedClips, or a dict of hr (B, T, 3, H, W) and the teacher's maps that the
        scheme reads. sr (B, T, 3, H, W), f_sr (B, T, C, H, W), f_lr (B, T, C, h, w): the student's.
        Raises UserError where a map is missing or has another size, and for a batch of another
        cache.
        """
        self._watch()
        student, seen = self._check(batch, {"sr": sr, "f_sr": f_sr, "f_lr": f_lr})
        learns = self.training and torch.is_grad_enabled() and sr.requires_grad
        step = min(self.step, self.options.steps - 1)  # what lasts to the end stays
        measures = learns and bool(self.options.share_every) and self._weights.measures(step)
        parts = self.losses(student, seen, self._weights.at(step), step, measures)
        loss = parts["loss"]
        log: dict[str, float | Tensor] = {name: x.detach() for name, x in parts.items()}
        if self.training:
            self.step += 1
            log = self._taken(step, parts)
        return loss, log

    def _taken(self, step: int, parts: Mapping[str, Tensor]) -> dict[str, float | Tensor]:
        """Return what to log; what guards and shares read is fetched to the host."""
        read = [name for name in parts if name.startswith(SQUARED) or name in self._guards]
        values = metrics_log.to_floats([{n: parts[n].detach() for n in read}]) if read else {}
        self._measured = {name: values[name] for name in self._guards if name in values}
        squares = {name: x for name, x in values.items() if name.startswith(SQUARED)}
        kept = {n: x.detach() for n, x in parts.items() if not n.startswith(SQUARED)}
        return kept | self._weights.take(step, squares)

    def _watch(self) -> None:
        """Freeze a ConvLSTM that has collapsed in the last step, whose gradients are taken now."""
        for name, value in self._measured.items():
            self._guards[name].watch(value)
        self._measured = {}

    def get_extra_state(self) -> dict[str, Any]:
        self._watch()
        frozen = [name for name, guard in self._guards.items() if guard.frozen]
        told = {"scheme": self.options.scheme, "step": self.step, "frozen": frozen}
        return {**told, "weights": self._weights.state_dict()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        if state["scheme"] != self.options.scheme:
            raise UserError(
                f"the state is of scheme {state['scheme']!r}, and this loss is "
                f"{self.options.scheme!r}: build it with the same scheme"
            )
        self.step = int(state["step"])
        self._weights.load_state_dict(state["weights"])
        self._measured = {}
        for name, guard in self._guards.items():
            guard.frozen = self.options.memory == "frozen" or name in state["frozen"]
            guard.memory.requires_grad_(not guard.frozen)


def _options(scheme: str, settings: Mapping[str, Any], rec: bool) -> StudentTraining:
    """Return a training's options with what a loss needs of them."""
    refuse_unknown(settings, SETTINGS, "unknown setting of a loss")
    given = {"warmup_steps": 0, "steps": ENDLESS, **settings, "scheme": scheme}
    crop = settings.get("td_crop", 0)
    given |= {"patch": 16 * (crop if isinstance(crop, int) and crop > 0 else 1)}  # any that fits
    if not settings.get("share"):
        given = {"share_every": 0, **given}
    options = from_mapping(StudentTraining, given)
    if not rec and (options.luma or not options.terms):
        raise UserError(
            f"scheme {scheme!r} without L_rec (rec=False) "
            + ("has no luma, which is a part of L_rec" if options.terms else "is no loss")
            + ": name a term, or leave rec as it is"
        )
    if options.output_to_hr and "steps" not in settings:
        raise UserError("output_to_hr is a share of the steps of a run: say how many, steps=")
    return options
