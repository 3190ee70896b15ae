"""Measure a network on a data set, by a named protocol, and show a few frames.

setup -> loop over clips (super-resolve a few frames at a time, score them) -> report.
Axes: T frames of a clip, H W HR size, h w LR size.
"""

import csv
import dataclasses
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from stdpipe import runs
from stdpipe.data.clips import read_frames
from stdpipe.data.degrade import degradation, degrade
from stdpipe.data.layouts import Clip, find_clips
from stdpipe.distill.attention import attention_map
from stdpipe.evaluation.pictures import save_comparison
from stdpipe.evaluation.protocols import Protocol, protocol, score, scored_frames
from stdpipe.models.base import Features, Network
from stdpipe.models.checkpoints import load_network, trained_for

METRICS = ("psnr_y", "ssim_y")
LOG = logging.getLogger(__name__)

CHUNK = 4  # frames super-resolved at once: bounds memory, and lets windows share work


@dataclass(frozen=True)
class Evaluation:
    """What to measure, on what, by which rules."""

    data: Path
    model: str | None = None
    """Network's name; None where the weights file says it."""
    weights: str | None = None
    degradation: str | None = None
    """None takes what the weights were trained for, or `bd`."""
    protocol: str = "vid4"
    out: Path | None = None
    """Where results and pictures go; None writes nothing."""
    teacher: str | None = None
    teacher_weights: str | None = None
    """A second network whose attention is shown in the pictures."""
    pictures: int = 4
    """Clips of which the middle frame is shown."""
    device: str = "auto"
    amp: str = "none"


def evaluate(job: Evaluation) -> dict[str, Any]:
    """Returns the result as JSON has it: average, clips, and the whole definition behind them."""
    device = runs.pick_device(job.device)
    rules = protocol(job.protocol)
    phase = degradation(job.degradation or "bd").phase
    net, facts = load_network(job.model, job.weights, phase)
    teacher = _teacher(job, phase)
    for each in (net, teacher):
        if each is not None and each.sees_hr:
            raise ValueError(
                "pisr is shown HR, so its output measures nothing; train-student --init takes the "
                "network in it, which can be measured"
            )
    name = job.degradation or trained_for(facts, None)
    if facts["degradation"] not in (None, name):
        LOG.warning("stdpipe: trained for %s, measured under %s", facts["degradation"], name)
    clips = find_clips(job.data, "test")
    for each in (net, teacher):
        if each is not None:
            each.to(device).eval()
    frames = {}
    for number, clip in enumerate(tqdm(clips, unit="clip", desc="evaluate", disable=None)):
        frames[clip.key] = _score_clip(net, clip, name, rules, device, job.amp)
        if job.out and number < job.pictures:
            path = job.out / "pictures" / f"{clip.key.replace('/', '_')}.png"
            _show(net, teacher, clip, name, path, device)
    result = {
        "model": facts["network"],
        "weights": facts["weights"],
        "weights_sha256": facts["sha256"],
        "trained_for": facts["degradation"],
        "data": str(job.data),
        "degradation": {"name": name, "text": degradation(name).text},
        "protocol": dataclasses.asdict(rules),
        **_averages(frames),
    }
    if job.out:
        _write(job.out, result, frames)
    return result


def _teacher(job: Evaluation, phase: float) -> Network | None:
    if job.teacher is None and job.teacher_weights is None:
        return None
    return load_network(job.teacher, job.teacher_weights, phase)[0]


def _score_clip(
    net: Network, clip: Clip, name: str, rules: Protocol, device: torch.device, amp: str
) -> dict[str, list[float]]:
    """psnr_y and ssim_y of each scored frame, and its number in the clip."""
    hr, height, width, _ = read_frames(clip)
    lr = degrade_clip(hr, name, rules.lr_8bit)
    hr = hr[..., :height, :width]
    by_chunk = dataclasses.replace(rules, skip=0, frames="all")
    scores: dict[str, list[float]] = {"frame": [], **{metric: [] for metric in METRICS}}
    for centres, features in super_resolve(net, lr, scored_frames(len(hr), rules), device, amp):
        sr = features.sr[..., :height, :width].float()
        if not sr.isfinite().all():
            raise ValueError(
                f"clip {clip.key}: the network's output is not finite near frame {centres[0]}; "
                "check its weights, or leave fp16 for bf16"
            )
        part = score(sr, hr[centres].to(device).float() / 255, by_chunk)
        scores["frame"] += centres
        for metric, values in part.items():
            scores[metric] += values
    return scores


