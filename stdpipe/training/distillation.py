"""The loss of a distillation scheme: for train-student, and as a module for any training loop.

Axes: B batch, T frames of a clip, C channels, H W HR size, h w LR size.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stdpipe.cache import Manifest, open_reader
from stdpipe.cache.errors import UserError
from stdpipe.data.views import generator
from stdpipe.distill.schemes import needs
from stdpipe.distill.term import LossInputs
from stdpipe.distill.terms import TERMS, build_helpers, scheme_loss
from stdpipe.distill.time import CollapseGuard, Crop, draw_crop
from stdpipe.features.info import provenance
from stdpipe.features.targets import refuse_missing
from stdpipe.models.base import Features
from stdpipe.suggest import refuse_unknown
from stdpipe.training import metrics_log
from stdpipe.training.config import StudentTraining, from_mapping
from stdpipe.training.term_weights import SQUARED, TermWeights, shared_map, squared_norms

# the keys of docs/config.md that shape a loss, and none that a training loop decides
SETTINGS = (
    *("luma", "share", "share_every", "from", "until", "decay", "warmup_steps", "steps", "lambda1"),
    *("lambda2", "attention", "attention_norm", "normalise", "memory", "td_scale", "td_crop"),
    *("patch", "seed", "data_seed", "output_to_hr"),
)
CHANNELS = {"f_sr": "student_channels", "f_lr": "student_lr_channels"}


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
            td_crop=self._td_crop(step),
            output_to_hr=self.options.output_to_hr,
            progress=step / self.options.steps,
        )
        parts, summands = scheme_loss(inputs, terms, self.options.luma, self.teachers, self.rec)
        if measures:
            parts |= squared_norms(summands, student, self.shared_map)
        return {name: x if name == "loss" else x.detach() for name, x in parts.items()}

    def _td_crop(self, step: int) -> Crop | None:
        side, patch, seed = self.options.td_crop, self.options.patch, self.options.stream_seed
        return draw_crop(generator(seed, "td_crop", step), side, patch) if side else None


class Distillation(nn.Module):
    """The whole loss of a student, L_rec and the terms of a scheme, for tensors of any network.

    scheme: as in --scheme, such as "output", "std" or "sd,output=1". cache: the cache whose maps
    the batches hold; where a term reads F^SR or F^LR, it says the teacher's channels.
    student_channels: C of the student's F^SR, where a term reads that; student_lr_channels likewise
    of its F^LR. rec: whether L_rec is part of the loss. settings: the keys in SETTINGS, explained
    in docs/config.md, such as luma=1, share={"output": 2}, normalise=True, or td_crop=32 with
    patch=64. Unlike in train-student, warmup_steps is 0 unless given.

    Its parameters are what the scheme trains beside the student, an adapter of channels and L_TD's
    ConvLSTM: give them to the optimiser, and move the module to the student's device. Build it
    after the student, which then begins alike in every scheme. The number of steps and all else
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
        refuse_unknown(settings, SETTINGS, "unknown setting of a loss")
        given = {"warmup_steps": 0, **settings, "scheme": scheme}
        self.options = options = from_mapping(StudentTraining, given)
        if not (rec or options.terms):
            raise UserError(f"scheme {scheme!r} without L_rec (rec=False) is no loss: name a term")
        reader = open_reader(os.fspath(cache)) if cache else None
        self.cache = reader.url if reader else ""
        self.cache_id = reader.manifest.cache_id if reader else ""
        held = reader.manifest.targets if reader else ()
        self.needs = needs(options.terms, options.attention, held=held)
        if reader:
            refuse_missing(reader, self.needs, f"scheme {scheme!r}")
        self.channels = _channels(
            {"f_sr": student_channels, "f_lr": student_lr_channels},
            reader.manifest if reader else None,
            {TERMS[name].needs for name in options.terms},
            scheme,
        )
        helpers = build_helpers(options.terms, self.channels["f_sr"], self.channels["f_lr"])
        used = {role for name in options.terms for role in TERMS[name].helpers}
        helpers = {role: helper for role, helper in helpers.items() if role in used}
        self.losses = SchemeLosses(helpers, options, rec=rec)
        self.weights = TermWeights(options, Path("this training"))
        self.guards = {
            name: CollapseGuard(helpers[TERMS[name].memory], options.memory == "frozen")
            for name in options.terms
            if TERMS[name].memory
        }
        self.step = 0

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
        Each call in training mode counts as one step. Raises UserError where a map is missing or
        has another size, and for a batch of another cache.
        """
        self._check_cache(batch)
        student = Features(*self._of_student(batch, {"sr": sr, "f_sr": f_sr, "f_lr": f_lr}))
        seen = {name: _map(batch, name) for name in ("hr", *sorted(self.needs))}
        _check_teacher(seen, student.sr, self.channels)
        step = self.step
        learns = self.training and torch.is_grad_enabled()
        measures = learns and self.weights.measures(step)
        parts = self.losses(student, seen, self.weights.at(step), step, measures)
        loss = parts["loss"]
        log: dict[str, float | Tensor] = {name: x.detach() for name, x in parts.items()}
        if self.training:
            self.step += 1
            log = self._watched(step, log)
        return loss, log

    def _watched(self, step: int, log: Mapping[str, Any]) -> dict[str, float | Tensor]:
        """Watch over the ConvLSTM and take the gradients' norms; both need numbers on the host."""
        read = [name for name in log if name.startswith(SQUARED) or name in self.guards]
        values = metrics_log.to_floats([{name: log[name] for name in read}]) if read else {}
        for name, guard in self.guards.items():
            guard.watch(values.get(name))
        squares = {name: x for name, x in values.items() if name.startswith(SQUARED)}
        kept = {name: x for name, x in log.items() if not name.startswith(SQUARED)}
        return kept | self.weights.take(step, squares)

    def _check_cache(self, batch: Mapping[str, Any]) -> None:
        """Refuse clips of another cache, whose text the default collation has put into a list."""
        told = batch.get("cache", ())
        for theirs in {told} if isinstance(told, str) else set(told):
            if self.cache_id and theirs and theirs != self.cache_id:
                raise UserError(
                    f"the batch is of cache {theirs}, and this loss was made for {self.cache_id} "
                    f"({self.cache}): give both the same cache"
                )

    def _of_student(
        self, batch: Mapping[str, Any], maps: Mapping[str, Tensor | None]
    ) -> list[Tensor]:
        """Return f_lr, trunk, f_sr and sr, checked; those that no term reads are all the image."""
        hr, sr = _map(batch, "hr"), maps["sr"]
        assert sr is not None
        if sr.shape != hr.shape:
            raise UserError(f"sr is {_size(sr)} and hr {_size(hr)}: they should be alike")
        found = {"sr": sr}
        for name, (mine, _) in self.channels.items():
            given = maps[name]
            if not mine or given is None:
                if mine and self._reads(name):
                    raise UserError(
                        f"scheme {self.options.scheme!r} reads {name} of the student, which is "
                        f"missing: call with {name}=, (B, T, {mine}, height, width)"
                    )
                continue
            shape = (*sr.shape[:2], mine, *_sides(sr, name))
            if given.shape != shape:
                raise UserError(
                    f"{name} of the student is {_size(given)}, and {CHANNELS[name]}={mine} with "
                    f"sr of {_size(sr)} asks for {' x '.join(map(str, shape))}"
                )
            found[name] = given
        return [found.get(name, sr) for name in ("f_lr", "f_lr", "f_sr", "sr")]

    def _reads(self, level: str) -> bool:
        read = {TERMS[name].needs for name in self.options.terms}
        return bool(read & ({"f_lr"} if level == "f_lr" else {"f_sr", "attention"}))

    def get_extra_state(self) -> dict[str, Any]:
        frozen = [name for name, guard in self.guards.items() if guard.frozen]
        return {"step": self.step, "weights": self.weights.state_dict(), "frozen": frozen}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        self.step = int(state["step"])
        self.weights.load_state_dict(state["weights"])
        for name, guard in self.guards.items():
            guard.frozen = guard.frozen or name in state["frozen"]
            guard.watch(None)


