"""The weights of a student's terms over a run: fixed, by shares of L_rec's gradient, on a schedule.

A weight of 1 means something else with every teacher; a share does not. It says how large a term's
gradient is beside L_rec's on the map that both reach: F^LR or F^SR where a term reads one, else the
image. Norms are of all clips of a step, whichever rank or slice they are in.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from stdpipe.cache.errors import UserError
from stdpipe.distill.terms import TERMS
from stdpipe.models.base import Features
from stdpipe.training.config import StudentTraining

LOG = logging.getLogger(__name__)
SMOOTHED = 0.9  # the part of an average of squared norms that the next one leaves
SETTLED = 5  # measurements after which a large share is told
SCALED = 2.0**16  # losses before gradients are taken, so that those of fp16 do not vanish
SQUARED = "norm2."  # begins the names of squared norms among a step's values
# nodes of autograd that move values without changing them, by how their names begin
REARRANGING = ("View", "UnsafeView", "Reshape", "Alias", "Unflatten", "Slice", "Stack", "Cat",
               "Split", "Select", "Unbind", "Permute", "Squeeze", "Unsqueeze")  # fmt: skip


class TermWeights:
    """The weights of the terms that are in a step's loss.

    Terms with a share have weight zero until their first measurement, one step after they begin.
    """

    def __init__(self, options: StudentTraining, out: Path) -> None:
        self.options, self.out = options, out
        self.terms, self.first = options.terms, options.first_taught  # parsed once, not each step
        self.squares: dict[str, float] = {}  # name of a loss -> sum over measurements, decayed
        self.counts: dict[str, int] = {}
        self.told: set[str] = set()
        self.without = 0  # measurements in which some gradient was zero

    def at(self, step: int) -> dict[str, float]:
        """Return the weights of the terms that are computed in a step."""
        return {
            name: self._weight(name) * fade
            for name in self.terms
            if (fade := self.options.fade(name, step)) > 0
        }

    def measures(self, step: int) -> bool:
        """Return whether gradients are measured in a step: in every `share_every`th one, and where
        a term begins."""
        names, every = self.at(step), self.options.share_every
        if not (names and every):
            return False
        begins = not names.keys() <= self.counts.keys() and self.without < SETTLED
        return (step - self.first) % every == 0 or begins

    def take(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Take a step's squared norms; return its values with each term's weight and share instead.

        Norms that are not finite, as a step of fp16 may have, are left out, and those of zero, as
        L_rec's on F^SR is where a student's last layer starts from zero.
        """
        weights, kept = self.at(step), dict(values)
        found = {name: kept.pop(name) for name in values if name.startswith(SQUARED)}
        if zero := [name.removeprefix(SQUARED) for name, square in found.items() if not square]:
            self._count_without(zero[0])
        elif all(map(math.isfinite, found.values())):
            for name, square in found.items():
                name = name.removeprefix(SQUARED)
                self.squares[name] = SMOOTHED * self.squares.get(name, 0.0) + square
                self.counts[name] = self.counts.get(name, 0) + 1
        for name, weight in weights.items():
            kept[f"weight.{name}"] = weight
            if name in self.counts:
                kept[f"share.{name}"] = share = weight / self._weight_of_equal(name)
                self._tell(name, share)
        return kept

    def state_dict(self) -> dict[str, Any]:
        kept = {"squares": dict(self.squares), "counts": dict(self.counts)}
        return {**kept, "without": self.without}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.without = int(state.get("without", 0))  # older checkpoints lack it
        self.squares = dict(state["squares"])
        self.counts = {name: int(count) for name, count in state["counts"].items()}

    def _weight(self, name: str) -> float:
        share = self.options.share.get(name)
        if share is None:
            return self.terms[name]
        return share * self._weight_of_equal(name) if name in self.counts else 0.0

    def _weight_of_equal(self, name: str) -> float:
        """Return the weight at which a term's gradient is as large as L_rec's."""
        return self._norm("rec") / max(self._norm(name), 1e-30)

    def _norm(self, name: str) -> float:
        """Return the root of the average of squared norms, recent ones counting more."""
        weighed = (1 - SMOOTHED ** self.counts[name]) / (1 - SMOOTHED)
        return math.sqrt(self.squares[name] / weighed)

    def _count_without(self, name: str) -> None:
        """Warn once where a loss keeps having no gradient on the map that its share is taken on."""
        self.without += 1
        if self.without == SETTLED and self.options.share:
            LOG.warning(
                f"stdpipe: in {self.out} the gradient of {name} is zero on "
                f"{shared_map(self.terms)}, so that terms with a share stay out of the loss: does "
                "the student's image depend on that map?"
            )

    def _tell(self, name: str, share: float) -> None:
        """Warn once of a large share, but not of an image's: it pulls the way that L_rec does."""
        settled = self.counts[name] >= SETTLED and name not in self.told
        if settled and share > 1 and TERMS[name].needs != "sr":
            self.told.add(name)
            LOG.warning(
                f"stdpipe: in {self.out} the gradient of {name} is {share:.1f} times L_rec's and "
                f"drowns it: lower its weight, or set share.{name}=0.1"
            )


def shared_map(terms: Iterable[str]) -> str:
    """Return the map that all terms and L_rec reach: "f_lr", "f_sr" or "sr", the earliest read."""
    read = {TERMS[name].needs for name in terms}
    if "f_lr" in read:
        return "f_lr"
    return "f_sr" if read & {"f_sr", "attention"} else "sr"


def squared_norms(
    losses: Mapping[str, Tensor], features: Features, level: str
) -> dict[str, Tensor]:
    """Return the squared norm of each loss's gradient on a map, by SQUARED + name.

    Raises UserError where the image of L_rec ("rec") is not made of that map.
    """
    values = getattr(features, level)
    reached: list[Tensor] | list[GradientEdge] = [values] if level == "sr" else _origins(values)
    found = {}
    for name, loss in losses.items():
        gradients = torch.autograd.grad(
            loss * SCALED, reached, retain_graph=True, allow_unused=True
        )
        squares = [g.float().square().sum() for g in gradients if g is not None]
        if not squares:
            raise UserError(
                f"{name} has no gradient on {level} of this student, so no share can be measured: "
                "give its term a weight, and set share_every=0"
            )
        found[SQUARED + name] = torch.stack(squares).sum()
    return found


def _origins(values: Tensor) -> list[GradientEdge]:
    """Return where autograd made the values that a map's views, slices and stacks rearrange: a
    network makes its image of those, not of the map that it returns."""
    found, waiting = {}, [get_gradient_edge(values)]
    while waiting:
        edge = waiting.pop()
        if edge.node.name().startswith(REARRANGING):
            below = edge.node.next_functions
            waiting += [GradientEdge(node, number) for node, number in below if node is not None]
        else:
            found[edge.node, edge.output_nr] = edge
    return list(found.values())
