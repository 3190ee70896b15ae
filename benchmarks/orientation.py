"""How wrong is a cached map that is flipped afterwards, against one cached in that orientation?

python benchmarks/orientation.py [--json]
Runs the embedded teacher on the embedded held-out clips in all eight orientations, and compares its
features with the upright ones, flipped and turned: relative RMSE of f_sr and of the attention map.
int8's own error stands beside it.
"""

import argparse
import json
import statistics
from importlib.resources import files
from pathlib import Path

import torch
from timing import machine

from stdpipe.data.layouts import find_clips
from stdpipe.data.samples import read_frames, view_pair
from stdpipe.data.views import NUM_ORIENTATIONS, View, orient
from stdpipe.distill.attention import attention_map
from stdpipe.features.encoding import encoding_error, relative_rmse
from stdpipe.features.teacher import teacher_features
from stdpipe.models.checkpoints import load_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    assets = Path(str(files("stdpipe.assets")))
    teacher, facts = load_network(None, str(assets / "teacher.pt"))
    teacher.eval()
    rows: dict[str, list[float]] = {"f_sr": [], "attention": [], "int8 f_sr": []}
    for clip in find_clips(assets / "sample", "test"):
        hr = read_frames(clip).hr
        upright = None
        for orientation in range(NUM_ORIENTATIONS):
            _, lr = view_pair(hr, View(clip.key, orientation), str(facts["degradation"]))
            features = teacher_features(teacher, lr, torch.device("cpu"), "none")
            if upright is None:
                upright = features.f_sr
                error = encoding_error(teacher, features, lr, "int8")
                rows["int8 f_sr"].append(error["f_sr_rmse"])
                continue
            turned = orient(upright, orientation)
            rows["f_sr"].append(relative_rmse(turned, features.f_sr))
            maps = attention_map(turned), attention_map(features.f_sr)
            rows["attention"].append(relative_rmse(*maps))
    ratios = {
        f"{name} {what}": function(values)
        for name, values in rows.items()
        for what, function in (("median", statistics.median), ("max", max))
    }
    settings = {"teacher": facts["network"], "orientations": NUM_ORIENTATIONS - 1, "clips": 3}
    if arguments.json:
        result = {"machine": machine(), "settings": settings, "ratios": ratios}
        print(json.dumps({"name": "orientation", **result}, indent=2))
        return
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.1%}")


if __name__ == "__main__":
    main()
