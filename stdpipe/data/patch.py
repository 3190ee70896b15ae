"""The sides of square crops: on the LR grid, and of LR whose side networks can halve twice."""

from stdpipe.cache.errors import UserError
from stdpipe.data.degrade import SCALES
from stdpipe.resample import SCALE

LR_MULTIPLE = 4  # of EDVR's three levels, and of most networks


def fits(patch: int, scale: int | None) -> bool:
    """Tell whether crops of that many HR pixels can be trained on; None: at some scale."""
    scales = SCALES if scale is None else (scale,)
    return patch > 0 and any(patch % (LR_MULTIPLE * each) == 0 for each in scales)


def multiple(scale: int | None) -> str:
    """Say what the side of a crop is a multiple of; None: at each scale."""
    if scale is not None:
        at = "" if scale == SCALE else f" at scale {scale}"
        return f"a multiple of {LR_MULTIPLE * scale}{at}"
    others = ", ".join(f"{LR_MULTIPLE * each} at scale {each}" for each in SCALES if each != SCALE)
    return f"a multiple of {LR_MULTIPLE * SCALE} ({others})"


def check_patch(patch: int, scale: int) -> None:
    """Raise UserError, with the nearest side that is, for one that is no multiple."""
    if not fits(patch, scale):
        step = LR_MULTIPLE * scale
        near = max(round(patch / step), 1) * step
        raise UserError(
            f"patch must be {multiple(scale)}, in HR pixels, got {patch}; the nearest is {near}"
        )
