"""The networks that an evaluation measures, and the degradation that fits their weights."""

import logging
from collections.abc import Mapping
from typing import Any

import torch

from stdpipe.cache.errors import UserError
from stdpipe.data.degrade import at_scale, degradation, same_grid
from stdpipe.device import settle
from stdpipe.evaluation.job import Evaluation, split_name
from stdpipe.models.base import Network, check_scale, check_sees_lr
from stdpipe.models.checkpoints import load_network, trained_for
from stdpipe.models.given import facts_of
from stdpipe.models.macs import HEIGHT, WIDTH

CONSEQUENCE = "its output measures nothing"
LOG = logging.getLogger(__name__)


def load_networks(
    job: Evaluation, device: torch.device
) -> tuple[dict[str, Network], dict[str, Mapping[str, Any]], Network | None]:
    """Load the networks to measure, their facts, and the teacher, onto the device."""
    phase = degradation(job.degradation or "bd").phase

    def load(model: str | None, weights: str | None) -> tuple[Network, dict[str, Any]]:
        net, facts = load_network(model, weights, phase)
        check_sees_lr(net, CONSEQUENCE)
        if "cost" in job.metrics:
            net.input_shapes(HEIGHT, WIDTH)  # tells at once if there are none
        return settle(net, device, job.amp), facts

    model, file = split_name(job.model or "")
    networks: dict[str, Network] = {}
    all_facts: dict[str, Mapping[str, Any]] = {}
    if job.network is not None:
        check_sees_lr(job.network, CONSEQUENCE)
        facts = facts_of(job.network)
        name, net = facts["network"], settle(job.network, device, job.amp)
        return {name: net}, {name: facts}, None
    for named in [(model, file or job.weights), *map(split_name, job.others)]:
        net, facts = load(*named)
        name = facts["network"] + (f" @ {facts['weights']}" if facts["weights"] else "")
        if name in networks:
            raise UserError(f"network {name} is named twice: leave one out")
        networks[name], all_facts[name] = net, facts
    shown = job.teacher or job.teacher_weights
    return networks, all_facts, load(job.teacher, job.teacher_weights)[0] if shown else None


def agreed_degradation(
    job: Evaluation, networks: Mapping[str, Mapping[str, Any]], nets: Mapping[str, Network]
) -> str:
    """Return the degradation asked for, else the one that all weights were trained for.

    Raises UserError for a network of another scale than its.
    """
    how = _agreed(job, networks, {name: net.factor for name, net in nets.items()})
    for name, net in nets.items():
        check_scale(net, name, how, degradation(how).scale)
    return how


def _agreed(
    job: Evaluation, networks: Mapping[str, Mapping[str, Any]], scales: Mapping[str, int]
) -> str:
    trained = {e["degradation"]: name for name, e in networks.items() if e["degradation"]}
    if job.degradation:
        for name, network in trained.items():
            if name != job.degradation and not same_grid(job.degradation, name):
                LOG.warning("stdpipe: %s is for %s, not %s", network, name, job.degradation)
        return job.degradation
    if len(trained) > 1:
        told = ", ".join(f"{network} for {name}" for name, network in trained.items())
        raise UserError(f"trained for different degradations: {told}; give --degradation")
    others = [
        trained_for(facts, None, at_scale("bd", scales[name]))
        for name, facts in networks.items()
        if not facts["degradation"]
    ]
    return str([*trained, *others][0])
