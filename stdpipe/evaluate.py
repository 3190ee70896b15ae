"""Measure networks on a data set by a named protocol, and save pictures of a few frames.

setup -> one pass over the clips, a few frames at a time: super-resolve and score -> report.
Axes: n frames, H W HR size, h w LR size.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from tqdm import tqdm

from stdpipe.cache.errors import UserError
from stdpipe.cache.files import locked
from stdpipe.data.degrade import degradation
from stdpipe.data.frames import Clip
from stdpipe.data.layouts import MOTION_LISTS, vimeo_lists
from stdpipe.data.pairs import degradation_of, unless_trained
from stdpipe.data.pieces import Origin, Piece, ahead, origin, pieces, span
from stdpipe.data.sizes import check_sizes, tell_sizes
from stdpipe.device import autocast, keep_memory, pick_device
from stdpipe.distill.attention import attention_map
from stdpipe.evaluation import results
from stdpipe.evaluation.cost import device_name, running_cost
from stdpipe.evaluation.frame_log import (
    UNFINISHED,
    FrameLog,
    Row,
    publish,
    refuse_changed,
    unfinished,
)
from stdpipe.evaluation.job import Evaluation, scored_footage
from stdpipe.evaluation.metrics import QUALITY, TEMPORAL
from stdpipe.evaluation.networks import agreed_degradation, load_networks
from stdpipe.evaluation.pictures import save_comparison, to_pixels
from stdpipe.evaluation.protocols import Protocol, rounded, score_frames, scored_frames
from stdpipe.evaluation.results import Cost, Definition, NetworkResult, Result, read_result
from stdpipe.evaluation.same_frames import refuse_other_frames
from stdpipe.evaluation.still import Still, still_figures, still_psnr
from stdpipe.evaluation.temporal import Temporal
from stdpipe.models.base import Network, count_parameters
from stdpipe.models.causal import CausalNetwork
from stdpipe.models.checkpoints import warn_of_phase
from stdpipe.models.fold import folded
from stdpipe.models.macs import HEIGHT, WIDTH, count_macs
from stdpipe.models.running import ClipRunner, frames_around, still_images

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationSetup:
    """An evaluation with all its names resolved; networks are named with their weights."""

    job: Evaluation
    device: torch.device
    networks: dict[str, Network]
    facts: dict[str, Mapping[str, Any]]  # name of a network -> the facts of load_network
    teacher: Network | None
    degradation: str
    clips: list[Clip]
    rules: Protocol
    chosen: str  # why these rules
    scored: Mapping[str, list[int]]  # a clip's key -> the indices of its scored frames
    shown: set[str]  # keys of the clips whose middle frame becomes a picture

    @property
    def figures(self) -> list[str]:
        """Return the names of the figures measured for each frame."""
        return [*QUALITY, *(TEMPORAL if "temporal" in self.job.metrics else ())]

    @cached_property
    def by_key(self) -> dict[str, Clip]:
        return {clip.key: clip for clip in self.clips}

    def now(self, key: str, there: Origin) -> Origin:
        """Return what the frames that a clip's figures come from hold now."""
        read = range(there["start"], there["stop"])
        return origin(self.by_key[key], read, self.degradation)


def evaluate(job: Evaluation) -> dict[str, Any]:
    """Measure, and return the content of result.json: its definition, then the networks' figures.

    The figures of a single network (`model`, `weights`, `average`, `clips`, ...) lie at the top,
    those of several in the list `networks`. A result of the same evaluation in `job.out` is
    returned as it is. Raises UserError where `job.out` holds another evaluation, finished or not,
    and for what cannot be measured; OSError for files that cannot be read or written.
    """
    setup = _set_up(job)
    definition = results.definition(
        job.data, setup.degradation, setup.rules, setup.chosen, job.metrics, job.amp
    )
    lengths = {key: len(frames) for key, frames in setup.scored.items()}
    hashes = {name: facts["sha256"] for name, facts in setup.facts.items()}
    device = device_name(setup.device) if "cost" in job.metrics else None
    facts = _facts(definition, hashes, lengths, device, job.still)
    busy = f"another process evaluates into {job.out}: wait for it, or choose another --out"
    with locked(job.out / ".lock", busy) if job.out else nullcontext():
        if job.out and (found := _finished(setup, job.out, facts)):
            LOG.warning("stdpipe: %s holds this result already; --overwrite measures anew", job.out)
            return results.as_json(found)
        rest = {name: fact for name, fact in facts.items() if name != "data"}  # which may move
        log = FrameLog(job.out, rest, list(hashes), lengths, setup.figures, setup.now)
        _measure(setup, log)
        networks = [_report(setup, name, log) for name in setup.networks]
        origins = {clip.key: log.origins[clip.key] for clip in setup.clips}
        measured = {**definition, "networks": networks, "origins": origins}
        result = results.as_json(cast(Result, measured))
        if job.out:
            return log.finish(job.out, result, results.results_table(result))
        return result


