"""Measure networks on a data set, by a named protocol, and show a few frames.

setup -> one pass over the clips, a few frames at a time: super-resolve and score -> report.
Axes: n frames, H W HR size, h w LR size.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from operator import itemgetter
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
from stdpipe.evaluation.metrics import QUALITY, TEMPORAL
from stdpipe.evaluation.pictures import save_comparison
from stdpipe.evaluation.protocols import Protocol, rounded, score_frames, scored_frames
from stdpipe.evaluation.results import Cost, Definition, NetworkResult, Result, read_result
from stdpipe.evaluation.temporal import Temporal
from stdpipe.models.base import Features, Network, check_sees_lr, count_parameters
from stdpipe.models.checkpoints import load_network, trained_for
from stdpipe.models.macs import count_macs

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedNetwork:
    """A network that is measured."""

    name: str  # the network and its weights, as tables say it
    net: Network
    facts: Mapping[str, Any]  # those of load_network


@dataclass(frozen=True)
class EvaluationSetup:
    """Says what a job's names stand for."""

    job: Evaluation
    device: torch.device
    networks: list[LoadedNetwork]
    teacher: Network | None
    degradation: str
    clips: list[Clip]
    rules: Protocol
    chosen: str  # why these rules
    scored: Mapping[str, list[int]]  # a clip's key -> its frames that count

    @property
    def figures(self) -> list[str]:
        """Return what is measured of each frame."""
        return [*QUALITY, *(TEMPORAL if "temporal" in self.job.metrics else ())]


def evaluate(job: Evaluation) -> dict[str, Any]:
    """Measure, and return the result as JSON has it: its definition, then each network's figures.

    One network's (`model`, `weights`, `average`, `clips`, ...) lie at the top, those of several in
    the list `networks`. Where `job.out` holds the result of this very evaluation, that one is
    returned. Raises UserError, in one line, where it holds another one, and for what cannot be
    measured; OSError for files that cannot be read or written.
    """
    setup = _set_up(job)
    definition = results.definition(
        job.data, setup.degradation, setup.rules, setup.chosen, job.metrics, job.amp
    )
    lengths = {key: len(frames) for key, frames in setup.scored.items()}
    hashes = {network.name: network.facts["sha256"] for network in setup.networks}
    device = device_name(setup.device) if "cost" in job.metrics else None
    facts = _facts(definition, hashes, lengths, device)
    if job.out and (found := _finished(job.out, facts, job.overwrite)):
        LOG.warning("stdpipe: %s holds this result already; --overwrite measures anew", job.out)
        return results.as_json(found)
    meaning = {**definition, **facts, "stdpipe": version("stdpipe")}
    log = FrameLog(job.out, meaning, list(hashes), lengths, setup.figures)
    _measure(setup, log)
    networks = [_report(setup, network, log) for network in setup.networks]
    result = results.as_json({**definition, "networks": networks})
    if job.out:
        log.finish(job.out, result, results.results_table(result))
    return result


def _finished(out: Path, facts: Mapping[str, Any], overwrite: bool) -> Result | None:
    """The result in `out`, if it is that of this very evaluation. UserError if it is another's."""
    publish(out)
    if overwrite or not (out / "result.json").is_file():
        return None
    old = read_result(out / "result.json")
    networks = old["networks"]
    there = _facts(
        old,
        {network["name"]: network["weights_sha256"] for network in networks},
        {key: row["frames"] for key, row in networks[0]["clips"].items()},
        networks[0]["cost"]["device"] if "cost" in networks[0] else None,
    )
    differences = [
        f"{key}: {there.get(key) or 'none'!s:.60} there, {facts.get(key) or 'none'!s:.60} now"
        for key in dict.fromkeys([*facts, *there])
        if there.get(key) != facts.get(key)
    ]
    if differences:
        more = [f"and {len(differences) - 4} more"] if len(differences) > 4 else []
        raise UserError(
            f"{out} holds the result of another evaluation "
            f"({'; '.join([*differences[:4], *more])}); choose another --out, or give --overwrite"
        )
    return old


