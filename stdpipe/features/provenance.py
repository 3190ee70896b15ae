"""Who made a cache and what its encoding loses, as its manifest tells it: checked when read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stdpipe import cache
from stdpipe.cache.schema import check_json


@dataclass(frozen=True)
class EncodingError:
    """Says what an encoding loses, on one clip."""

    f_sr_rmse: float
    """Relative root mean square error of F^SR."""
    sr_psnr: float | None
    """PSNR in dB of the image made of it, against the one made of the unencoded; None if equal."""
    attention_rmse: float
    """Relative, of the attention map of the decoded F^SR."""
    measured_on: str = ""
    f_lr_rmse: float | None = None
    """Relative; None where f_lr is no target."""


@dataclass(frozen=True)
class Provenance:
    """The facts and notes of a manifest that stdpipe itself reads again."""

    teacher: str = ""
    degradation: str = "bd"
    amp: Literal["none", "bf16", "fp16"] = "none"
    batch: int = 1
    data: Path | None = None
    error: EncodingError | None = None
    """None where it was not measured."""


def provenance(manifest: cache.Manifest) -> Provenance:
    """Raises UserError where a fact is missing, or is no fact of that kind."""
    told: dict[str, Any] = manifest.notes | manifest.made_by
    return check_json(Provenance, told, "the cache's manifest")
