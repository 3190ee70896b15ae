"""One student in training: what learns, its optimiser, its RUN folder and how far it is.

Several may learn from one stream; each is then left as it would be had it been trained alone.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stdpipe import distributed
from stdpipe.device import autocast
from stdpipe.distill.attention import attention_map
from stdpipe.distill.schemes import needs
from stdpipe.distill.terms import MEMORIES, LossInputs, scheme_loss, teacher_map
from stdpipe.distill.time import CollapseGuard
from stdpipe.models.base import Network
from stdpipe.training import metrics_log, run_folder
from stdpipe.training.config import StudentTraining

LOG = logging.getLogger(__name__)


class StudentLosses(nn.Module):
    """A batch's losses, of a student and of what is trained beside it."""

    def __init__(
        self, student: Network, helpers: Mapping[str, nn.Module], options: StudentTraining
    ) -> None:
        super().__init__()
        self.student = student
        self.helpers = nn.ModuleDict(helpers)
        self.options = options

    def forward(self, batch: Mapping[str, Tensor], terms: Mapping[str, float]) -> dict[str, Tensor]:
        """Parts by name, means over the batch; "loss" alone has a gradient."""
        inputs = LossInputs(
            self.student.features_clip(batch["lr"]),
            batch,
            dict(self.helpers.items()),
            attention=self.options.attention,
            attention_norm=self.options.attention_norm,
            td_scale=self.options.td_scale,
        )
        parts = scheme_loss(inputs, terms)
        return {name: x if name == "loss" else x.detach() for name, x in parts.items()}


