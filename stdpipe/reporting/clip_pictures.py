"""A clip's pictures: a slider between any two networks, then crops, errors and maps of each.

Every panel says what its colours mean and how they are scaled; all networks share one scale where
that lets them be compared. clip.html lays them out.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from stdpipe.evaluation.pictures import heat
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
from stdpipe.reporting.shots import PERCENTILE, Made, Shot

NO_FLOW = "Optical flow needs OpenCV, which was not installed: pip install 'stdpipe[temporal]'."


class Detail(NamedTuple):
    """How large the pictures are; the page's limit decides."""

    frame_width: int  # of whole frames, pixels at most
    map_width: int  # of error maps, attention and flow
    channels: int  # feature maps of each network
    quality: int  # WebP's


class Gallery(NamedTuple):
    """What a clip's pictures are made of."""

    shot: Shot
    made: dict[str, Made]
    """Network's label -> what it made."""
    psnr: dict[str, float]
    """Label -> PSNR Y of the middle frame, as the evaluation has it."""
    gone: list[str]
    """What could not be made, a sentence each."""


class Figure(NamedTuple):
    """One picture and what stands beneath it."""

    source: str
    """A data URI."""
    label: str
    alt: str
    note: str = ""
    style: str = ""
    """CSS class of the picture."""
    id: str = ""


class Panel(NamedTuple):
    """Pictures of one kind under a heading that folds; a notice where there are no rows."""

    title: str
    text: str
    rows: Mapping[str, Sequence[Figure]]
    """Network's label -> its figures; "" -> figures of all networks."""
    style: str = "grid"
    heat: tuple[str, str] | None = None
    """What stands at the ends of the key to heat colours."""
    wheel: str = ""
    """The key to colours of flow, a data URI."""
    frame: str = ""
    """The HR frame, on which the crop and the scan line are drawn, a data URI."""


def slider_of(gallery: Gallery, detail: Detail, name: str) -> dict[str, Any]:
    """What the slider shows. Crops lie on the page anyway: the script finds them by their ids."""
    shot, labels = gallery.shot, ["LR", *gallery.made, "HR"]
    height, width = shot.hr.shape[1:3]
    return {
        "labels": labels,
        # the first network and the last; HR, or LR too, where there are not as many
        "left": 1 if len(labels) > 2 else 0,
        "right": len(labels) - (2 if len(labels) > 3 else 1),
        "reduced": detail.frame_width if detail.frame_width < width else None,
        "content": {
            "pictures": [webp(p, detail.frame_width, detail.quality) for _, p in _frames(gallery)],
            "crops": [f"{name}-crop-{number}" for number in range(len(labels))],
            "aspects": [width / height, shot.window.width / shot.window.height],
        },
    }


def panels(gallery: Gallery, detail: Detail, name: str) -> list[Panel]:
    """The clip's panels, crops first. `name` begins the crops' ids."""
    found = (
        _crops(gallery, name),
        _errors(gallery, detail),
        _profiles(gallery),
        _flows(gallery, detail),
        _attention(gallery, detail),
        _features(gallery, detail),
    )
    return [panel for panel in found if panel]


def _frames(gallery: Gallery) -> Iterator[tuple[str, Pixels]]:
    """Label and whole middle frame: LR (each pixel a block), every network, HR."""
    shot = gallery.shot
    height, width = shot.hr.shape[1:3]
    blocks = shot.lr.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    yield "LR", blocks[:height, :width]
    for label, made in gallery.made.items():
        yield label, made.sr
    yield "HR", shot.hr[shot.middle]


def _crops(gallery: Gallery, name: str) -> Panel:
    window = gallery.shot.window
    figures = [
        Figure(
            png(window.of(pixels)),
            label,
            f"{label}, crop of {gallery.shot.clip}",
            note=f"{gallery.psnr[label]:.2f} dB" if label in gallery.psnr else "",
            style="pixels",
            id=f"{name}-crop-{number}",
        )
        for number, (label, pixels) in enumerate(_frames(gallery))
    ]
    text = (
        f"{window.width} × {window.height} HR pixels from ({window.x}, {window.y}), exact, "
        "where HR has most detail. Beside the name stands PSNR Y of the whole frame."
    )
    style = "grid natural" if window.width >= 200 else "grid"
    return Panel("Same crop of every network", text, {"": figures}, style)


def _errors(gallery: Gallery, detail: Detail) -> Panel:
    hr = gallery.shot.hr[gallery.shot.middle]
    errors = {label: luma_error(made.sr, hr) for label, made in gallery.made.items()}
    top = max((float(np.percentile(e, PERCENTILE)) for e in errors.values()), default=1.0)
    figures = [
        Figure(
            webp(heat(error, top), detail.map_width, detail.quality),
            label,
            f"Error map of {label}",
            note=f"mean {error.mean():.2f}",
        )
        for label, error in errors.items()
    ]
    text = f"|SR − HR| of luma, levels of 255; one scale for all, white is {top:.0f} and more."
    return Panel("Error maps", text, {"": figures}, heat=("0", f"{top:.0f}"))


