"""The sizes and lengths of a set's clips: read from headers, and told before work begins."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

from stdpipe.cache.errors import UserError
from stdpipe.data.frames import Clip
from stdpipe.data.pairs import pair_sizes

LOG = logging.getLogger(__name__)
Size = tuple[int, int]  # height and width in HR pixels

NAMED = 3  # clips in a warning
LISTED = 6  # sizes in a summary


def check_sizes(clips: Sequence[Clip], scale: int) -> dict[str, Size]:
    """Return the size of each clip's HR frames on disk, by key; of LR alone, of what stands for
    them. Headers alone are read. A warning tells which clips will be cut to multiples of the scale.

    Raises UserError with the key of the first clip whose frames differ in size, are broken, or are
    smaller than an LR pixel.
    """
    sizes = {c.key: size for c, size in zip(clips, pair_sizes(clips, scale), strict=True)}
    whole = {clip.key: seen_size(clip, sizes[clip.key], scale) for clip in clips}
    if tiny := next((key for key, size in whole.items() if not min(size)), None):
        told = f"clip {tiny} is {_text(sizes[tiny])}"
        raise UserError(f"{told}, smaller than an LR pixel at scale {scale}: take it out")
    if cut := [clip.key for clip in clips if _is_cut(clip, sizes[clip.key], scale)]:
        _warn_once(
            f"stdpipe: {len(cut)} of {len(clips)} clips lose pixels at the right or bottom, since "
            f"their sides are no multiples of {scale}: {cut[0]} is {_text(sizes[cut[0]])}"
        )
    return sizes


def are_cut(clips: Mapping[str, Clip], sizes: Mapping[str, Size], scale: int) -> bool:
    """Tell whether any clip loses pixels."""
    return any(_is_cut(clip, sizes[key], scale) for key, clip in clips.items())


def seen_size(clip: Clip, size: Size, scale: int) -> Size:
    """Return the size that frames of this size on disk have for read_frames, which pads and cuts
    them."""
    height, width = (max(side, clip.pad) // scale * scale for side in size)
    return height, width


def _is_cut(clip: Clip, size: Size, scale: int) -> bool:
    return any(max(side, clip.pad) % scale for side in size)


@cache
def _warn_once(text: str) -> None:
    """Warn, but not again of the same: a training may measure many times."""
    LOG.warning(text)


def leave_small(
    clips: Mapping[str, Clip], sizes: Mapping[str, Size], patch: int, scale: int
) -> dict[str, Clip]:
    """Return the clips of which a patch of that side can be cut; a warning names the others.

    Raises UserError where none can.
    """
    small = [key for key, clip in clips.items() if min(seen_size(clip, sizes[key], scale)) < patch]
    names = ", ".join(f"{key} ({_text(sizes[key])})" for key in small[:NAMED])
    told = f"smaller than the patch of {patch}: {names}{', ...' * (len(small) > NAMED)}"
    if small and len(small) == len(clips):
        raise UserError(f"every clip is {told}; choose a smaller patch, or DATA:pad={patch}")
    if small:
        LOG.warning(f"stdpipe: {len(small)} of {len(clips)} clips are left out, which are {told}")
    return {key: clip for key, clip in clips.items() if key not in {*small}}


def count_sizes(sizes: Mapping[str, Size]) -> dict[str, int]:
    """Count the clips of each size, such as "448x256" (width x height), the most frequent first."""
    return {_text(size): count for size, count in Counter(sizes.values()).most_common()}


def tell_sizes(clips: Mapping[str, Clip], sizes: Mapping[str, Size]) -> None:
    """Tell how many clips there are of which size and length, where they are not all alike."""
    counts = count_sizes({key: sizes[key] for key in clips})
    lengths = sorted({len(clip.frames) + clip.repeats for clip in clips.values()})
    if len(counts) == 1 and len(lengths) == 1:
        return
    told = [f"{count:,} of {size}" for size, count in counts.items()]
    if len(told) > LISTED:
        told = [*told[: LISTED - 1], f"the others of {len(told) - LISTED + 1} more sizes"]
    frames = f"; {lengths[0]} to {lengths[-1]} frames" if len(lengths) > 1 else ""
    LOG.info(f"stdpipe: {len(clips):,} clips: {', '.join(told)}{frames}")


def _text(size: Size) -> str:
    return f"{size[1]}x{size[0]}"
