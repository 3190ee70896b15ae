"""How fast are our metrics, and a whole evaluation, against scikit-image frame by frame?

python benchmarks/evaluate.py [--data VID4/GT] [--json]     needs scikit-image
A ratio is ours over theirs in frames per second, so above 1 ours is faster; both compute PSNR and
SSIM of Y and RGB of the same frames, and what they find must agree. `metrics`: given results and
HR. `bicubic`: reading, degrading (bi) and super-resolving, too. Without --data, the embedded clips.
"""

import argparse
from collections.abc import Iterator
from importlib.resources import files
from itertools import islice
from pathlib import Path

import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from timing import medians, report
from torch import Tensor

from stdpipe.data.box import Box
from stdpipe.data.degrade import degrade
from stdpipe.data.frames import frame_size
from stdpipe.data.layouts import find_clips
from stdpipe.data.samples import read_frames
from stdpipe.evaluate import evaluate
from stdpipe.evaluation.job import Evaluation
from stdpipe.evaluation.metrics import QUALITY, luma
from stdpipe.evaluation.protocols import PROTOCOLS, score_frames
from stdpipe.models.bicubic import Bicubic

SSIM = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}


def theirs(sr: Tensor, hr: Tensor) -> list[float]:
    """QUALITY of one frame by scikit-image: (3, H, W) in [0, 1], as protocol vid4 rounds them."""
    pair = [x.double().clamp(0, 1).mul(255).round() for x in (sr, hr)]
    rgb = [x.permute(1, 2, 0).numpy() for x in pair]
    y = [luma(x / 255).numpy() for x in pair]
    return [
        peak_signal_noise_ratio(*y, data_range=255),
        structural_similarity(*y, **SSIM),
        peak_signal_noise_ratio(*rgb, data_range=255),
        structural_similarity(*rgb, channel_axis=2, **SSIM),
    ]


def bicubic(data: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """SR and HR, frame by frame, (3, H, W)."""
    net = Bicubic()
    for clip in find_clips(data, "test"):
        frames = read_frames(clip)
        for frame in frames.hr:
            sr = net(degrade(frame[None], "bi")[None])[0]
            inside = Box(0, 0, *frame_size(clip)).cut()
            yield sr[inside], frame[inside].float() / 255


def ours_on(pairs: list[tuple[Tensor, Tensor]]) -> list[list[float]]:
    """QUALITY of each frame, as evaluate computes it."""
    found = [
        score_frames({"sr": sr[None]}, hr[None], PROTOCOLS["vid4"])["sr"][0] for sr, hr in pairs
    ]
    return [[row[name] for name in QUALITY] for row in found]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(str(files("stdpipe.assets") / "sample")))
    parser.add_argument("--frames", type=int, default=8, help="for the metrics alone")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    pairs = list(islice(bicubic(arguments.data), arguments.frames))
    ours, expected = ours_on(pairs), [theirs(*pair) for pair in pairs]
    agree = torch.tensor(ours, dtype=torch.float64) - torch.tensor(expected, dtype=torch.float64)
    assert agree.abs().max() < 1e-9, agree
    job = Evaluation(arguments.data, "bicubic", degradation="bi", protocol="vid4", device="cpu")
    metrics = medians(
        {"ours": lambda: ours_on(pairs), "skimage": lambda: [theirs(*pair) for pair in pairs]},
        arguments.repeats,
    )
    whole = medians(
        {
            "ours": lambda: evaluate(job),
            "skimage": lambda: [theirs(*pair) for pair in bicubic(arguments.data)],
        },
        arguments.repeats,
    )
    num_frames = sum(len(clip.frames) for clip in find_clips(arguments.data, "test"))
    ratios = {
        "ours_over_skimage_metrics": metrics["skimage"] / metrics["ours"],
        "ours_over_skimage_bicubic": whole["skimage"] / whole["ours"],
    }
    settings = {
        "data": arguments.data.name,
        "height_width": list(pairs[0][1].shape[-2:]),
        "frames": num_frames,
        "threads": torch.get_num_threads(),
        "repeats": arguments.repeats,
        "ours_metrics_frames_per_s": len(pairs) / metrics["ours"],
        "ours_bicubic_frames_per_s": num_frames / whole["ours"],
    }
    report("evaluate", settings, ratios, arguments.json)


if __name__ == "__main__":
    main()
