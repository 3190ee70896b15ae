"""What an entry weighs on disk, and whether the rest of a cache still fits there."""

import math
from collections.abc import Callable

from stdpipe import cache
from stdpipe.cache.errors import UserError
from stdpipe.cache.shards import encode_shard
from stdpipe.data.views import View
from stdpipe.features.encoding import encode
from stdpipe.models.base import Features


def refuse_full_disk(
    url: str, manifest: cache.Manifest, missing: int, weigh_one: Callable[[], int]
) -> None:
    """Raise UserError where `missing` more entries do not fit beside the cache.

    Their size before compression is enough to let them pass; only where it is not does weigh_one
    say what one takes in truth.
    """
    free = cache.open_place(url).free_bytes()
    if free is None or uncompressed(manifest) * missing <= free:
        return
    needed = weigh_one() * missing
    if needed > free:
        raise UserError(
            f"{missing:,} clips as {manifest.encoding} need about {needed / 1e9:,.1f} GB, but "
            f"{free / 1e9:,.1f} GB are free for {url}; choose a smaller --encoding (--plan weighs "
            "them all) or another disk"
        )


def uncompressed(manifest: cache.Manifest) -> int:
    """Bytes of one entry's arrays."""
    sizes = {"float32": 4, "float16": 2, "int8": 1}
    return sum(math.prod(a.shape[1:]) * sizes[a.dtype] for a in manifest.arrays.values())


def weigh(manifest: cache.Manifest, view: View, features: Features) -> dict[str, int]:
    """Bytes of each array's file of one entry.

    Raises UserError where the encoding cannot hold it.
    """
    entry = encode(features, view, manifest).arrays()
    return {
        name: sum(map(len, encode_shard(spec, entry[name])))
        for name, spec in manifest.arrays.items()
    }
