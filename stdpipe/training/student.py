"""One student in training: its modules, its optimiser, its RUN folder and the steps it has done.

Several may learn from one stream, each with the result that it would have alone.
"""

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stdpipe import distributed
from stdpipe.device import autocast
from stdpipe.distill.attention import attention_map, teacher_map
from stdpipe.distill.names import mark
from stdpipe.distill.terms import TERMS
from stdpipe.distill.time import CollapseGuard
from stdpipe.models import fold
from stdpipe.models.base import Network
from stdpipe.training import metrics_log, run_folder, warm
from stdpipe.training.average import Average
from stdpipe.training.clip_sums import ClipSums
from stdpipe.training.config import StudentTraining
from stdpipe.training.distillation import SchemeLosses
from stdpipe.training.term_weights import TermWeights

LOG = logging.getLogger(__name__)


class StudentLosses(nn.Module):
    """Computes a batch's losses, with the student's weights and its helpers'."""

    def __init__(
        self,
        student: Network,
        helpers: Mapping[str, nn.Module],
        options: StudentTraining,
        teachers: Sequence[float],
    ) -> None:
        super().__init__()
        self.student, self.options = student, options
        self.losses = SchemeLosses(helpers, options, teachers)

    def forward(
        self,
        batch: Mapping[str, Tensor],
        terms: Mapping[str, float],
        step: int,
        measures: bool = False,
    ) -> dict[str, Tensor]:
        """Return the loss parts of SchemeLosses, of the student's images of "lr"."""
        start = warm.draw(self.student, self.options, step)
        batch, state = warm.begun(self.student, batch, start)
        if measures and self.options.compile:  # what is compiled has no gradient on its own maps
            state["centres"] = range(batch["lr"].shape[1])
        features = self.student.features_clip(batch["lr"], **state)
        parts: dict[str, Tensor] = self.losses(features, batch, terms, step, measures)
        return parts


