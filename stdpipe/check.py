"""Compare a few clips of a cache with what the live teacher makes of them.

Features are read as a student reads them, through CachedTargets and Decoder, in whole views. `cache
verify` checks bytes; this finds a clip that was read, turned or computed differently.
Axes: T frames of a clip, H W HR size.
"""

from collections import Counter
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from stdpipe import cache
from stdpipe.cache.errors import UserError
from stdpipe.data import named
from stdpipe.data.box import Box
from stdpipe.data.frames import Clip
from stdpipe.data.pairs import find_pairs
from stdpipe.data.samples import read_frames
from stdpipe.data.views import View, generator, view_hr
from stdpipe.device import pick_device, settle
from stdpipe.distill.attention import attention_map
from stdpipe.features.encoding import relative_rmse
from stdpipe.features.info import provenance
from stdpipe.features.targets import CachedTargets, Decoder
from stdpipe.features.teacher import PLAIN, ensemble, seen_frames, teacher_features
from stdpipe.models import zoo
from stdpipe.models.base import Network
from stdpipe.models.checkpoints import file_sha256, load_network
from stdpipe.models.luma import own_image
from stdpipe.templates import markdown_table, one_line

HALF_STEP = {"float32": 0.0, "float16": 2.0**-11}  # of a stored attention map, relative
MARGIN = 3.0  # clips differ: a clip's error may be so many times that of the measured clip
# What another device, batch or thread count may change, by mixed precision. The embedded teacher
# differs by 2e-7 between batches and thread counts, 2e-3 from float32 to fp16, 1.1e-2 to bf16.
ROUNDING = {"none": 1e-4, "fp16": 1e-2, "bf16": 5e-2}


def check(
    url: str,
    teacher_weights: str,
    data: Path | None = None,
    clips: int = 8,
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Measure `clips` random entries: relative RMSE of f_sr as decoded, of attention as stored.

    An entry is "beyond" where an error exceeds `tolerance`. An unfinished cache is checked as far
    as it goes. Raises UserError or FileNotFoundError for no cache, other weights (naming both
    sha256, before anything runs), other frames, no data, and a cache without entries.
    """
    weights = teacher_weights  # random:SEED stands for its own sha256
    sha256 = weights if weights.startswith("random:") else file_sha256(Path(weights))
    reader = cache.open_reader(url, {"teacher_sha256": sha256}, allow_incomplete=True)
    keys = choose(list(reader.entries), clips, seed)
    if not keys:
        raise UserError(f"cache {url} holds no clips yet: run extract-teacher first")
    made, where = reader.manifest, pick_device(device)
    told = provenance(made)
    data = data or told.data
    if data is None or not named.parse(data).root.exists():
        raise FileNotFoundError(f"the cache's data {data} is not here: name it with --data")
    clips_of = find_pairs(data, "train", told.degradation, length=made.frames)
    found = {clip.key: clip for clip in clips_of}
    network = str(zoo.parse_trusted(told.teacher, url))
    teacher = settle(load_network(network, weights)[0], where, told.amp)
    allowed = tolerance(made)
    rows: list[dict[str, Any]] = []
    for key in tqdm(keys, unit="clip", desc="cache check", disable=None):
        view = View.parse(key)
        if view.clip not in found:
            raise UserError(f"clip {view.clip} of the cache is not in the data set: give its own")
        errors = _errors(reader, teacher, found[view.clip], view, where)
        beyond = [name for name, error in errors.items() if not error <= allowed[name]]
        rows.append({"key": key, "orientation": view.orientation, **errors, "beyond": beyond})
    return {
        "cache_id": made.cache_id,
        "teacher": network,
        "encoding": made.encoding,
        "tolerance": allowed,
        "orientations": _by_orientation(rows, made.targets),
        "clips": rows,
        "beyond": [row["key"] for row in rows if row["beyond"]],
    }


def choose(keys: list[str], count: int, seed: int) -> list[str]:
    """Choose `count` random keys, or all: one of each orientation before a second of any."""
    turns = Counter[int]()
    rank: dict[str, int] = {}  # how many keys of the same orientation come before
    for i in generator(seed, "check").permutation(len(keys)):
        orientation = View.parse(keys[i]).orientation
        rank[keys[i]] = turns[orientation]
        turns[orientation] += 1
    return sorted(rank, key=rank.__getitem__)[:count]


def tolerance(made: cache.Manifest) -> dict[str, float]:
    """Return the largest error to accept, by target: MARGIN times the encoding's own error, plus
    ROUNDING for the cache's mixed precision, plus HALF_STEP for attention.

    Raises UserError where the manifest lacks the encoding's error.
    """
    told = provenance(made)
    lost: dict[str, Any] = {n: getattr(told.error, f"{n}_rmse", None) for n in made.targets}
    if None in lost.values():
        raise UserError("the cache's manifest does not say what its encoding loses: extract again")
    allowed = {name: MARGIN * loss + ROUNDING[told.amp] for name, loss in lost.items()}
    if "attention" in allowed:  # measured on decoded f_sr, but stored by itself
        allowed["attention"] += HALF_STEP[made.arrays["attention"].dtype]
    return allowed


def _errors(
    reader: cache.Reader, teacher: Network, clip: Clip, view: View, device: torch.device
) -> dict[str, float]:
    """Return the relative RMSE of one view's targets against the live teacher's."""
    made, told = reader.manifest, provenance(reader.manifest)
    frames = read_frames(clip, made.scale)
    hr = view_hr(frames.hr, view)
    seen, of_source = seen_frames(teacher, clip, frames, view, told.degradation)
    members = ensemble(told.degradation) if told.ensemble else PLAIN
    live = teacher_features(teacher, seen, device, told.amp, members)
    decode = Decoder(reader, device)
    read = CachedTargets(reader, made.targets, decode.halo)
    stored = read(view, Box(0, 0, *hr.shape[-2:]), of_source)
    cached = decode({name: one[None].to(device) for name, one in {**stored, "hr": hr}.items()})
    f_sr = live.f_sr.float()
    sr = own_image(live.sr.float(), made.sr_channels)
    true = {"sr": sr, "f_sr": f_sr, "f_lr": live.f_lr.float()}
    true["attention"] = attention_map(f_sr)
    return {name: relative_rmse(cached[name][0].float(), true[name]) for name in made.targets}


def _by_orientation(rows: list[dict[str, Any]], targets: tuple[str, ...]) -> dict[str, Any]:
    """Map orientations to their number of clips and the largest error of each target."""
    turn = itemgetter("orientation")
    alike = {key: list(some) for key, some in groupby(sorted(rows, key=turn), turn)}
    return {
        str(orientation): {"clips": len(some), **{t: max(row[t] for row in some) for t in targets}}
        for orientation, some in alike.items()
    }


def check_table(result: dict[str, Any]) -> str:
    """Format the result as a Markdown table."""
    allowed = result["tolerance"]
    rows = [
        [orientation, row["clips"], *(f"{row[name]:.3%}" for name in allowed)]
        for orientation, row in result["orientations"].items()
    ]
    rows.append(["tolerance", "", *(f"{most:.3%}" for most in allowed.values())])
    heads = ["orientation", "clips", *(f"{name} error" for name in allowed)]
    lines = [markdown_table(heads, rows)]
    for row in result["clips"]:
        lines += [
            f"beyond: {one_line(row['key'])} {name} {row[name]:.3%}" for name in row["beyond"]
        ]
    lines.append(f"{len(result['clips'])} checked, {len(result['beyond'])} beyond")
    return "\n".join(lines)
