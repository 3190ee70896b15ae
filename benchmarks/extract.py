"""Is the teacher run well, and does the rest of stage one hide behind it?

python benchmarks/extract.py [--json] [--teacher edvr-l] [--encoding float16] [--clips 2]
                             [--batch 1] [--size 112x64] [--repeats 3] [--device cpu]
                             needs torchvision
edvr-l_over_windows, edvr-m_over_windows: how many times faster features_clip of a 7-frame clip is
than BasicSR's way, one window after the other with torchvision's deformable convolution; the same
random weights, with offsets of some pixels, and the same F^SR and SR within 1e-4 of their largest
value.
stage_over_teacher: time of extract_teacher() from nothing to a finished cache, over that of the
teacher alone on the same clips in the same batches. 1 is the least.
The clips are the embedded ones, in turn, cropped to --size (of LR, at most 112x64).
About ten minutes on two cores; each ratio is told on stderr as it comes.
"""

import argparse
import copy
import importlib.util
import itertools
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import imageio.v3 as iio
import torch
import torch.nn.functional as F
from timing import medians, report

from stdpipe.cache import ENCODINGS
from stdpipe.data.layouts import find_clips
from stdpipe.device import keep_memory, pick_device, settle
from stdpipe.extract import extract_teacher, prepare
from stdpipe.features.extraction import Extraction
from stdpipe.features.teacher import group_features
from stdpipe.models import zoo
from stdpipe.models.base import Network, window_indices

FRAMES = 7
TOLERANCE = 1e-4


def reference() -> ModuleType:
    """The plain EDVR of the parity tests, with torch's own activation: by hand it is slower."""
    path = Path(__file__).parents[1] / "tests" / "parity" / "reference_edvr.py"
    spec = importlib.util.spec_from_file_location("reference_edvr", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.act = lambda x: F.leaky_relu(x, 0.1)  # type: ignore[attr-defined]
    return module


def network(name: str) -> Network:
    """Random weights; offsets, which begin as zero, are some pixels wide."""
    torch.manual_seed(0)
    net = zoo.parse(name).build().eval()
    for key, parameter in net.named_parameters():
        if "conv_offset" in key:
            torch.nn.init.normal_(parameter, std=2.0 if key.endswith("bias") else 0.01)
    return net


@torch.inference_mode()
def over_windows(
    name: str, size: tuple[int, int], repeats: int, device: torch.device
) -> tuple[float, float]:
    """How many times faster a clip is than its windows, and the largest difference of outputs."""
    net, theirs = network(name).to(device), reference()
    state = net.state_dict()  # settling copies, so theirs keeps torch's usual layout
    net = settle(copy.deepcopy(net), device)
    keep_memory(device)  # helps the baseline, too
    clip = torch.rand(1, FRAMES, 3, size[1], size[0], device=device)
    windows = window_indices(FRAMES, FRAMES, range(FRAMES))

    def one_by_one() -> list[dict[str, torch.Tensor]]:
        return [theirs.edvr(state, clip[:, window]) for window in windows]

    ours, each = net.features_clip(clip), one_by_one()
    worst = 0.0
    for stage, mine in (("f_sr", ours.f_sr[0]), ("sr", ours.sr[0])):
        true = torch.cat([one[stage] for one in each])
        worst = max(worst, float((mine - true).abs().max() / true.abs().max()))
    if not worst <= TOLERANCE:
        raise SystemExit(f"{name}: outputs differ by {worst:g}, more than {TOLERANCE:g}")
    seconds = medians({"clip": lambda: net.features_clip(clip), "windows": one_by_one}, repeats)
    return seconds["windows"] / seconds["clip"], worst


def write_clips(root: Path, size: tuple[int, int], count: int) -> Path:
    """`count` clips in Vimeo90K's layout, of `size` LR pixels."""
    sample = find_clips(Path(str(files("stdpipe.assets"))) / "sample", None)
    keys = [f"00001/{n:04d}" for n in range(1, count + 1)]
    for key, clip in zip(keys, itertools.cycle(sample), strict=False):
        folder = root / "sequences" / key
        folder.mkdir(parents=True)
        for number, frame in enumerate(clip.frames, start=1):
            iio.imwrite(folder / f"im{number}.png", iio.imread(frame)[: 4 * size[1], : 4 * size[0]])
    (root / "sep_trainlist.txt").write_text("\n".join(keys) + "\n")
    return root


def stage_over_teacher(root: Path, arguments: argparse.Namespace) -> float:
    data = write_clips(root / "data", arguments.size, arguments.clips)
    caches = root / "caches"
    numbers = itertools.count()

    def job() -> Extraction:
        return Extraction(
            data,
            str(caches / str(next(numbers))),
            arguments.teacher,
            "random:0",
            encoding=arguments.encoding,
            batch=arguments.batch,
            device=arguments.device,
        )

    ready = prepare(job())
    lrs = [ready.read(view)[0] for view in ready.views]
    groups = [lrs[i : i + ready.batch] for i in range(0, len(lrs), ready.batch)]

    def teacher() -> None:
        for group in groups:
            group_features(ready.teacher, group, ready.device, "none")

    baselines = {
        "stage": lambda: extract_teacher(job()),
        "teacher": teacher,
        "not counted": lambda: shutil.rmtree(caches),
    }
    seconds = medians(baselines, arguments.repeats)
    return seconds["stage"] / seconds["teacher"]


def lr_size(text: str) -> tuple[int, int]:
    width, height = (int(side) for side in text.split("x"))
    if not (4 <= width <= 112 and 4 <= height <= 64) or width % 4 or height % 4:
        raise ValueError(text)
    return width, height


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--teacher", default="edvr-l")
    parser.add_argument("--encoding", default="float16", choices=ENCODINGS)
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--size", type=lr_size, default=(112, 64), help="LR, sides multiples of 4, to 112x64"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    ratios, differences = {}, {}
    for name in ("edvr-l", "edvr-m"):
        found = over_windows(name, arguments.size, arguments.repeats, device)
        ratios[f"{name}_over_windows"], differences[f"{name}_largest_difference"] = found
        print(f"{name}_over_windows {found[0]:.2f}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        ratios["stage_over_teacher"] = stage_over_teacher(Path(folder), arguments)
    settings = {**vars(arguments), **differences, "threads": torch.get_num_threads()}
    del settings["json"]
    report("extract", settings, ratios, arguments.json)


if __name__ == "__main__":
    main()