def _finished(setup: EvaluationSetup, out: Path, facts: Mapping[str, Any]) -> Result | None:
    """Return the result in `out`, None if it is not complete; UserError for another evaluation, of
    other frames too, and where a file of it is damaged."""
    publish(out)
    if setup.job.overwrite:
        return None
    old, there = None, unfinished(out) or facts
    if (out / "result.json").is_file():
        old = read_result(out / "result.json")
        networks = old["networks"]
        there = _facts(
            old,
            {network["name"]: network["weights_sha256"] for network in networks},
            {key: row["frames"] for key, row in networks[0]["clips"].items()},
            networks[0]["cost"]["device"] if "cost" in networks[0] else None,
            max(each["still"]["frames"] if "still" in each else 0 for each in networks),
        )
    # where the frames behind figures are known by content, it does not matter where they lie
    moves = {"data"} if old is None or old.get("origins") else set()
    differences = [
        f"{key}: {there.get(key) or 'none'!s:.60} there, {facts.get(key) or 'none'!s:.60} now"
        for key in dict.fromkeys([*facts, *there])
        if key not in moves and there.get(key) != facts.get(key)
    ]
    if differences:
        raise UserError(
            f"{out} holds another evaluation ({'; '.join(differences[:4])}); choose another --out, "
            "or give --overwrite"
        )
    if old:
        for name, sha256 in old.get("files", {}).items():
            if (out / name).is_file():  # pictures may have gone, to make space
                refuse_changed(out / name, sha256)
        refuse_other_frames(setup.by_key, setup.degradation, [(out, old.get("origins", {}))])
    return old


def _facts(
    defined: Definition,
    hashes: Mapping[str, Any],
    lengths: Mapping[str, int],
    device: str | None,
    still: int,
) -> dict[str, Any]:
    """Return what tells evaluations apart: rules, networks by weights, frames, a cost's device.

    hashes: network -> sha256 of its weights; lengths: clip -> number of its scored frames.
    """
    return {
        **results.identity(defined),
        **{f"network {name}": sha256 or "no weights" for name, sha256 in hashes.items()},
        **{f"clip {key}'s frames": count for key, count in lengths.items()},
        "cost on": device,
        "still frames": still,
    }


def _set_up(job: Evaluation) -> EvaluationSetup:
    device = pick_device(job.device)
    keep_memory(device)
    asked = job.degradation
    job = replace(job, degradation=degradation_of(job.data, asked))
    nets, facts, teacher = load_networks(job, device)
    if not asked:
        trained = [each["degradation"] for each in facts.values()]
        job = replace(job, degradation=unless_trained(job.data, job.degradation, trained))
    how = agreed_degradation(job, facts, {**nets, **({"the teacher": teacher} if teacher else {})})
    scale, phase = degradation(how).scale, degradation(how).phase
    clips, rules, why = scored_footage(job.data, job.protocol, job.crop, how)
    tell_sizes({clip.key: clip for clip in clips}, check_sizes(clips, scale))
    for name, net in nets.items():
        warn_of_phase(name, net, facts[name], how, phase)
    scored = {clip.key: scored_frames(len(clip.frames), rules) for clip in clips}
    if "temporal" in job.metrics and max(map(len, scored.values())) < 2:
        raise UserError(
            f"temporal metrics need consecutive frames, but protocol {rules.name!r} scores one of "
            "each clip here: choose --protocol vid4 or longer clips"
        )
    if job.still and not any(isinstance(net, CausalNetwork) for net in nets.values()):
        raise UserError("--still follows causal networks, and none is measured: leave it out")
    shown = {clip.key for clip in clips[: job.pictures]} if job.out else set()
    return EvaluationSetup(job, device, nets, facts, teacher, how, clips, rules, why, scored, shown)


