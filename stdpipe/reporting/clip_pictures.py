"""A clip's pictures: a slider between any two networks, then crops, errors and maps of each.

Networks share one scale where they are to be compared. clip.html lays the pictures out, and
explains the colours and scale of each panel.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from stdpipe.data.degrade import degradation
from stdpipe.evaluation.pictures import HEAT_PERCENTILE, heat
from stdpipe.evaluation.temporal import MIN_SIDE, flow, frame_of
from stdpipe.reporting.data_uris import Pixels, as_tensor, flow_colours, luma_error, png, webp
from stdpipe.reporting.shots import Made, Shot


class Detail(NamedTuple):
    """The sizes of pictures, chosen so that the page stays under its limit."""

    frame_width: int  # the most pixels of a whole frame
    map_width: int  # of error maps and flow; attention maps have two thirds of it
    channels: int  # number of feature maps of each network
    quality: int  # WebP's

    def map(self, pixels: Pixels) -> str:
        """Encode a map."""
        return webp(pixels, self.map_width, self.quality)


class Gallery(NamedTuple):
    """The material of a clip's pictures."""

    shot: Shot
    made: dict[str, Made]  # by the network's label
    psnr: dict[str, float]  # label -> PSNR Y of the middle frame, from the evaluation
    gone: list[str]  # a sentence for each picture that could not be made


class Figure(NamedTuple):
    """One picture and the words beneath it."""

    source: str  # a data URI
    label: str
    note: str = ""


class Panel(NamedTuple):
    """Pictures of one kind; no rows where they could not be made."""

    kind: str  # one of clip.html's KINDS
    rows: Mapping[str, Sequence[Figure]]  # by the network's label, "" for all networks
    facts: Mapping[str, Any] = {}  # for clip.html's explanation


def slider_of(gallery: Gallery, detail: Detail) -> dict[str, Any]:
    """Return what the slider shows; the page's script takes the crops from the panel below."""
    shot, frames = gallery.shot, _frames(gallery)
    height, width = shot.hr.shape[1:3]
    return {
        "labels": [*frames],
        # the first and the last network, or HR and LR where there are fewer than two
        "left": 1 if len(frames) > 2 else 0,
        "right": len(frames) - (2 if len(frames) > 3 else 1),
        "reduced": detail.frame_width if detail.frame_width < width else None,
        "content": {
            "pictures": [webp(p, detail.frame_width, detail.quality) for p in frames.values()],
            "aspects": [width / height, shot.window.width / shot.window.height],
        },
    }


def panels(gallery: Gallery, detail: Detail) -> list[Panel]:
    """Make the clip's panels, crops first."""
    makers = (_crops, _errors, _profiles, _flows, _attention, _features)
    return [panel for make in makers if (panel := make(gallery, detail))]


def _frames(gallery: Gallery) -> dict[str, Pixels]:
    """Return label -> whole middle frame: LR (each pixel a block), every network, HR."""
    shot = gallery.shot
    height, width = shot.hr.shape[1:3]
    scale = degradation(shot.degradation).scale
    blocks = shot.lr.repeat(scale, axis=0).repeat(scale, axis=1)[:height, :width]
    networks = {label: made.sr for label, made in gallery.made.items()}
    return {"LR": blocks, **networks, "HR": shot.hr[shot.middle]}


def _crops(gallery: Gallery, _detail: Detail) -> Panel:
    window, psnr = gallery.shot.window, gallery.psnr
    figures = [
        Figure(png(window.of(frame)), label, f"{psnr[label]:.2f} dB" if label in psnr else "")
        for label, frame in _frames(gallery).items()
    ]
    return Panel("Crop", {"": figures})


def _errors(gallery: Gallery, detail: Detail) -> Panel:
    hr = gallery.shot.hr[gallery.shot.middle]
    errors = {label: luma_error(made.sr, hr) for label, made in gallery.made.items()}
    top = max((float(np.percentile(e, HEAT_PERCENTILE)) for e in errors.values()), default=1.0)
    figures = [
        Figure(detail.map(heat(error, top)), label, f"mean {error.mean():.2f}")
        for label, error in errors.items()
    ]
    return Panel("Error map", {"": figures}, {"top": f"{top:.0f}"})


def _profiles(gallery: Gallery, _detail: Detail) -> Panel | None:
    shot = gallery.shot
    if len(shot.span) < 2:
        return None
    profiles = {**{n: m.profile for n, m in gallery.made.items()}, "HR": shot.hr[:, shot.row]}
    figures = [Figure(png(pixels), label) for label, pixels in profiles.items()]
    frame = webp(shot.hr[shot.middle], 480)
    return Panel("Temporal profile", {"": figures}, {"frame": frame})


def _flows(gallery: Gallery, detail: Detail) -> Panel | None:
    shot, at = gallery.shot, gallery.shot.middle
    if at == 0 or min(shot.hr.shape[1:3]) < MIN_SIDE:
        return None
    if find_spec("cv2") is None:
        return Panel("Optical flow", {})
    pairs = {n: (m.before[0], m.sr) for n, m in gallery.made.items()}
    pairs["HR"] = shot.hr[at - 1], shot.hr[at]
    frames = {n: [frame_of(as_tensor(x)) for x in pair] for n, pair in pairs.items()}
    flows = {n: flow(*pair).numpy() for n, pair in frames.items()}
    top = max(float(np.percentile(np.hypot(*flows["HR"]), HEAT_PERCENTILE)), 1.0)
    figures = [Figure(detail.map(flow_colours(f, top)), label) for label, f in flows.items()]
    return Panel("Optical flow", {"": figures}, {"top": f"{top:.1f}"})


def _attention(gallery: Gallery, detail: Detail) -> Panel | None:
    detail = detail._replace(map_width=detail.map_width * 2 // 3)
    rows = {
        label: [
            Figure(detail.map(heat(level / 255, 1.0)), name)
            for level, name in zip(made.attention, ("Σ|F|", "ΣF²", "max F²"), strict=True)
        ]
        for label, made in gallery.made.items()
        if len(made.attention)
    }
    return Panel("Attention", rows) if rows else None


def _features(gallery: Gallery, detail: Detail) -> Panel | None:
    """Return F^LR and F^SR of the crop, in the same channels of every network."""
    learnt = {n: {"F^LR": m.f_lr, "F^SR": m.f_sr} for n, m in gallery.made.items() if len(m.f_sr)}
    if not learnt:
        return None
    # maps of three channels are a picture (VDSR's F^LR), which must not limit the others
    counts = [len(maps) for both in learnt.values() for maps in both.values() if len(maps) > 3]
    shared = min(counts, default=3)
    last = [*learnt][-1]
    spread = learnt[last]["F^SR"][:shared].std(axis=(1, 2))
    chosen = sorted(np.argsort(-spread, kind="stable")[: detail.channels])
    encode: dict[str, Callable[[Pixels], str]] = {"F^LR": png, "F^SR": partial(webp, width=240)}
    rows = {
        label: [
            Figure(encode[kind](maps[channel]), kind, f"channel {channel}")
            for kind, maps in both.items()
            for channel in chosen
            if channel < len(maps)
        ]
        for label, both in learnt.items()
    }
    return Panel("Feature map", rows, {"shared": shared, "liveliest_in": last})
