"""Read a clip from a cache without stdpipe: python read_cache.py CACHE CLIP@ORIENTATION OUT.npz"""

import json
import sys
from pathlib import Path

import numpy as np
import zarr

cache, entry, out = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
manifests = [json.loads(path.read_text()) for path in cache.glob("manifest*.json")]
newest = max(manifests, key=lambda manifest: manifest.get("times_grown", 0))
index = newest["entries"].index(entry)
arrays = zarr.open_group(cache, mode="r")
codes, scale = arrays["f_sr"][index], arrays["f_sr_scale"][index][:, :, None, None]
f_sr = codes * scale[0] + scale[1]  # (T, C, H, W), upright
attention = arrays["attention"][index].astype(np.float32)  # (T, H, W), upright
np.savez(out, f_sr=f_sr, attention=attention)
