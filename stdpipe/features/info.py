"""What a cache is, as JSON and for people: who made it, what it holds, weighs and loses."""

from collections.abc import Mapping
from typing import Any

from stdpipe import cache
from stdpipe.cache.schema import check_json
from stdpipe.distill.names import F_SR_CHANNELS
from stdpipe.features.provenance import EncodingError

LABELS = {"teacher_sha256": "weights sha256", "lr_8bit": "LR in 8 bits"}

Facts = dict[str, Any]


def describe_cache(reader: cache.Reader) -> Facts:
    """Return all that is known of a cache, flat: who made it under the manifest's own names, and

    entries (of the whole job), committed, complete; array_shapes (of one entry);
    bytes, bytes_per_entry, bytes_by_array, times_smaller (than f_sr in float32; null where f_sr is
    not stored); error (of the encoding, as encoding.encoding_error tells it; null where it was not
    measured) and notes.
    """
    manifest = reader.manifest
    notes = dict(manifest.notes)
    error = notes.pop("error", None)
    check_json(EncodingError | None, error, f"the manifest of cache {reader.url}")  # type: ignore[arg-type]
    return {
        "cache": reader.url,
        "cache_id": manifest.cache_id,
        "format_version": manifest.format_version,
        **manifest.facts(),
        "entries": len(manifest.entries),
        "committed": len(reader.entries),
        "complete": reader.is_complete(),
        "array_shapes": {name: list(spec.shape[1:]) for name, spec in manifest.arrays.items()},
        **_weight(reader),
        "error": error,
        "notes": notes,
    }


def info_text(facts: Facts, made_by: Mapping[str, Any]) -> str:
    """Return what `describe_cache` returned, for people, a fact a line; made_by: the manifest's."""
    state = "complete" if facts["complete"] else "not complete"
    head = f"{facts['cache']}: {state}, {facts['committed']:,} of {facts['entries']:,} entries"
    told = [(LABELS.get(k, k.replace("_", " ")), _word(v)) for k, v in made_by.items()]
    told += [*_held(facts).items(), *_error(facts["error"]).items()]
    return "\n".join([head, *(f"  {label + ':':<18}{value}" for label, value in told)])


def _weight(reader: cache.Reader) -> Facts:
    arrays, total = reader.bytes_by_array(), reader.total_bytes()
    manifest, committed = reader.manifest, len(reader.entries)
    features = sum(size for name, size in arrays.items() if name.startswith(manifest.stored))
    channels = manifest.channels if manifest.stored == "f_sr" else F_SR_CHANNELS
    float32 = 4 * channels * manifest.frames * manifest.height * manifest.width * committed
    return {
        "bytes": total,
        "bytes_per_entry": round(total / committed) if committed else None,
        "bytes_by_array": arrays,
        "times_smaller": float32 / features if features else None,
    }


def _word(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _held(facts: Facts) -> dict[str, str]:
    size = f"{facts['frames']} x {facts['height']} x {facts['width']}"
    held = {
        "serves": ", ".join(facts["targets"]),
        "entry": f"{size} (T x H x W)",
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
    psnr = "exact" if error["sr_psnr"] is None else f"{error['sr_psnr']:.1f} dB"
    f_lr = error.get("f_lr_rmse")
    return {
        "encoding error": f"measured on {error.get('measured_on', 'a clip')}",
        "  f_sr": f"{error['f_sr_rmse']:.3%} (relative RMSE)",
        "  attention": f"{error['attention_rmse']:.3%} (relative RMSE)",
        **({} if f_lr is None else {"  f_lr": f"{f_lr:.3%} (relative RMSE)"}),
        "  SR": f"{psnr} (PSNR against the unencoded)",
    }


def _bytes(size: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size} bytes"
