"""A clip's pictures: a slider between any two networks, then crops, errors and maps of each.

Every panel says what its colours mean and how they are scaled; all networks share one scale where
that lets them be compared. clip.html lays them out.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from stdpipe.evaluation.pictures import HEAT_PERCENTILE, heat
from stdpipe.evaluation.temporal import MIN_SIDE, flow_between
from stdpipe.models.base import SCALE
from stdpipe.reporting.data_uris import (
    Pixels,
    as_tensor,
    colour_wheel,
    flow_colours,
    luma_error,
    png,
    webp,
)
from stdpipe.reporting.shots import Made, Shot

NO_FLOW = "Optical flow needs OpenCV, which was not installed: pip install 'stdpipe[temporal]'."


class Detail(NamedTuple):
    """How large the pictures are; the page's limit decides."""

    frame_width: int  # of whole frames, pixels at most
    map_width: int  # of error maps and flow; attention has two thirds of it
    channels: int  # feature maps of each network
    quality: int  # WebP's

    def map(self, pixels: Pixels) -> str:
        """Encode a map."""
        return webp(pixels, self.map_width, self.quality)


class Gallery(NamedTuple):
    """What a clip's pictures are made of."""

    shot: Shot
    made: dict[str, Made]  # by the network's label
    psnr: dict[str, float]  # label -> PSNR Y of the middle frame, as the evaluation has it
    gone: list[str]  # what could not be made, a sentence each


class Figure(NamedTuple):
    """One picture and what stands beneath it."""

    source: str  # a data URI
    label: str
    note: str = ""


class Panel(NamedTuple):
    """Pictures of one kind under a heading that folds; a notice where there are no rows."""

    title: str
    kind: str  # what each picture is: begins its description
    text: str
    rows: Mapping[str, Sequence[Figure]]  # by the network's label, "" for all networks
    layout: str = "grid"  # CSS classes
    style: str = ""  # CSS classes of each picture
    heat: tuple[str, str] | None = None  # what stands at the ends of the key to heat colours
    wheel: str = ""  # the key to colours of flow, a data URI
    frame: str = ""  # the HR frame, on which the crop and the scan line are drawn, a data URI


def slider_of(gallery: Gallery, detail: Detail) -> dict[str, Any]:
    """What the slider shows. The script finds the crops in the panel below."""
    shot, frames = gallery.shot, _frames(gallery)
    height, width = shot.hr.shape[1:3]
    return {
        "labels": [*frames],
        # the first network and the last; HR, or LR too, where there are not as many
        "left": 1 if len(frames) > 2 else 0,
        "right": len(frames) - (2 if len(frames) > 3 else 1),
        "reduced": detail.frame_width if detail.frame_width < width else None,
        "content": {
            "pictures": [webp(p, detail.frame_width, detail.quality) for p in frames.values()],
            "aspects": [width / height, shot.window.width / shot.window.height],
        },
    }


def panels(gallery: Gallery, detail: Detail) -> list[Panel]:
    """The clip's panels, crops first."""
    makers = (_crops, _errors, _profiles, _flows, _attention, _features)
    return [panel for make in makers if (panel := make(gallery, detail))]


def _frames(gallery: Gallery) -> dict[str, Pixels]:
    """Label -> whole middle frame: LR (each pixel a block), every network, HR."""
    shot = gallery.shot
    height, width = shot.hr.shape[1:3]
    blocks = shot.lr.repeat(SCALE, axis=0).repeat(SCALE, axis=1)[:height, :width]
    networks = {label: made.sr for label, made in gallery.made.items()}
    return {"LR": blocks, **networks, "HR": shot.hr[shot.middle]}


def _crops(gallery: Gallery, _detail: Detail) -> Panel:
    window, psnr = gallery.shot.window, gallery.psnr
    figures = [
        Figure(png(window.of(frame)), label, f"{psnr[label]:.2f} dB" if label in psnr else "")
        for label, frame in _frames(gallery).items()
    ]
    text = (
        f"{window.width} × {window.height} HR pixels from ({window.x}, {window.y}), exact, "
        "where HR has most detail. Beside the name stands PSNR Y of the whole frame."
    )
    layout = "grid crops natural" if window.width >= 200 else "grid crops"
    return Panel("Same crop of every network", "Crop", text, {"": figures}, layout, "pixels")


