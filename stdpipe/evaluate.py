"""Measure networks on a data set, by a named protocol, and show a few frames.

setup -> one pass over the clips, a few frames at a time: super-resolve and score -> report.
Axes: n frames, H W HR size, h w LR size.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from tqdm import tqdm

from stdpipe.cache.errors import UserError
from stdpipe.data.degrade import degradation, pad_to_scale
from stdpipe.data.frames import Clip
from stdpipe.data.layouts import MOTION_LISTS, vimeo_lists
from stdpipe.data.pieces import Piece, ahead, pieces
from stdpipe.device import autocast, keep_memory, pick_device, settle
from stdpipe.distill.attention import attention_map
from stdpipe.evaluation import results
from stdpipe.evaluation.cost import device_name, running_cost
from stdpipe.evaluation.frame_log import UNFINISHED, FrameLog, Row, publish
from stdpipe.evaluation.job import Evaluation, scored_footage, split_name
from stdpipe.evaluation.metrics import QUALITY
from stdpipe.evaluation.pictures import save_comparison
from stdpipe.evaluation.protocols import Protocol, rounded, score_frames, scored_frames
from stdpipe.evaluation.results import Cost, Definition, NetworkResult, Result, read_result
from stdpipe.evaluation.temporal import TEMPORAL, Temporal
from stdpipe.models.base import Features, Network, check_sees_lr, count_parameters
from stdpipe.models.checkpoints import load_network, trained_for
from stdpipe.models.macs import count_macs

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedNetwork:
    """A network that is measured."""

    name: str
    """The network and its weights, as tables say it."""
    net: Network
    facts: Mapping[str, Any]
    """Those of load_network."""


@dataclass(frozen=True)
class EvaluationSetup:
    """What a job's names stand for."""

    job: Evaluation
    device: torch.device
    networks: list[LoadedNetwork]
    teacher: Network | None
    degradation: str
    clips: list[Clip]
    rules: Protocol
    chosen: str
    """Why these rules."""

    @property
    def figures(self) -> list[str]:
        """What is measured of each frame."""
        return [*QUALITY, *(TEMPORAL if "temporal" in self.job.metrics else ())]

    def scored(self, clip: Clip) -> list[int]:
        """The clip's frames that count."""
        return scored_frames(len(clip.frames), self.rules)


def evaluate(job: Evaluation) -> dict[str, Any]:
    """Measure, and return the result as JSON has it: its definition, then each network's figures.

    One network's (`model`, `weights`, `average`, `clips`, ...) lie at the top, those of several in
    the list `networks`. Where `job.out` holds the result of this very evaluation, that one is
    returned. Raises UserError, in one line, where it holds another one, and for what cannot be
    measured; OSError for files that cannot be read or written.
    """
    setup = _set_up(job)
    definition = _definition(setup)
    if job.out and (found := _finished(setup, definition, job.out)):
        LOG.warning("stdpipe: %s holds this result already; --overwrite measures anew", job.out)
        return results.as_json(found)
    log = _open_log(setup, definition)
    _measure(setup, log)
    networks = [_report(setup, network, log) for network in setup.networks]
    result = results.as_json({**definition, "networks": networks})
    if job.out:
        log.finish(job.out, result, results.results_table(result))
    return result


def _finished(setup: EvaluationSetup, definition: Definition, out: Path) -> Result | None:
    """The result in `out`, if it is that of this very evaluation. UserError if it is another's."""
    publish(out)
    if setup.job.overwrite or not (out / "result.json").is_file():
        return None
    old = read_result(out / "result.json")
    there, now = _facts_of(old), {**results.identity(definition), **_measured_facts(setup)}
    differences = [
        f"{key}: {_short(there.get(key))} there, {_short(now.get(key))} now"
        for key in dict.fromkeys([*now, *there])
        if there.get(key) != now.get(key)
    ]
    if differences:
        more = len(differences) - 4
        told = "; ".join([*differences[:4], *([f"and {more} more"] if more > 0 else [])])
        raise UserError(
            f"{out} holds the result of another evaluation ({told}); choose another --out, or "
            "give --overwrite"
        )
    return old


def _facts_of(result: Result) -> dict[str, Any]:
    """What was measured, in the words of _measured_facts."""
    networks = result["networks"]
    return {
        **results.identity(result),
        **{f"network {each['name']}": each["weights_sha256"] or "no weights" for each in networks},
        **{f"clip {key}'s frames": row["frames"] for key, row in networks[0]["clips"].items()},
        "cost on": networks[0]["cost"]["device"] if "cost" in networks[0] else None,
    }