class StudentTrainer:
    """A student with its optimiser, resumed from its run's last checkpoint where there is one.

    The networks are on the device already. seen: the teacher's maps in a batch that its terms look
    at. teachers: the weight of each of several. `done` counts finished steps.
    """

    def __init__(
        self,
        out: Path,
        student: Network,
        helpers: Mapping[str, nn.Module],
        options: StudentTraining,
        device: torch.device,
        seen: Collection[str],
        clip_sums: ClipSums,
        save_weights: Callable[[Path], None],
        evaluate: Callable[[Path], object],
        score: Callable[[], float] | None = None,
        teachers: Sequence[float] = (1.0,),
    ) -> None:
        self.out, self.options, self.device = out, options, device
        self.weights = TermWeights(options, out)
        self.student = student.train()
        self.failed: run_folder.NotFiniteError | None = None
        self.dead = False
        self.parts: dict[str, nn.Module] = {"student": student, **helpers}  # all that is trained
        trained = [p for part in self.parts.values() for p in part.parameters()]
        self.stepper = run_folder.Stepper(trained, options, device)
        self.average = Average(student, options.ema)
        saved = run_folder.resume(out, **self.parts, stepper=self.stepper)
        self.best = saved.get("best", -math.inf)
        self.run_id = distributed.from_first(lambda: run_folder.run_id(out))
        self.clip_sums = clip_sums
        if "clip_sums" in saved:
            self.clip_sums.resume(saved["clip_sums"])
        if "average" in saved:
            self.average.load_state_dict(saved["average"])
        if "term_weights" in saved:
            self.weights.load_state_dict(saved["term_weights"])
        self.done: int = saved["step"]
        self.kept = self.done  # the step of the checkpoint
        # td is always among them, since its memory is always built: so each log has its norm
        self.with_memory = {
            mark(name, n): (mark(term.memory, n), mark(term.frozen, n))
            for n in range(1, len(teachers) + 1)
            for name, term in TERMS.items()
            if mark(term.memory, n) in helpers
        }
        frozen = options.memory == "frozen"
        self.guards = {
            name: CollapseGuard(helpers[role], frozen or bool(saved.get(key)))
            for name, (role, key) in self.with_memory.items()
        }
        # for dropout on a CPU; a GPU's random state is neither kept nor resumed
        self.random = torch.get_rng_state()
        self.metrics = metrics_log.Metrics(out, self.done, saved.get("metrics"))
        self.losses = distributed.data_parallel(StudentLosses(student, helpers, options, teachers))
        self._save_weights, self._evaluate, self._score = save_weights, evaluate, score
        self._slices: list[dict[str, Tensor]] = []
        # students beside this one may look at more
        self._seen = {"hr", "lr", "has_hr", "before", *seen}

    def settle(self) -> None:
        """Look after the weights of a run that has all its steps; the first rank does it."""
        if self.done < self.options.steps:
            return
        is_best = self.options.keep == "best"
        with self.average.used():
            save = None if is_best else self._save_weights
            file = self.out / "weights.pt"
            distributed.from_first(lambda: run_folder.settle(file, self.done, save))

    def learns(self, step: int) -> bool:
        """Return whether this step of its run is still to be done."""
        return not self.failed and self.done <= step < self.options.steps

    def learn(self, batch: Mapping[str, Tensor], step: int, more_to_come: bool) -> None:
        """Compute the gradients of one slice of a step."""
        terms, measures = self.weights.at(step), self.weights.measures(step)
        seen = {name: values for name, values in batch.items() if name in self._seen}
        with self._own_random_state(), distributed.apart(self.losses, more_to_come):
            with autocast(self.device, self.options.amp):
                losses = self.losses(seen, terms, step, measures)
            self.stepper.backward(losses["loss"])
        self._slices.append({name: part.detach() for name, part in losses.items()})

    def update(self, step: int, inputs: Sequence[Mapping[str, Tensor]], waited: float) -> None:
        """Take one optimiser step with the gradients of all slices; raises NotFiniteError."""
        if (step + 1) % self.options.log_every == 0 and not self.dead:
            self._check_for_dead_units(step)
        self.stepper.step(step)
        fold.advance(self.student)
        self.average.update()
        values = metrics_log.to_floats(self._slices)
        self._slices = []
        values = self.weights.take(step, values)
        run_folder.stop_on_nan(self.out, step, values, inputs)
        for term, guard in self.guards.items():
            guard.watch(values.get(term))
        self.metrics.add(values, waited)
        self.done = step + 1

    def _check_for_dead_units(self, step: int) -> None:
        """Warn once where no weight of the student has a gradient: too large a step has then pushed
        its ReLUs below zero everywhere, and its image is the base alone."""
        weights = [p for p in self.student.parameters() if p.ndim > 1 and p.requires_grad]
        self.dead = not any(p.grad is not None and bool(p.grad.any()) for p in weights)
        if self.dead and distributed.first():
            LOG.warning(
                f"stdpipe: the student of {self.out} has only dead units: no gradient reaches a "
                f"weight at step {step + 1}; begin anew with lr below {self.options.lr:g}"
            )

    def write(self, batch: Mapping[str, Tensor]) -> dict[str, str]:
        """Write metrics, weights, evaluation and checkpoint where they are due; return the values
        for a progress bar. The first rank writes, and the others wait."""
        shown: dict[str, str] = {}
        to_save = self._due(self.options.save_every)
        to_evaluate = self._due(self.options.evaluate_every)
        if to_evaluate and self._score:
            self.metrics.add({"held_out": self._held_out()}, 0.0)
        if self._due(self.options.log_every):
            roles = [role for role, _ in self.with_memory.values()]
            norms = {f"{role}_norm": _norm(self.parts[role]) for role in roles}
            shown = self.metrics.log(self.done, lr=self.stepper.lr, **norms)
        if to_save:
            self.clip_sums.share()
        if to_save or to_evaluate:
            distributed.from_first(lambda: self._write_files(batch, to_save, to_evaluate))
        if to_save:
            self.kept = self.done
        return shown

    def keep(self, batch: Mapping[str, Tensor]) -> None:
        """Write the checkpoint of the last step, whether it is due or not."""
        if not self.failed and self.kept < self.done:
            self.clip_sums.share()
            distributed.from_first(lambda: self._write_files(batch, True, False))

    def _held_out(self) -> float:
        """Score the student on the clips that it never sees, and keep its weights if it is the best
        so far."""
        assert self._score is not None
        with self.average.used():
            score = distributed.from_first(self._score)
            if score > self.best:
                self.best = score
                if self.options.keep == "best":
                    distributed.from_first(lambda: self._save_weights(self.out / "weights.pt"))
        return score

    def _write_files(self, batch: Mapping[str, Tensor], to_save: bool, to_evaluate: bool) -> None:
        """Write the checkpoint last, so that a run stopped in an evaluation repeats it."""
        file = self.out / ("last.pt" if self.options.keep == "best" else "weights.pt")
        with self.average.used():
            self._save_weights(file)
        if to_evaluate:
            self._evaluate(self.out / "evaluations" / str(self.done))
        if to_save:
            if self.metrics.board:
                picture = self._picture(batch)
                self.metrics.board.add_image("sample", picture, self.done, dataformats="HWC")
            kept = self.with_memory.items()
            frozen = {key: self.guards[name].frozen for name, (_, key) in kept}
            with self._own_random_state():
                run_folder.save_checkpoint(
                    self.out,
                    self.done,
                    run_id=self.run_id,
                    **self.parts,
                    stepper=self.stepper,
                    metrics=self.metrics,
                    term_weights=self.weights,
                    average=self.average,
                    clip_sums=self.clip_sums,
                    best=self.best,
                    **frozen,
                )

    def _due(self, every: int) -> bool:
        """Return whether this is the last step or a multiple of `every`; 0 means never."""
        return every > 0 and (self.done % every == 0 or self.done == self.options.steps)

    @torch.no_grad()
    def _picture(self, batch: Mapping[str, Tensor]) -> NDArray[np.uint8]:
        """Return the first clip's middle frame: LR, SR, HR, the student's attention map and, if a
        term looks at it, the teacher's."""
        student = self.student.eval()
        middle = batch["lr"].shape[1] // 2
        with autocast(self.device, self.options.amp):
            features = student.features_clip(batch["lr"][:1], [middle])
        student.train()
        maps = []
        if "adapter" in self.parts:
            mine = self.parts["adapter"](features.f_sr[:, 0].float())
            maps.append(attention_map(mine, self.options.attention)[0])
        seen = {name: values for name, values in batch.items() if name in self._seen}
        if {"f_sr", "attention"} & seen.keys():
            maps.append(teacher_map(seen, self.options.attention)[0, middle])
        frames = [batch["lr"][0, middle], features.sr[0, 0].float(), batch["hr"][0, middle]]
        return metrics_log.panels(frames, maps)

    @contextmanager
    def _own_random_state(self) -> Iterator[None]:
        """Draw from this student's random state, not from that of a trainer beside it."""
        torch.set_rng_state(self.random)
        yield
        self.random = torch.get_rng_state()


def _norm(memory: nn.Module) -> float:
    """Return the norm of all the ConvLSTM's weights.

    Logged because L_TD also falls when these weights merely shrink.
    """
    return float(torch.stack([p.detach().norm() for p in memory.parameters()]).norm())
