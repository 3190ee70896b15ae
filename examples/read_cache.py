"""Read a clip from a cache without stdpipe: python read_cache.py CACHE CLIP@ORIENTATION OUT.npz"""

import json
import sys
from pathlib import Path

import numpy as np
import zarr

cache, entry, out = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
manifests = [json.loads(path.read_text()) for path in cache.glob("manifest*.json")]
newest = max(manifests, key=lambda manifest: manifest.get("times_grown", 0))
marks = [json.loads(path.read_text()) for path in cache.glob("complete*.json")]
done = max(marks, key=lambda mark: (mark["entries"], len(mark.get("targets", ()))))  # no others
groups = newest.get("groups", {})  # clips of other sizes than the first, each in its folder
taken = {place for group in groups.values() for place in group["places"]}
free = [n for n in range(len(newest["entries"]) + len(taken)) if n not in taken]
groups = {"": {"entries": newest["entries"], "places": free}, **groups}
folder = next(name for name, group in groups.items() if entry in group["entries"])
index = groups[folder]["entries"].index(entry)
assert groups[folder]["places"][index] < done["entries"], f"{entry} is not finished"
arrays, targets = zarr.open_group(cache / folder, mode="r"), done.get("targets", newest["targets"])
maps = {name: arrays[name][index] for name in targets if name in arrays}  # upright
if "f_sr" in maps and "f_sr_scale" in arrays:  # int8
    scale = arrays["f_sr_scale"][index][:, :, None, None]
    maps["f_sr"] = maps["f_sr"] * scale[0] + scale[1]
np.savez(out, **maps)