def degrade_clip(hr: Tensor, name: str, eight_bit: bool) -> Tensor:
    """`degrade`, a few frames at a time, since it works in float64."""
    return torch.cat([degrade(part, name, eight_bit) for part in hr.split(CHUNK)])


@torch.inference_mode()
def super_resolve(
    net: Network, lr: Tensor, centres: Sequence[int], device: torch.device, amp: str = "none"
) -> Iterator[tuple[list[int], Features]]:
    """Features of the given centres of a clip (T, 3, h, w), CHUNK at a time: each (n, C, ., .).

    A chunk sees its neighbours beyond both ends, so the output is that of the whole clip.
    """
    k = net.num_frame // 2
    for at in range(0, len(centres), CHUNK):
        chunk = list(centres[at : at + CHUNK])
        first, last = max(chunk[0] - k, 0), min(chunk[-1] + k, len(lr) - 1)
        frames = lr[first : last + 1].to(device)
        with runs.autocast(device, amp):
            features = net.features_clip(frames[None], [c - first for c in chunk])
        yield chunk, Features(*(x[0] for x in features))


def _averages(frames: Mapping[str, Mapping[str, list[float]]]) -> dict[str, Any]:
    """Mean over a clip's frames, then over clips; clips without a finite PSNR are named apart."""
    clips = {
        key: {metric: _mean(scores[metric]) for metric in METRICS}
        | {"frames": len(scores["psnr_y"])}
        for key, scores in frames.items()
    }
    excluded = [key for key, row in clips.items() if row["psnr_y"] is None]
    finite = {m: [c[m] for c in clips.values() if c[m] is not None] for m in METRICS}
    average = {m: _mean(values) if values else None for m, values in finite.items()}
    return {"average": average, "excluded": excluded, "clips": clips}


def _mean(values: Sequence[float | None]) -> float | None:
    """None (JSON has no infinity) where some frame equals its HR exactly."""
    finite = [v for v in values if v is not None and math.isfinite(v)]
    return math.fsum(finite) / len(finite) if len(finite) == len(values) else None


def _show(
    net: Network,
    teacher: Network | None,
    clip: Clip,
    name: str,
    path: Path,
    device: torch.device,
) -> None:
    """One picture: LR, SR, HR and the attention maps of the clip's middle frame."""
    hr = read_frames(clip).hr
    lr = degrade_clip(hr, name, eight_bit=True)
    t = len(hr) // 2
    _, features = next(super_resolve(net, lr, [t], device))
    columns = {
        "LR": _pixels(lr[t]),
        "SR": _pixels(features.sr[0]),
        "HR": _pixels(hr[t] / 255),
        "attention": attention_map(features.f_sr[0]).cpu().numpy(),
    }
    if teacher is not None:
        _, of_teacher = next(super_resolve(teacher, lr, [t], device))
        columns["attention, teacher"] = attention_map(of_teacher.f_sr[0]).cpu().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_comparison(path, columns, crop=True)


def _pixels(image: Tensor) -> Any:
    """(3, H, W) in [0, 1] -> uint8 (H, W, 3)."""
    return (image.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def _write(out: Path, result: Mapping[str, Any], frames: Mapping[str, Any]) -> None:
    """result.json, frames.csv and table.md."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    (out / "table.md").write_text(table(result) + "\n")
    with (out / "frames.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["clip", "frame", *METRICS])
        for key, scores in frames.items():
            columns = (scores[name] for name in ("frame", *METRICS))
            rows.writerows([key, *values] for values in zip(*columns, strict=True))


def _mismatch(result: Mapping[str, Any]) -> list[str]:
    trained, measured = result["trained_for"], result["degradation"]["name"]
    return [] if trained in (None, measured) else [f"WARNING: it was trained for {trained}"]


def table(result: Mapping[str, Any]) -> str:
    """A Markdown table of one result, with the rules it was measured by."""
    lines = [
        f"{result['model']} on {result['data']}",
        f"degradation {result['degradation']['name']}: {result['degradation']['text']}",
        f"protocol {result['protocol']['name']}: {result['protocol']['text']}",
        *_mismatch(result),
        "",
        "| clip | PSNR Y (dB) | SSIM Y |",
        "| --- | ---: | ---: |",
    ]
    for key, row in [*result["clips"].items(), ("average", result["average"])]:
        psnr = "inf" if row["psnr_y"] is None else f"{row['psnr_y']:.3f}"
        lines.append(f"| {key} | {psnr} | {row['ssim_y']:.4f} |")
    return "\n".join(lines)