def _measured_facts(setup: EvaluationSetup) -> dict[str, Any]:
    """Which networks, by their weights, on which frames; where, if their cost is asked for."""
    cost = device_name(setup.device) if "cost" in setup.job.metrics else None
    return {
        **{f"network {each.name}": each.facts["sha256"] or "no weights" for each in setup.networks},
        **{f"clip {clip.key}'s frames": len(setup.scored(clip)) for clip in setup.clips},
        "cost on": cost,
    }


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _set_up(job: Evaluation) -> EvaluationSetup:
    device = pick_device(job.device)
    keep_memory(device)
    networks, teacher = _networks(job, device)
    clips, rules, chosen = scored_footage(job)
    setup = EvaluationSetup(
        job, device, networks, teacher, _degradation(job, networks), clips, rules, chosen
    )
    longest = max(len(setup.scored(clip)) for clip in clips)
    if "temporal" in job.metrics and longest < 2:
        raise UserError(
            f"temporal metrics need consecutive frames, but protocol {rules.name!r} scores one of "
            "each clip here: choose --protocol vid4 or longer clips"
        )
    return setup


def _networks(job: Evaluation, device: torch.device) -> tuple[list[LoadedNetwork], Network | None]:
    """Those to measure and the teacher, on the device."""
    phase = degradation(job.degradation or "bd").phase
    name, file = split_name(job.model or "")
    asked = [(name, file or job.weights), *map(split_name, job.others)]
    networks: list[LoadedNetwork] = []
    for model, weights in asked:
        net, facts = load_network(model, weights, phase)
        check_sees_lr(net, "its output measures nothing")
        name = facts["network"] + (f" @ {facts['weights']}" if facts["weights"] else "")
        if name in {network.name for network in networks}:
            raise UserError(f"network {name} is named twice: leave one out")
        networks.append(LoadedNetwork(name, settle(net, device, job.amp), facts))
    if job.teacher is None and job.teacher_weights is None:
        return networks, None
    teacher = load_network(job.teacher, job.teacher_weights, phase)[0]
    check_sees_lr(teacher, "its output measures nothing")
    return networks, settle(teacher, device, job.amp)


def _degradation(job: Evaluation, networks: Sequence[LoadedNetwork]) -> str:
    """The one asked for, or that the weights were trained for; then they must agree."""
    trained = {e.facts["degradation"]: e.name for e in networks if e.facts["degradation"]}
    if job.degradation:
        for name, network in trained.items():
            if name != job.degradation:
                LOG.warning("stdpipe: %s is for %s, not %s", network, name, job.degradation)
        return job.degradation
    if len(trained) > 1:
        told = ", ".join(f"{network} for {name}" for name, network in trained.items())
        raise UserError(f"trained for different degradations: {told}; give --degradation")
    others = [trained_for(e.facts, None) for e in networks if not e.facts["degradation"]]
    return str([*trained, *others][0])


def _definition(setup: EvaluationSetup) -> Definition:
    job = setup.job
    return results.definition(
        job.data, setup.degradation, setup.rules, setup.chosen, job.metrics, job.amp
    )


def _open_log(setup: EvaluationSetup, definition: Definition) -> FrameLog:
    made_by = {**_measured_facts(setup), "stdpipe": version("stdpipe")}
    lengths = {clip.key: len(setup.scored(clip)) for clip in setup.clips}
    names = [network.name for network in setup.networks]
    return FrameLog(setup.job.out, {**definition, **made_by}, names, lengths, setup.figures)


def _measure(setup: EvaluationSetup, log: FrameLog) -> None:
    """One pass over the clips that are left; each one's figures go to the log as it ends."""
    todo = [clip for clip in setup.clips if clip.key not in log.done]
    total = sum(len(setup.scored(clip)) for clip in todo)
    with tqdm(total=total, unit="frame", desc="evaluate", disable=None) as bar:
        for clip, of_clip in _by_clip(ahead(_stream(setup, todo))):
            rows: dict[str, list[Row]] = {network.name: [] for network in setup.networks}
            temporal = Temporal(setup.rules.crop) if "temporal" in setup.job.metrics else None
            for piece in of_clip:
                for name, figures in _score(setup, clip, piece, temporal).items():
                    rows[name] += figures
                bar.update(len(piece.centres))
            log.add(clip.key, rows)


