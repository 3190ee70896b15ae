"""stdpipe from Python: the commands as functions, for networks that are loaded or your own.

The names of stdpipe/__init__.py. CachedClips, Distillation and open_cache are defined where they
are; the functions here are the commands' verbs with keywords in place of a job.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stdpipe import evaluate, extract, upscale
from stdpipe.assets import EMBEDDED, TEACHER
from stdpipe.data.degrade import degradation as named_degradation
from stdpipe.evaluation.job import Evaluation
from stdpipe.features.extraction import Extraction
from stdpipe.models import checkpoints
from stdpipe.models.base import Network
from stdpipe.models.given import Given, given_network

Place = str | os.PathLike[str]


def extract_teacher(
    data: Place,
    cache: Place,
    *,
    weights: Place | None = None,
    teacher: str | None = None,
    targets: Sequence[str] | None = None,
    progress: Callable[[int, int], object] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Run a teacher once over a training set, and write its maps to a cache; resume one.

    data: a folder or file that every command takes as --data. cache: a path, or the URL of an
    object store. weights: a file, "random:SEED", or "embedded", the small EDVR that comes with
    stdpipe. teacher: the network's name, where the file does not say it. targets: some of "sr",
    "f_sr", "attention", "f_lr". progress: called after each clip with the numbers of clips that are
    done and to be done, in place of a bar. options: degradation, encoding, orientations, seed,
    batch, device, amp and the other fields of stdpipe.features.extraction.Extraction.

    Returns what `extract-teacher --json` prints: cache_id, entries, missing, bytes, the teacher's
    quality. Raises UserError, or OSError, in one line; what is written stays, and the same call
    goes on with it.

        stdpipe.extract_teacher("data", "c.zarr", weights="embedded", orientations=2)
    """
    return extract.extract_teacher(
        Extraction(
            Path(data),
            os.fspath(cache),
            teacher,
            _file(weights),
            targets=tuple(targets) if targets else None,
            progress=progress,
            **options,
        )
    )


def load_network(
    weights: Place | None = None, network: str | None = None, *, degradation: str = "bd"
) -> Network:
    """Return a network with its weights, in evaluation mode, on the CPU.

    weights: a file of stdpipe's or, with its name, of others; "random:SEED"; "embedded"; or None
    for a network without parameters. network: its name with options, as `stdpipe models` lists
    them, or "module:Class" of your own. degradation: of the LR that random weights are
    made for.

    `features_clip(lr)` returns f_lr, trunk, f_sr and sr of a clip (B, T, 3, h, w) in [0, 1];
    `forward_clip(lr)` the images alone. Raises UserError where weights and name do not fit.

        network = stdpipe.load_network("runs/a/weights.pt")
        network = stdpipe.load_network("random:0", "rrn:head=f_sr")
    """
    phase = named_degradation(degradation).phase
    return checkpoints.load_network(network, _file(weights), phase)[0].eval()


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

    network: from load_network, a file of weights, or any function or module that makes images
    (B, T, 3, 4h, 4w) of LR clips (B, T, 3, h, w), RGB in [0, 1], which then sees whole clips. A
    module is copied; yours stays as it is. degradation: as the weights say, else `bd`. The other
    keywords are those of `stdpipe evaluate`.

    Returns what `evaluate --json` prints: `average` and `clips` with "psnr_y", "ssim_y", ... Raises
    UserError for clips that cannot be measured and for a network that makes other sizes.

        stdpipe.evaluate_network(student, "vid4", protocol="vid4")["average"]["psnr_y"]
    """
    job = Evaluation(
        Path(data),
        network=given_network(network),
        degradation=degradation,
        protocol=protocol,
        metrics=tuple(metrics),
        still=still,
        device=device,
        amp=amp,
    )
    return evaluate.evaluate(job)


def upscale_video(
    source: Place, out: Place, network: Given, *, device: str = "auto", amp: str = "none",
    **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Super-resolve a video or a folder of frames by 4, whatever its length.

    network: as evaluate_network takes it; a function that sees whole clips is given 48 frames at a
    time. options: tile, fps, crf and overwrite, as `stdpipe upscale` explains them.

    Returns what `upscale --json` prints. Raises UserError, or OSError, and leaves `out` as it was.

        stdpipe.upscale_video("in.mp4", "out.mp4", network)
    """
    given = given_network(network)
    return upscale.upscale(
        upscale.Upscaling(Path(source), Path(out), network=given, device=device, amp=amp, **options)
    )


def _file(weights: Place | None) -> str | None:
    if weights is None:
        return None
    return str(TEACHER) if os.fspath(weights) == EMBEDDED else os.fspath(weights)