def _measure(setup: EvaluationSetup, log: FrameLog) -> None:
    """Measure the clips that are not in the log yet, and add each to it."""
    todo = [clip for clip in setup.clips if clip.key not in log.done]
    total = sum(len(setup.scored[clip.key]) for clip in todo)
    nets = [*setup.networks.values(), setup.teacher]
    k = max(frames_around(net) for net in nets if net is not None)
    causal = any(isinstance(net, CausalNetwork) for net in nets)
    lr = setup.degradation, setup.rules.lr_8bit

    def seen(clip: Clip) -> Sequence[int]:
        """Return the frames to run: those scored, and all before where there is a state."""
        scored = setup.scored[clip.key]
        return range(max(scored) + 1) if causal else scored

    stream = ((c, piece) for c in todo for piece in pieces(c, seen(c), k, *lr))
    with tqdm(total=total, unit="frame", desc="evaluate", disable=None) as bar:
        for clip, of_clip in groupby(ahead(stream), itemgetter(0)):
            rows: dict[str, list[Row]] = {name: [] for name in setup.networks}
            temporal = Temporal(setup.rules.crop) if "temporal" in setup.job.metrics else None
            runners = {name: ClipRunner(net) for name, net in setup.networks.items()}
            teacher = ClipRunner(setup.teacher) if setup.teacher else None
            for _, last in of_clip:
                for name, figures in _score(setup, clip, last, runners, teacher, temporal).items():
                    rows[name] += figures
                    scored = len(figures)
                bar.update(scored)
            read = span(clip, seen(clip), k)
            log.add(clip.key, rows, origin(clip, read, setup.degradation, last.crc32))


@torch.inference_mode()
def _score(
    setup: EvaluationSetup,
    clip: Clip,
    piece: Piece,
    runners: Mapping[str, ClipRunner],
    teacher: ClipRunner | None,
    temporal: Temporal | None,
) -> dict[str, list[Row]]:
    """Return the figures of a piece's scored frames, by network; save a picture of the middle."""
    job, middle = setup.job, len(clip.frames) // 2
    of_clip = set(setup.scored[clip.key])
    scored = [t for t in piece.centres if t in of_clip]
    shown = middle if clip.key in setup.shown and middle in piece.centres else None
    pictured = [] if shown is None else [shown]
    wanted = sorted({*scored, *pictured})
    how = piece, setup.device, job.amp
    results, made = {}, {}
    for name, runner in runners.items():
        sr, f_sr = super_resolve(runner, *how, wanted, shown)
        results[name] = _checked(sr, clip, piece)[[wanted.index(t) for t in scored]]
        if f_sr is not None:
            made[name] = sr[wanted.index(middle)].clone(), f_sr.clone()
    taught = None
    if clip.key in setup.shown and teacher:
        taught = super_resolve(teacher, *how, pictured, shown)[1]
    if shown is not None:
        _save_picture(setup, clip, piece, shown, made, taught)
    if not scored:
        return {name: [] for name in runners}
    hr = piece.hr[[piece.centres.index(t) for t in scored]].to(setup.device).float() / 255
    rows = score_frames(results, hr, setup.rules)
    if temporal:
        for frame, truth in enumerate(rounded(hr, setup.rules)):
            compared = {name: rounded(sr[frame], setup.rules) for name, sr in results.items()}
            for name, figures in temporal.next(truth, compared).items():
                rows[name][frame] |= figures
    for of_network in rows.values():
        for row, t in zip(of_network, scored, strict=True):
            row["frame"] = t
    return rows