def _stream(setup: EvaluationSetup, clips: Sequence[Clip]) -> Iterator[tuple[Clip, Piece]]:
    nets = [*(network.net for network in setup.networks), setup.teacher]
    k = max(net.num_frame // 2 for net in nets if net is not None)
    for clip in clips:
        frames = setup.scored(clip)
        for piece in pieces(clip, frames, k, setup.degradation, setup.rules.lr_8bit):
            yield clip, piece


def _by_clip(
    items: Iterator[tuple[Clip, Piece]],
) -> Iterator[tuple[Clip, Iterator[Piece]]]:
    for clip, group in groupby(items, key=lambda item: item[0]):
        yield clip, (piece for _, piece in group)


@torch.inference_mode()
def _score(
    setup: EvaluationSetup, clip: Clip, piece: Piece, temporal: Temporal | None
) -> dict[str, list[Row]]:
    """The figures of a piece's frames, by network; and its picture, where it is to be shown."""
    show = _index_to_show(setup, clip, piece)
    results, shown = {}, {}
    for network in setup.networks:
        features = super_resolve(network.net, piece, setup.device, setup.job.amp)
        results[network.name] = _checked(features.sr, clip, piece)
        if show is not None:
            shown[network.name] = features.sr[show], attention_map(features.f_sr[show].float())
    if show is not None:
        _show(setup, clip, piece, show, shown)
    hr = piece.hr.to(setup.device).float() / 255
    rows = score_frames(results, hr, setup.rules)
    if temporal:
        rounded_results = {name: rounded(sr, setup.rules) for name, sr in results.items()}
        motion = temporal.follow(rounded(hr, setup.rules), rounded_results)
        rows = {name: _joined(rows[name], motion[name]) for name in rows}
    frames: list[Row] = [{"frame": frame} for frame in piece.centres]
    return {name: _joined(frames, rows[name]) for name in rows}


def _joined(rows: Sequence[Row], more: Sequence[Row]) -> list[Row]:
    return [a | b for a, b in zip(rows, more, strict=True)]


def super_resolve(net: Network, piece: Piece, device: torch.device, amp: str = "none") -> Features:
    """Features of a piece's centres, each (n, C, ., .), as the whole clip would give them."""
    lr, centres = piece.around(net.num_frame // 2)
    with autocast(device, amp):
        features = net.features_clip(lr.to(device)[None], centres)
    return Features(*(x[0] for x in features))


def _checked(sr: Tensor, clip: Clip, piece: Piece) -> Tensor:
    """The results in float32, without what padding added."""
    height, width = piece.hr.shape[-2:]
    sr = sr[..., :height, :width].float()
    if not sr.isfinite().all():
        raise UserError(
            f"clip {clip.key}: the network's output is not finite near frame {piece.centres[0]}; "
            "check its weights, or leave fp16 for bf16"
        )
    return sr


def _index_to_show(setup: EvaluationSetup, clip: Clip, piece: Piece) -> int | None:
    """Where the clip's middle frame lies in the piece, for the clips that are to be shown."""
    middle, job = len(clip.frames) // 2, setup.job
    among = clip.key in {each.key for each in setup.clips[: job.pictures]}
    return piece.centres.index(middle) if job.out and among and middle in piece.centres else None


def _show(
    setup: EvaluationSetup,
    clip: Clip,
    piece: Piece,
    index: int,
    shown: Mapping[str, tuple[Tensor, Tensor]],
) -> None:
    """One picture: LR, each network's SR, HR, and each network's attention, the teacher's last."""
    assert setup.job.out
    several = len(shown) > 1
    columns = {"LR": _pixels(piece.lr[piece.centres[index] - piece.first])}
    for name, (sr, _) in shown.items():
        columns[f"SR, {name}" if several else "SR"] = _pixels(sr)
    columns["HR"] = _pixels(pad_to_scale(piece.hr[index][None])[0] / 255)
    for name, (_, attention) in shown.items():
        columns[f"attention, {name}" if several else "attention"] = attention.cpu().numpy()
    if setup.teacher is not None:
        f_sr = super_resolve(setup.teacher, piece, setup.device, setup.job.amp).f_sr[index]
        columns["attention, teacher"] = attention_map(f_sr.float()).cpu().numpy()
    name = f"{clip.key.replace('/', '_')}.png"
    save_comparison(setup.job.out / UNFINISHED / "pictures" / name, columns, crop=True)


def _pixels(image: Tensor) -> Any:
    """(3, H, W) in [0, 1] -> uint8 (H, W, 3)."""
    return (image.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def _report(setup: EvaluationSetup, network: LoadedNetwork, log: FrameLog) -> NetworkResult:
    """One network's part of the result."""
    facts, clips = network.facts, log.networks[network.name]
    averages = results.averages({c.key: clips[c.key] for c in setup.clips}, setup.figures)
    report: NetworkResult = {
        "name": network.name,
        "model": facts["network"],
        "weights": facts["weights"],
        "weights_sha256": facts["sha256"],
        "trained_for": facts["degradation"],
        "average": averages["average"],
        "excluded": averages["excluded"],
        "clips": averages["clips"],
    }
    listed = vimeo_lists(setup.job.data) if setup.rules.frames == "centre" else {}
    lists = {name: keys for name, keys in listed.items() if name in MOTION_LISTS}
    if lists:
        report["lists"] = results.by_list(averages["clips"], lists, setup.figures)
    if "cost" in setup.job.metrics:
        report["cost"] = _cost(setup, network.net)
    return report


def _cost(setup: EvaluationSetup, net: Network) -> Cost:
    def run(window: Tensor) -> None:
        with autocast(setup.device, setup.job.amp):
            net(window)

    macs = count_macs(net)
    cost: dict[str, Any] = {
        "parameters": count_parameters(net),
        "macs": macs.total,
        "sampling_macs": macs.sampling,
        **running_cost(net, net.num_frame, setup.device, run),
        "amp": setup.job.amp,
    }
    return cast(Cost, cost)