def _errors(gallery: Gallery, detail: Detail) -> Panel:
    hr = gallery.shot.hr[gallery.shot.middle]
    errors = {label: luma_error(made.sr, hr) for label, made in gallery.made.items()}
    top = max((float(np.percentile(e, HEAT_PERCENTILE)) for e in errors.values()), default=1.0)
    figures = [
        Figure(detail.map(heat(error, top)), label, f"mean {error.mean():.2f}")
        for label, error in errors.items()
    ]
    text = f"|SR − HR| of luma, levels of 255; one scale for all, white is {top:.0f} and more."
    return Panel("Error maps", "Error map", text, {"": figures}, heat=("0", f"{top:.0f}"))


def _profiles(gallery: Gallery, _detail: Detail) -> Panel | None:
    shot = gallery.shot
    if len(shot.span) < 2:
        return None
    profiles = {**{n: m.profile for n, m in gallery.made.items()}, "HR": shot.hr[:, shot.row]}
    rows = {"": [Figure(png(pixels), label) for label, pixels in profiles.items()]}
    text = (
        f"Row {shot.row} of frames {shot.span[0]} to {shot.span[-1]}, one under the other: steady "
        "motion gives smooth, slanted edges, flicker ragged ones."
    )
    title, kind, frame = "Temporal profiles", "Temporal profile", webp(shot.hr[shot.middle], 480)
    return Panel(title, kind, text, rows, "profiles", "pixels profile", frame=frame)


def _flows(gallery: Gallery, detail: Detail) -> Panel | None:
    shot, at = gallery.shot, gallery.shot.middle
    title, kind = "Optical flow of the output", "Optical flow"
    if at == 0 or min(shot.hr.shape[1:3]) < MIN_SIDE:
        return None
    if find_spec("cv2") is None:
        return Panel(title, kind, NO_FLOW, {})
    pairs = {n: (m.before[0], m.sr) for n, m in gallery.made.items()}
    pairs["HR"] = shot.hr[at - 1], shot.hr[at]
    flows = {n: flow_between(as_tensor(a), as_tensor(b)).numpy() for n, (a, b) in pairs.items()}
    top = max(float(np.percentile(np.hypot(*flows["HR"]), HEAT_PERCENTILE)), 1.0)
    figures = [Figure(detail.map(flow_colours(flow, top)), label) for label, flow in flows.items()]
    text = (
        f"From frame {shot.frame - 1} to {shot.frame}, OpenCV's DIS on 8-bit luma. Hue is the "
        f"direction, as on the wheel; white is at rest, full colour {top:.1f} pixels and more."
    )
    return Panel(title, kind, text, {"": figures}, wheel=png(colour_wheel()))


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
    text = (
        "Made from F^SR, over its channels (paper, Eqs. 1 to 3); ΣF² is what training distils by "
        f"default. Each map has its own scale: white is its {HEAT_PERCENTILE}th percentile."
    )
    key = ("0", "its own most")
    return (
        Panel("Attention maps", "Attention", text, rows, "grid three", heat=key) if rows else None
    )


def _features(gallery: Gallery, detail: Detail) -> Panel | None:
    """F^LR and F^SR of the crop, in the same channels of every network."""
    learnt = {
        label: {"F^LR": made.f_lr, "F^SR": made.f_sr}
        for label, made in gallery.made.items()
        if len(made.f_sr)
    }
    if not learnt:
        return None
    # three channels are a picture's (VDSR's F^LR): no reason to show no others of anybody
    counts = [len(maps) for both in learnt.values() for maps in both.values() if len(maps) > 3]
    shared = min(counts, default=3)
    last = [*learnt][-1]
    spread = learnt[last]["F^SR"][:shared].std(axis=(1, 2))
    chosen = sorted(np.argsort(-spread, kind="stable")[: detail.channels])
    rows = {
        label: [
            Figure(
                png(maps[channel]) if kind == "F^LR" else webp(maps[channel], 240),
                kind,
                f"channel {channel}",
            )
            for kind, maps in both.items()
            for channel in chosen
            if channel < len(maps)
        ]
        for label, both in learnt.items()
    }
    text = (
        f"The crop, in those of the first {shared} channels whose F^SR varies most in {last}; "
        "every network shows the same channels. Black is a channel's least value, white its "
        "greatest."
    )
    return Panel("Feature maps", "Feature map", text, rows, "grid four", "pixels")
