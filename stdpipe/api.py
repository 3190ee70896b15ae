"""stdpipe from Python: the commands as functions, for networks that are loaded or your own.

The names of stdpipe/__init__.py. CachedClips, Distillation and open_cache are defined where they
are; the functions here are the commands' verbs with keywords in place of a job.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from stdpipe import evaluate, extract, upscale
from stdpipe.assets import named
from stdpipe.cache import schema
from stdpipe.cache.errors import UserError
from stdpipe.data import degrade
from stdpipe.data.camera import record
from stdpipe.data.pairs import degradation_of
from stdpipe.evaluation.job import Evaluation
from stdpipe.features.extraction import Extraction
from stdpipe.models import checkpoints
from stdpipe.models.base import Network, check_scale
from stdpipe.models.given import given_network
from stdpipe.suggest import refuse_text

Place = str | os.PathLike[str]
"""A path, or a URL where the cache may lie in an object store."""
Given = Network | Callable[[Tensor], Any] | Place
"""A network from load_network, a function of LR clips, or a file of weights."""


def extract_teacher(
    data: Place,
    cache: Place,
    *,
    weights: Place | None = None,
    teacher: str | None = None,
    targets: Sequence[str] | None = None,
    degradation: str | None = None,
    encoding: str | None = None,
    orientations: int = 1,
    ensemble: bool = False,
    compression: str | None = None,
    views: str = "full",
    baked: int = 4,
    patch: int = 256,
    seed: int = 0,
    part: tuple[int, int] | None = None,
    batch: int | None = None,
    device: str = "auto",
    amp: str = "none",
    accept_teacher: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Run a teacher once over a training set, and write its maps to a cache; resume one.

    data: a folder or file that every command takes as --data. cache: a path, or the URL of an
    object store. weights: a file, "random:SEED", or "embedded", the small EDVR that comes with
    stdpipe. teacher: the network's name, where the file does not say it. targets: some of "sr",
    "f_sr", "attention", "f_lr". progress: called after each view of a clip with how many are done,
    and of how many, in place of a bar. The other keywords are those of `stdpipe extract-teacher`;
    part is (i, n), counted from 0.

    Returns what `extract-teacher --json` prints: cache_id, entries, missing, bytes, the teacher's
    quality. Raises UserError, or OSError, in one line; what is written stays, and the same call
    goes on with it.

        stdpipe.extract_teacher("data", "c.zarr", weights="embedded")
    """
    refuse_text(targets, "targets")
    given = {
        "data": Path(data),
        "cache": os.fspath(cache),
        "teacher": teacher,
        "weights": _file(weights),
        "degradation": degradation,
        "encoding": encoding,
        "targets": tuple(targets) if targets else None,
        "ensemble": ensemble,
        "compression": compression,
        "views": views,
        "orientations": orientations,
        "baked": baked,
        "patch": patch,
        "seed": seed,
        "part": part,
        "batch": batch,
        "device": device,
        "amp": amp,
        "accept_teacher": accept_teacher,
        "progress": progress,
    }
    job = schema.check(Extraction, given, "extract_teacher", strict=False)
    return extract.extract_teacher(job)


def load_network(
    weights: Place | None = None, network: str | None = None, *, degradation: str | None = None
) -> Network:
    """Return a network with its weights, in evaluation mode, on the CPU.

    weights: a file of stdpipe's or, with its name, of others; "random:SEED"; "embedded"; or None
    for a network without parameters. network: its name with options, as `stdpipe models` lists
    them, or "module:Class" of your own. degradation: what random weights are made for (`bd` unless
    given), and what those of others were trained for, which their files do not say.

    `features_clip(lr)` returns f_lr, trunk, f_sr and sr of a clip (B, T, 3, h, w) in [0, 1];
    `forward_clip(lr)` the images alone. Raises UserError where weights and name, or the
    degradation, do not fit.

        network = stdpipe.load_network("runs/a/weights.pt")
        network = stdpipe.load_network("random:0", "rrn:head=f_sr")
    """
    phase = degrade.degradation(degradation or "bd").phase
    net, facts = checkpoints.load_network(network, _file(weights), phase)
    is_random = str(facts["weights"]).startswith("random:")
    if degradation or is_random:
        known = checkpoints.trained_for(facts, degradation, degrade.at_scale("bd", net.factor))
        check_scale(net, facts["network"], known, degrade.degradation(known).scale)
        net.facts = {**facts, "degradation": known}
    return net.eval()