def _profiles(gallery: Gallery) -> Panel | None:
    shot = gallery.shot
    if len(shot.span) < 2:
        return None
    profiles = {**{n: m.profile for n, m in gallery.made.items()}, "HR": shot.hr[:, shot.row]}
    figures = [
        Figure(png(pixels), label, f"Temporal profile of {label}", style="pixels profile")
        for label, pixels in profiles.items()
    ]
    text = (
        f"Row {shot.row} of frames {shot.span[0]} to {shot.span[-1]}, one under the other: steady "
        "motion gives smooth, slanted edges, flicker ragged ones."
    )
    frame = webp(shot.hr[shot.middle], 480)
    return Panel("Temporal profiles", text, {"": figures}, "profiles", frame=frame)


def _flows(gallery: Gallery, detail: Detail) -> Panel | None:
    shot, at, title = gallery.shot, gallery.shot.middle, "Optical flow of the output"
    if at == 0 or min(shot.hr.shape[1:3]) < MIN_SIDE:
        return None
    if find_spec("cv2") is None:
        return Panel(title, NO_FLOW, {})
    pairs = {n: (m.before[0], m.sr) for n, m in gallery.made.items()}
    pairs["HR"] = shot.hr[at - 1], shot.hr[at]
    flows = {n: flow_between(as_tensor(a), as_tensor(b)).numpy() for n, (a, b) in pairs.items()}
    top = max(float(np.percentile(np.hypot(*flows["HR"]), PERCENTILE)), 1.0)
    figures = [
        Figure(
            webp(flow_colours(flow, top), detail.map_width, detail.quality),
            label,
            f"Optical flow of {label}",
        )
        for label, flow in flows.items()
    ]
    text = (
        f"From frame {shot.frame - 1} to {shot.frame}, OpenCV's DIS on 8-bit luma. Hue is the "
        f"direction, as on the wheel; white is at rest, full colour {top:.1f} pixels and more."
    )
    return Panel(title, text, {"": figures}, wheel=png(colour_wheel()))


def _attention(gallery: Gallery, detail: Detail) -> Panel | None:
    names = ("Σ|F|", "ΣF²", "max F²")
    rows = {
        label: [
            Figure(
                webp(heat(level / 255, 1.0), detail.map_width * 2 // 3, detail.quality),
                name,
                f"Attention of {label}, {name}",
            )
            for level, name in zip(made.attention, names, strict=True)
        ]
        for label, made in gallery.made.items()
        if len(made.attention)
    }
    text = (
        "Made from F^SR, over its channels (paper, Eqs. 1 to 3); ΣF² is what training distils by "
        f"default. Each map has its own scale: white is its {PERCENTILE}th percentile."
    )
    key = ("0", "its own most")
    return Panel("Attention maps", text, rows, "grid three", key) if rows else None


def _features(gallery: Gallery, detail: Detail) -> Panel | None:
    """F^LR and F^SR of the crop, in the same channels of every network."""
    learnt = {label: made for label, made in gallery.made.items() if made.f_sr.size > 1}
    if not learnt:
        return None
    # three channels are a picture's (VDSR's F^LR): no reason to show no others of anybody
    counts = [len(m) for made in learnt.values() for m in (made.f_lr, made.f_sr) if len(m) > 3]
    shared = min(counts, default=3)
    chosen = _liveliest(list(learnt.values())[-1].f_sr[:shared], detail.channels)
    rows = {
        label: [
            Figure(
                png(maps[channel]) if kind == "F^LR" else webp(maps[channel], 240),
                kind,
                f"Channel {channel} of {kind} of {label}",
                note=f"channel {channel}",
                style="pixels",
            )
            for kind, maps in (("F^LR", made.f_lr), ("F^SR", made.f_sr))
            for channel in chosen
            if channel < len(maps)
        ]
        for label, made in learnt.items()
    }
    text = (
        f"The crop, in those of the first {shared} channels whose F^SR varies most in "
        f"{list(learnt)[-1]}; every network shows the same channels. Black is a channel's least "
        "value, white its greatest."
    )
    return Panel("Feature maps", text, rows, "grid four")


def _liveliest(maps: Pixels, number: int) -> list[int]:
    """The channels of (C, H, W) with the greatest standard deviation."""
    spread = maps.std(axis=(1, 2))
    return sorted(int(channel) for channel in np.argsort(-spread, kind="stable")[:number])