def super_resolve(
    runner: ClipRunner,
    piece: Piece,
    device: torch.device,
    amp: str = "none",
    wanted: Sequence[int] | None = None,
    shown: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return sr (n, 3, H, W) of a piece's centres, equal to the whole clip's, or of those wanted;
    and F^SR (C, H, W) of the one that is shown. A causal network runs over all the same."""
    wanted = piece.centres if wanted is None else list(wanted)
    centres = piece.centres if isinstance(runner.net, CausalNetwork) else wanted
    if not centres:
        return piece.lr[:0], None
    lr, first = piece.around(frames_around(runner.net))
    f_sr = None
    with autocast(device, amp):
        if shown is None:
            sr = runner.sr(lr.to(device)[None], first, centres)
        else:
            sr, f_sr = runner.sr_and_map(lr.to(device)[None], first, centres, shown)
    return sr[0, [centres.index(t) for t in wanted]], f_sr


def _checked(sr: Tensor, clip: Clip, piece: Piece) -> Tensor:
    """Return the results in float32. UserError where one is not finite."""
    sr = sr.float()
    if not sr.isfinite().all():
        raise UserError(
            f"clip {clip.key}: the network's output is not finite near frame {piece.centres[0]}; "
            "check its weights, or leave fp16 for bf16"
        )
    return sr


def _save_picture(
    setup: EvaluationSetup,
    clip: Clip,
    piece: Piece,
    frame: int,
    shown: Mapping[str, Any],
    taught: Tensor | None,
) -> None:
    """Write one picture: LR, each network's SR, HR, each one's attention, the teacher's last.

    shown: network -> SR and F^SR, a tensor each, of that frame. taught: the teacher's F^SR.
    A network without F^SR has no attention.
    """
    assert setup.job.out
    ends = {name: f", {name}" if len(shown) > 1 else "" for name in shown}
    maps = {f"attention{ends[name]}": f_sr for name, (_, f_sr) in shown.items() if len(f_sr)}
    if taught is not None and len(taught):
        maps["attention, teacher"] = taught
    columns = {
        "LR": to_pixels(piece.lr[frame - piece.first]),
        **{f"SR{ends[name]}": to_pixels(sr) for name, (sr, _) in shown.items()},
        "HR": to_pixels(piece.hr[piece.centres.index(frame)] / 255),
        **{label: attention_map(f_sr.float()).cpu().numpy() for label, f_sr in maps.items()},
    }
    file = f"{clip.key.replace('/', '_')}.png"
    save_comparison(setup.job.out / UNFINISHED / "pictures" / file, columns)


def _report(setup: EvaluationSetup, name: str, log: FrameLog) -> NetworkResult:
    """Return one network's part of the result."""
    facts, clips = setup.facts[name], log.networks[name]
    means = results.averages({clip.key: clips[clip.key] for clip in setup.clips}, setup.figures)
    report: NetworkResult = {
        "name": name,
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
        report["cost"] = _cost(setup, setup.networks[name])
    if setup.job.still and isinstance(net := setup.networks[name], CausalNetwork):
        report["still"] = _still(setup, net)
    return report


@torch.inference_mode()
def _still(setup: EvaluationSetup, net: CausalNetwork) -> Still:
    """Run a causal network over each clip's middle frame, given again and again."""
    curves = {}
    for clip in tqdm(setup.clips, unit="clip", desc="still", disable=None):
        lr = setup.degradation, setup.rules.lr_8bit
        (piece,) = pieces(clip, [len(clip.frames) // 2], 0, *lr)
        hr = piece.hr.to(setup.device).float() / 255
        images = still_images(net, piece.lr.to(setup.device), setup.device, setup.job.amp)
        curves[clip.key] = still_psnr(images, hr, setup.rules, setup.job.still)
    return still_figures(curves)


def _cost(setup: EvaluationSetup, net: Network) -> Cost:
    net = folded(net)  # as it is exported

    def run(*inputs: Tensor) -> None:
        with autocast(setup.device, setup.job.amp):
            net(*inputs)

    shapes = net.input_shapes(HEIGHT, WIDTH)
    frames = net.num_frame if net.kind == "clip" else 1
    macs, timed = count_macs(net), running_cost(net, shapes, frames, setup.device, run)
    counts = {"parameters": count_parameters(net), "macs": macs.total}
    return cast(Cost, {**counts, "sampling_macs": macs.sampling, **timed, "amp": setup.job.amp})