def _facts(
    definition: Definition,
    hashes: Mapping[str, str | None],
    lengths: Mapping[str, int],
    device: str | None,
) -> dict[str, Any]:
    """Return what tells evaluations apart: rules, networks by weights, frames, a cost's device.

    hashes: network -> sha256 of its weights; lengths: clip -> how many of its frames are scored.
    """
    return {
        **results.identity(definition),
        **{f"network {name}": sha256 or "no weights" for name, sha256 in hashes.items()},
        **{f"clip {key}'s frames": count for key, count in lengths.items()},
        "cost on": device,
    }


def _set_up(job: Evaluation) -> EvaluationSetup:
    device = pick_device(job.device)
    keep_memory(device)
    networks, teacher = _networks(job, device)
    clips, rules, chosen = scored_footage(job.data, job.protocol, job.crop)
    degraded = _degradation(job, networks)
    scored = {clip.key: scored_frames(len(clip.frames), rules) for clip in clips}
    if "temporal" in job.metrics and max(map(len, scored.values())) < 2:
        raise UserError(
            f"temporal metrics need consecutive frames, but protocol {rules.name!r} scores one of "
            "each clip here: choose --protocol vid4 or longer clips"
        )
    return EvaluationSetup(job, device, networks, teacher, degraded, clips, rules, chosen, scored)


def _networks(job: Evaluation, device: torch.device) -> tuple[list[LoadedNetwork], Network | None]:
    """Load the networks to measure, and the teacher, onto the device."""
    phase = degradation(job.degradation or "bd").phase

    def load(model: str | None, weights: str | None) -> LoadedNetwork:
        net, facts = load_network(model, weights, phase)
        check_sees_lr(net, "its output measures nothing")
        name = facts["network"] + (f" @ {facts['weights']}" if facts["weights"] else "")
        return LoadedNetwork(name, settle(net, device, job.amp), facts)

    name, file = split_name(job.model or "")
    networks: dict[str, LoadedNetwork] = {}
    for model, weights in [(name, file or job.weights), *map(split_name, job.others)]:
        network = load(model, weights)
        if network.name in networks:
            raise UserError(f"network {network.name} is named twice: leave one out")
        networks[network.name] = network
    shown = job.teacher or job.teacher_weights
    teacher = load(job.teacher, job.teacher_weights).net if shown else None
    return list(networks.values()), teacher


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


def _measure(setup: EvaluationSetup, log: FrameLog) -> None:
    """Go once over the clips that are left; each one's figures go to the log as it ends."""
    todo = [clip for clip in setup.clips if clip.key not in log.done]
    total = sum(len(setup.scored[clip.key]) for clip in todo)
    with tqdm(total=total, unit="frame", desc="evaluate", disable=None) as bar:
        for clip, of_clip in groupby(ahead(_stream(setup, todo)), itemgetter(0)):
            rows: dict[str, list[Row]] = {network.name: [] for network in setup.networks}
            temporal = Temporal(setup.rules.crop) if "temporal" in setup.job.metrics else None
            for _, piece in of_clip:
                for name, figures in _score(setup, clip, piece, temporal).items():
                    rows[name] += figures
                bar.update(len(piece.centres))
            log.add(clip.key, rows)