class StudentTrainer:
    """Built, and filled from the run's last checkpoint where there is one.

    Networks are on the device already. `done` counts finished steps.
    """

    def __init__(
        self,
        out: Path,
        student: Network,
        helpers: Mapping[str, nn.Module],
        options: StudentTraining,
        device: torch.device,
        save_weights: Callable[[], None],
        evaluate: Callable[[Path], object],
    ) -> None:
        self.out, self.options, self.device = out, options, device
        self.terms = options.terms
        self._student = student.train()
        self.failed: run_folder.NotFiniteError | None = None
        self.dead = False
        self.memories = {t: role for t, role in MEMORIES.items() if role in helpers}
        frozen = options.memory == "frozen"
        self.guards = {t: CollapseGuard(helpers[r], frozen) for t, r in self.memories.items()}
        self.parts: dict[str, nn.Module] = {"student": student, **helpers}
        trained = [p for part in self.parts.values() for p in part.parameters()]
        self.stepper = run_folder.Stepper(trained, options, device)
        self.done = self._resume()
        # of networks with dropout, on a CPU: a GPU's own is neither kept nor resumed
        self.random = torch.get_rng_state()
        self.metrics = metrics_log.Metrics(out, self.done)
        self.losses = distributed.spread(StudentLosses(student, helpers, options))
        self._save_weights, self._evaluate = save_weights, evaluate
        self._slices: list[dict[str, Tensor]] = []
        self._seen = {"hr", "lr", *needs(self.terms, options.attention)}

    def learns(self, step: int) -> bool:
        """Whether this step is one of its run's that are still to be done."""
        return not self.failed and self.done <= step < self.options.steps

    def learn(self, batch: Mapping[str, Tensor], step: int, more_to_come: bool) -> None:
        """Gradients of one slice of a step."""
        terms = self.terms if step >= self.options.warmup_steps else {}
        sees = self._sees(batch)
        seen = {name: values for name, values in batch.items() if name in sees}
        with self._own_random_state(), distributed.apart(self.losses, more_to_come):
            with autocast(self.device, self.options.amp):
                losses = self.losses(seen, terms)
            self.stepper.backward(losses["loss"])
        self._slices.append({name: part.detach() for name, part in losses.items()})

    def update(self, step: int, inputs: Sequence[Mapping[str, Tensor]], waited: float) -> None:
        """One optimiser step with the gradients of all slices; raises NotFiniteError."""
        if (step + 1) % self.options.log_every == 0 and not self.dead:
            self._check_for_dead_units(step)
        self.stepper.step(step)
        values = metrics_log.to_floats(self._slices)
        self._slices = []
        run_folder.stop_on_nan(self.out, step, values, inputs)
        for term, guard in self.guards.items():
            guard.watch(values.get(term))
        self.metrics.add(values, waited)
        self.done = step + 1

    def _check_for_dead_units(self, step: int) -> None:
        """Whether any weight of the student still learns: ReLUs that a step too large has silenced
        pass no gradient on, and the run would end as the base that the student adds to."""
        weights = [p for p in self._student.parameters() if p.ndim > 1 and p.requires_grad]
        self.dead = not any(p.grad is not None and bool(p.grad.any()) for p in weights)
        if self.dead and distributed.first():
            LOG.warning(
                "stdpipe: %s has fallen dead: at step %d no gradient reaches a weight of the "
                "student, which now adds nothing to its enlarged frame; begin anew at a lower lr "
                "(it is %g)",
                self.out,
                step + 1,
                self.options.lr,
            )

    def write(self, batch: Mapping[str, Tensor]) -> dict[str, str]:
        """Metrics, checkpoint, evaluation and a picture of the batch, where they are due; returns
        what a bar shows. Other ranks than the first go on, and wait at the next step."""
        shown: dict[str, str] = {}
        if self._due(self.options.log_every):
            norms = {f"{role}_norm": _norm(self.parts[role]) for role in self.memories.values()}
            shown = self.metrics.log(self.done, lr=self.stepper.lr, **norms)
        if distributed.first():
            self._write_files(batch)
        return shown

    def _write_files(self, batch: Mapping[str, Tensor]) -> None:
        """The checkpoint last: whoever stops an evaluation comes back to it."""
        to_save, to_evaluate = map(
            self._due, (self.options.save_every, self.options.evaluate_every)
        )
        if to_save or to_evaluate:
            self._save_weights()
        if to_evaluate:
            self._evaluate(self.out / "evaluations" / str(self.done))
        if to_save:
            if self.metrics.board:
                self.metrics.show(self.done, self._picture(batch))
            frozen = {_frozen(term): guard.frozen for term, guard in self.guards.items()}
            with self._own_random_state():
                run_folder.save_checkpoint(
                    self.out, self.done, **self.parts, stepper=self.stepper, **frozen
                )

    def _sees(self, batch: Mapping[str, Tensor]) -> set[str]:
        """What of a batch it would be given alone; a live teacher's maps are made of its f_sr."""
        from_f_sr = "attention" in self._seen and "attention" not in batch
        return self._seen | {"f_sr"} if from_f_sr else self._seen

    def _due(self, every: int) -> bool:
        """After each so many steps, and after the last; 0 is never."""
        return every > 0 and (self.done % every == 0 or self.done == self.options.steps)

    @torch.no_grad()
    def _picture(self, batch: Mapping[str, Tensor]) -> NDArray[np.uint8]:
        """Of the first clip's middle frame: LR, SR, HR, the student's attention and, where it is at
        hand, the teacher's."""
        student = self._student.eval()
        middle = batch["lr"].shape[1] // 2
        with autocast(self.device, self.options.amp):
            features = student.features_clip(batch["lr"][:1], [middle])
            mine = self.parts["adapter"](features.f_sr[:, 0])
        student.train()
        maps = [attention_map(mine.float(), self.options.attention)[0]]
        if {"f_sr", "attention"} & batch.keys() & self._sees(batch):
            maps.append(teacher_map(batch, self.options.attention)[0, middle])
        frames = [batch["lr"][0, middle], features.sr[0, 0].float(), batch["hr"][0, middle]]
        return metrics_log.panels(frames, maps)

    @contextmanager
    def _own_random_state(self) -> Iterator[None]:
        """Not that of a trainer beside it."""
        torch.set_rng_state(self.random)
        yield
        self.random = torch.get_rng_state()

    def _resume(self) -> int:
        saved = run_folder.load_checkpoint(self.out)
        if saved is None:
            return 0
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])
        self.stepper.load_state_dict(saved["stepper"])
        for term, guard in self.guards.items():
            if saved[_frozen(term)]:
                guard.freeze()
        return int(saved["step"])


def _frozen(term: str) -> str:
    """A guard's place in checkpoint.pt: "frozen" for td, "frozen_lr" for td-lr."""
    return term.replace("td", "frozen").replace("-", "_")


def _norm(memory: nn.Module) -> float:
    """Of all the ConvLSTM's weights, to watch for collapse: L_TD falling by its doing alone."""
    return float(torch.stack([p.detach().norm() for p in memory.parameters()]).norm())
