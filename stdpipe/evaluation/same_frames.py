"""Figures belong to frames: compare the clips of a result with those that lie there now."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from tqdm import tqdm

from stdpipe.cache.errors import UserError
from stdpipe.data.frames import Clip
from stdpipe.data.pieces import Origin, origin

Origins = Mapping[str, Origin]  # a clip's key -> the frames that its figures come from


def refuse_other_frames(
    clips: Mapping[str, Clip], degradation: str, results: Iterable[tuple[Path, Origins]]
) -> None:
    """Raise UserError where a folder's figures come from other frames than the clips have now, or
    from more or fewer clips. Results of older versions do not say it.

    Equal spans of a clip are read once, however many results have them.
    """
    remedy = "choose another --out, evaluate with --overwrite, or remove that folder"
    wanted = []
    for out, origins in results:
        for key in sorted(origins.keys() ^ clips.keys()) if origins else ():
            changed = "has gone, one" if key in origins else "has come, and is none"
            raise UserError(f"clip {key} {changed} of those that {out} holds figures of; {remedy}")
        wanted += [(key, there, out) for key, there in origins.items()]
    found: dict[tuple[str, int, int], Origin] = {}
    for key, there, out in tqdm(wanted, unit="clip", desc="compare", disable=None):
        at = (key, there["start"], there["stop"])
        if at not in found:
            found[at] = origin(clips[key], range(*at[1:]), degradation)
        if found[at] != there:
            raise UserError(
                f"clip {key} has other frames now than those that {out} holds figures of (crc32 "
                f"{there['crc32']} there, {found[at]['crc32']} now); {remedy}"
            )