def _stream(setup: EvaluationSetup, clips: Sequence[Clip]) -> Iterator[tuple[Clip, Piece]]:
    nets = [*(network.net for network in setup.networks), setup.teacher]
    k = max(net.num_frame // 2 for net in nets if net is not None)
    for clip in clips:
        frames = setup.scored[clip.key]
        for piece in pieces(clip, frames, k, setup.degradation, setup.rules.lr_8bit):
            yield clip, piece


@torch.inference_mode()
def _score(
    setup: EvaluationSetup, clip: Clip, piece: Piece, temporal: Temporal | None
) -> dict[str, list[Row]]:
    """Return the figures of a piece's frames, by network; save its picture if it is to be shown."""
    show = _index_to_show(setup, clip, piece)
    results, pictures, maps = {}, {}, {}
    for network in setup.networks:
        features = super_resolve(network.net, piece, setup.device, setup.job.amp)
        results[network.name] = _checked(features.sr, clip, piece)
        if show is not None:
            of_several = f", {network.name}" * (len(setup.networks) > 1)
            pictures[f"SR{of_several}"] = _pixels(features.sr[show])
            maps[f"attention{of_several}"] = _attention(features, show)
    if show is not None:
        if setup.teacher is not None:
            features = super_resolve(setup.teacher, piece, setup.device, setup.job.amp)
            maps["attention, teacher"] = _attention(features, show)
        _save_picture(setup, clip, piece, show, pictures, maps)
    hr = piece.hr.to(setup.device).float() / 255
    rows = score_frames(results, hr, setup.rules)
    if temporal:
        for frame, truth in enumerate(rounded(hr, setup.rules)):
            shown = {name: rounded(sr[frame], setup.rules) for name, sr in results.items()}
            for name, figures in temporal.next(truth, shown).items():
                rows[name][frame] |= figures
    for of_network in rows.values():
        for row, centre in zip(of_network, piece.centres, strict=True):
            row["frame"] = centre
    return rows


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
    """Tell where the clip's middle frame lies in the piece, for the clips that are to be shown."""
    middle, job = len(clip.frames) // 2, setup.job
    among = clip.key in {each.key for each in setup.clips[: job.pictures]}
    return piece.centres.index(middle) if job.out and among and middle in piece.centres else None


def _save_picture(
    setup: EvaluationSetup,
    clip: Clip,
    piece: Piece,
    index: int,
    pictures: Mapping[str, Any],
    maps: Mapping[str, Any],
) -> None:
    """Write one picture: LR, each network's SR, HR, each one's attention, the teacher's last."""
    assert setup.job.out
    lr = _pixels(piece.lr[piece.centres[index] - piece.first])
    hr = _pixels(pad_to_scale(piece.hr[index][None])[0] / 255)
    file = f"{clip.key.replace('/', '_')}.png"
    columns = {"LR": lr, **pictures, "HR": hr, **maps}
    save_comparison(setup.job.out / UNFINISHED / "pictures" / file, columns)


def _pixels(image: Tensor) -> Any:
    """(3, H, W) in [0, 1] -> uint8 (H, W, 3)."""
    return (image.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def _attention(features: Features, index: int) -> Any:
    return attention_map(features.f_sr[index].float()).cpu().numpy()


def _report(setup: EvaluationSetup, network: LoadedNetwork, log: FrameLog) -> NetworkResult:
    """Return one network's part of the result."""
    facts, clips = network.facts, log.networks[network.name]
    means = results.averages({clip.key: clips[clip.key] for clip in setup.clips}, setup.figures)
    report: NetworkResult = {
        "name": network.name,
        "model": facts["network"],
        "weights": facts["weights"],
        "weights_sha256": facts["sha256"],
        "trained_for": facts["degradation"],
        "average": means["average"],
        "excluded": means["excluded"],
        "clips": means["clips"],
    }
    listed = vimeo_lists(setup.job.data) if setup.rules.frames == "centre" else {}
    if lists := {name: keys for name, keys in listed.items() if name in MOTION_LISTS}:
        report["lists"] = results.by_list(report["clips"], lists, setup.figures)
    if "cost" in setup.job.metrics:
        report["cost"] = _cost(setup, network.net)
    return report


def _cost(setup: EvaluationSetup, net: Network) -> Cost:
    def run(window: Tensor) -> None:
        with autocast(setup.device, setup.job.amp):
            net(window)

    macs, timed = count_macs(net), running_cost(net, net.num_frame, setup.device, run)
    counts = {"parameters": count_parameters(net), "macs": macs.total}
    return cast(Cost, {**counts, "sampling_macs": macs.sampling, **timed, "amp": setup.job.amp})