def evaluate_network(
    network: Given,
    data: Place,
    protocol: str | None = None,
    *,
    degradation: str | None = None,
    metrics: Sequence[str] = ("quality",),
    still: int = 0,
    device: str = "auto",
    amp: str = "none",
) -> dict[str, Any]:
    """Measure a network on the test clips of a data set by a named protocol.

    network: a file of weights, a network from load_network, or any function or module that makes
    images (B, T, 3, s h, s w) of LR clips (B, T, 3, h, w), RGB in [0, 1], s the degradation's
    scale, which then sees whole clips. A module is copied; yours stays as it is. degradation: as
    the weights say, and `bd` for a function: give what its clips were made by. The other keywords
    are those of `stdpipe evaluate`.

    Returns what `evaluate --json` prints: `average` and `clips` with "psnr_y", "ssim_y", ... Of a
    network that is loaded, it tells no sha256. Raises UserError for clips that cannot be measured
    and for a network that makes other sizes.

        stdpipe.evaluate_network(student, "vid4", protocol="vid4")["average"]["psnr_y"]
    """
    refuse_text(metrics, "metrics")
    how = degradation_of(Path(data), degradation)
    given = {
        "data": Path(data),
        **_network(network, degrade.degradation(how or "bd").scale),
        "degradation": degradation,
        "protocol": protocol,
        "metrics": tuple(metrics),
        "still": still,
        "device": device,
        "amp": amp,
    }
    job = schema.check(Evaluation, given, "evaluate_network", strict=False)
    return evaluate.evaluate(job)


def upscale_video(
    source: Place,
    out: Place,
    network: Given | None = None,
    *,
    scale: int = 4,
    tile: int | None = None,
    fps: float | None = None,
    crf: int = 12,
    scene_cuts: str = "on",
    deinterlace: bool = False,
    partial: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    amp: str = "none",
) -> dict[str, Any]:
    """Super-resolve a video or a folder of frames, whatever its length.

    network: as evaluate_network takes it, or None for the student that comes with stdpipe; a
    function that sees whole clips is given 48 frames at a time. scale: what a function enlarges by;
    a network of ours says it itself. The other keywords are those of `stdpipe upscale`.

    Returns what `upscale --json` prints. Raises UserError, or OSError, and leaves `out` as it was.

        stdpipe.upscale_video("in.mp4", "out.mp4", network)
    """
    given = {
        "source": Path(source),
        "out": Path(out),
        **({} if network is None else _network(network, scale)),
        "tile": tile,
        "fps": fps,
        "crf": crf,
        "scene_cuts": scene_cuts,
        "deinterlace": deinterlace,
        "partial": partial,
        "overwrite": overwrite,
        "device": device,
        "amp": amp,
    }
    job = schema.check(upscale.Upscaling, given, "upscale_video", strict=False)
    return upscale.upscale(job)


def degrade_clip(hr: Tensor, degradation: str = "bd", key: str = "") -> Tensor:
    """Make the LR of a clip as stdpipe does: (T, 3, H, W) -> float32 (T, 3, h, w) in [0, 1].

    degradation: `bi`, `bd`, `bd-centred`, `camera`, or with options: `bi:scale=2`. key: the clip's
    name, by which a camera's noise is drawn. hr: uint8, or float in
    [0, 1], whose sides are multiples of the scale: whole frames, flipped and turned already; crop
    afterwards, since LR at a crop's border depends on what lies beyond. Values are
    rounded to 8 bits, as in files on disk. Raises UserError for an unknown degradation and for
    other shapes.

        lr = stdpipe.degrade_clip(torch.rand(7, 3, 64, 64), "bd")
    """
    how = degrade.degradation(degradation)
    scale = how.scale
    if hr.ndim != 4 or hr.shape[1] != 3 or hr.shape[-2] % scale or hr.shape[-1] % scale:
        asked = f"(T, 3, H, W), sides multiples of {scale}"
        raise UserError(f"a clip should be {asked}, got {tuple(hr.shape)}")
    if how.is_given:
        raise UserError(f"{degradation} is LR that lies on disk: name a degradation that makes it")
    if not how.camera:
        return degrade.degrade(hr, degradation)
    sampled = degrade.degrade(hr, degradation, eight_bit=False) * 255
    return record(sampled, how.camera, key).float() / 255


def _network(network: Given, scale: int) -> dict[str, Any]:
    """Return how a job names a network: by its file, as the command does, or as it is; scale: of a
    function."""
    if isinstance(network, str | os.PathLike):
        return {"weights": _file(network)}
    return {"network": given_network(network, scale)}


def _file(weights: Place | None) -> str | None:
    return None if weights is None else named(os.fspath(weights))