def _channels(
    mine: Mapping[str, int], manifest: Manifest | None, read: set[str], scheme: str
) -> dict[str, tuple[int, int]]:
    """Return the student's and the teacher's channels of f_sr and f_lr; zeros where one is unknown.

    Raises UserError where terms, which read the maps of these names, need them.
    """
    read = {"f_sr" if name == "attention" else name for name in read}
    theirs = {"f_sr": 0, "f_lr": 0}
    if manifest:
        known = provenance(manifest).f_sr_channels
        theirs = {"f_sr": known, "f_lr": manifest.f_lr_channels}
    for name in sorted(read & CHANNELS.keys()):
        if not mine[name]:
            raise UserError(
                f"scheme {scheme!r} compares {name}: say how many channels the student's has, "
                f"{CHANNELS[name]}=C"
            )
        if not theirs[name]:
            raise UserError(
                f"scheme {scheme!r} compares {name}, and only its cache says how many channels the "
                "teacher's has: give cache="
            )
    return {name: (mine[name], theirs[name] or mine[name]) for name in CHANNELS}


def _map(batch: Mapping[str, Any], name: str) -> Tensor:
    values = batch.get(name)
    stored = {"f_sr": ("trunk", "f_sr_scale"), "f_lr": ("f_lr_scale",)}.get(name, ())
    if isinstance(values, Tensor) and values.is_floating_point() and not {*stored} & batch.keys():
        return values
    if values is not None or {*stored} & batch.keys():
        raise UserError(f"{name} of the batch is as it is stored: call decode of CachedClips first")
    held = ", ".join(key for key, x in batch.items() if isinstance(x, Tensor)) or "no tensor"
    raise UserError(
        f"the batch has no {name}, which this loss reads (it has {held}): name it among the "
        "targets of CachedClips"
    )


def _check_teacher(
    seen: Mapping[str, Tensor], sr: Tensor, channels: Mapping[str, tuple[int, int]]
) -> None:
    for name, values in seen.items():
        if name in CHANNELS:
            of = (*sr.shape[:2], channels[name][1], *_sides(sr, name))
            fit = values.shape == of
        else:
            image = name != "attention"
            of = (*sr.shape[:2], *((3,) if image else ()), *sr.shape[-2:])
            fit = values.shape == of or (
                name == "sr" and values.shape == (*sr.shape[:2], 1, *sr.shape[-2:])
            )
        if not fit:
            raise UserError(
                f"{name} of the batch is {_size(values)}, and the student's sr of {_size(sr)} asks "
                f"for {' x '.join(map(str, of))}"
            )


def _sides(sr: Tensor, name: str) -> tuple[int, int]:
    height, width = sr.shape[-2:]
    return (height // 4, width // 4) if name == "f_lr" else (height, width)


def _size(x: Tensor) -> str:
    return " x ".join(map(str, x.shape))
