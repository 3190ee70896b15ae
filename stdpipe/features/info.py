"""Describe a cache: what made it, what it holds, how large it is and what its encoding loses."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stdpipe import cache
from stdpipe.cache.schema import check_json
from stdpipe.features.quality import Quality, quality_text

LABELS = {"teacher_sha256": "weights sha256", "lr_8bit": "LR in 8 bits"}
MEASURED = ("error", "quality")  # notes
HAS_HR = "has_hr"  # in an entry's extra: False where its clip has LR alone

Facts = dict[str, Any]


@dataclass(frozen=True)
class EncodingError:
    """The loss of an encoding on one clip; relative errors are root mean squares."""

    f_sr_rmse: float | None  # relative error of F^SR; None where the cache is of images alone
    attention_rmse: float | None  # relative error of the decoded F^SR's attention map
    sr_psnr: float | None = None  # PSNR in dB of images with and without encoding; None if equal
    measured_on: str = ""
    f_lr_rmse: float | None = None  # relative error of F^LR; None where that is no target
    sr_rmse: float | None = None  # relative error of the image in 8 bits, likewise


@dataclass(frozen=True)
class Provenance:
    """The facts and notes of a manifest that stdpipe itself reads again."""

    teacher: str = ""
    degradation: str = "bd"
    amp: Literal["none", "bf16", "fp16"] = "none"
    batch: int = 1
    ensemble: int = 0  # ways in which the teacher saw each clip for its image; 0: one
    f_sr_channels: int = 64  # C_SR of the teacher; older caches of 64 do not say it
    data: Path | None = None
    error: EncodingError | None = None  # None where it was not measured
    quality: Quality | None = None  # of the teacher; likewise, and for random weights


def provenance(manifest: cache.Manifest) -> Provenance:
    """Read a manifest's provenance. Raises UserError where a fact has another type."""
    told: Facts = manifest.notes | manifest.made_by
    return check_json(Provenance, told, "the cache's manifest")


def describe_cache(reader: cache.Reader) -> Facts:
    """Return all that is known of a cache, flat: the manifest's facts under their own names, and

    entries (of the whole job), committed, complete; lr_alone (committed entries of clips that have
    no HR); height and width (of the first entry); sizes (width x height of maps -> entries);
    array_shapes (of an entry of the first one's size);
    bytes, bytes_per_entry, bytes_by_array, times_smaller (than f_sr in float32; null where f_sr is
    not stored); error (the encoding's, as encoding.encoding_error returns it) and quality (the
    teacher's, a quality.Quality), null where they were not measured; and notes.
    """
    manifest, committed = reader.manifest, len(reader.entries)
    told = provenance(manifest)  # refuses an error of another form
    sizes, total = reader.bytes_by_array(), reader.total_bytes()
    features = sum(size for name, size in sizes.items() if name.startswith(manifest.stored))
    channels = manifest.channels if manifest.stored == "f_sr" else told.f_sr_channels
    pixels = sum(math.prod(manifest.size(key)) for key in reader.entries)
    float32 = 4 * channels * manifest.frames * pixels
    return {
        "cache": reader.url,
        "cache_id": manifest.cache_id,
        "format_version": manifest.format_version,
        **manifest.facts(),
        "entries": len(manifest.entries),
        "committed": committed,
        "complete": reader.is_complete(),
        "lr_alone": sum(not reader.extra(key).get(HAS_HR, True) for key in reader.entries),
        "sizes": {f"{s.width}x{s.height}": len(s.entries) for s in manifest.sizes},
        "array_shapes": {name: list(spec.shape[1:]) for name, spec in manifest.arrays.items()},
        "bytes": total,
        "bytes_per_entry": round(total / committed) if committed else None,
        "bytes_by_array": sizes,
        "times_smaller": float32 / features if features else None,
        **{name: manifest.notes.get(name) for name in MEASURED},
        "notes": {name: note for name, note in manifest.notes.items() if name not in MEASURED},
    }


def sources_digest(reader: cache.Reader) -> str:
    """Return 16 hex digits for the frames that the entries were made of, in whatever order."""
    made_from = sorted((key, reader.extra(key).get("source_crc32")) for key in reader.entries)
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]


def info_text(facts: Facts, made_by: Mapping[str, Any]) -> str:
    """Format what `describe_cache` returned, one fact on each line; made_by: the manifest's."""
    state = "complete" if facts["complete"] else "not complete"
    head = f"{facts['cache']}: {state}, {facts['committed']:,} of {facts['entries']:,} entries"
    told = [(LABELS.get(name, name.replace("_", " ")), value) for name, value in made_by.items()]
    told = [(label, {"True": "yes", "False": "no"}.get(str(v), v)) for label, v in told]
    told.append(("image", quality_text(facts["quality"])))
    told += [*_held(facts).items(), *_error(facts["error"]).items()]
    return "\n".join([head, *(f"  {label + ':':<18}{value}" for label, value in told)])


def _held(facts: Facts) -> dict[str, str]:
    others = [f"{count:,} of {size}" for size, count in facts["sizes"].items()]
    held = {
        "serves": ", ".join(facts["targets"]),
        **({"LR alone": f"{facts['lr_alone']:,} entries"} if facts["lr_alone"] else {}),
        "entry": f"{facts['frames']} x {facts['height']} x {facts['width']} (T x H x W)",
        **({"sizes": f"{', '.join(others)} (W x H)"} if len(others) > 1 else {}),
        "encoding": f"{facts['encoding']}, compression {facts['compression']}",
        "bytes": _bytes(facts["bytes"]),
    }
    for name, size in facts["bytes_by_array"].items():
        shape = " x ".join(map(str, facts["array_shapes"][name]))
        held[f"  {name}"] = f"{_bytes(size)}, {shape} an entry"
    if facts["bytes_per_entry"]:
        held["bytes"] += f", {_bytes(facts['bytes_per_entry'])} an entry"
    if facts["times_smaller"]:
        held["against float32"] = f"{facts['times_smaller']:.1f} times smaller"
    return held


def _error(error: Mapping[str, Any] | None) -> dict[str, str]:
    if error is None:
        return {"encoding error": "not measured"}
    psnr = "exact" if error.get("sr_psnr") is None else f"{error['sr_psnr']:.1f} dB"
    rmse = {name: error.get(f"{name}_rmse") for name in ("sr", "f_sr", "attention", "f_lr")}
    return {
        "encoding error": f"measured on {error.get('measured_on', 'a clip')}",
        **{f"  {n}": f"{e:.3%} (relative RMSE)" for n, e in rmse.items() if e is not None},
        **({"  SR": f"{psnr} (PSNR against the unencoded)"} if "sr_psnr" in error else {}),
    }


def _bytes(size: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size} bytes"
