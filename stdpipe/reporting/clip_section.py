"""A clip's pictures: a slider between any two networks, then crops, errors and maps of each.

Every figure says what its colours mean and how they are scaled; all networks share one scale
where that lets them be compared.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from stdpipe.evaluation.pictures import HEAT_TABLE, heat
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
from stdpipe.reporting.html import Html, data, join, tag
from stdpipe.reporting.shots import PERCENTILE, Made, Shot

NO_FLOW = "Optical flow needs OpenCV, which was not installed: pip install 'stdpipe[temporal]'."


class Detail(NamedTuple):
    """How large the pictures are: what the page's limit leaves."""

    frame_width: int  # of whole frames, pixels at most
    map_width: int  # of error maps, attention and flow
    channels: int  # feature maps of each network
    quality: int  # WebP's


class Gallery(NamedTuple):
    """What a clip's pictures are made of."""

    shot: Shot
    made: Mapping[str, Made]
    """By network's label."""
    psnr: Mapping[str, float]
    """Of the middle frame, by label, as the evaluation has it."""
    gone: Sequence[str]
    """What could not be made, in plain words."""


def clip_section(gallery: Gallery, detail: Detail, name: str, chart: Html | None) -> Html:
    """All pictures of one clip; `name` starts its ids."""
    shot = gallery.shot
    height, width = shot.hr.shape[1:3]
    parts = [
        (_compare(gallery, detail, name), None),
        (_crops(gallery, name), "Same crop of every network"),
        (chart, "Frame by frame"),
        (_errors(gallery, detail), "Error maps"),
        (_profiles(gallery), "Temporal profiles"),
        (_flows(gallery, detail), "Optical flow of the output"),
        (_attention(gallery, detail), "Attention maps"),
        (_features(gallery, detail), "Feature maps"),
    ]
    return tag(
        "section",
        tag("h3", f"Clip {shot.clip}"),
        tag("p", f"Frame {shot.frame}, {width} × {height} pixels.", class_="quiet"),
        *(tag("p", text, class_="notice") for text in gallery.gone),
        *(_fold(title, part) if title else part for part, title in parts if part),
        class_="clip",
        id=name,
    )


def _fold(title: str, content: Html) -> Html:
    return tag("details", tag("summary", tag("h4", title)), content, open=True)


def _compare(gallery: Gallery, detail: Detail, name: str) -> Html:
    """The slider. Pictures of whole frames come as JSON, those of crops are on the page anyway."""
    shot, labels = gallery.shot, ["LR", *gallery.made, "HR"]
    pictures = [webp(p, detail.frame_width, detail.quality) for _, p in _frames(gallery)]
    # the first network and the last; HR, or LR too, where there are not as many
    left = 1 if len(labels) > 2 else 0
    right = len(labels) - (2 if len(labels) > 3 else 1)
    height, width = shot.hr.shape[1:3]
    shown = min(width, detail.frame_width)
    reduced = f", reduced to {shown} pixels' width" if shown < width else ""
    content = {
        "pictures": pictures,
        "crops": [f"{name}-crop-{number}" for number in range(len(labels))],
        "aspects": [width / height, shot.window.width / shot.window.height],
    }
    return tag(
        "div",
        tag(
            "div",
            _select("Left", labels, left, class_="left"),
            _select("Right", labels, right, class_="right"),
            _select("View", ["whole frame", "crop"], 0, class_="view"),
            _select("Zoom", ["1×", "2×", "4×", "8×"], 0, class_="zoom"),
            class_="controls",
        ),
        tag(
            "div",
            tag(
                "div",
                tag("img", class_="under", alt="", draggable="false"),
                tag("img", class_="over", alt="", draggable="false"),
                _marks(shot),
                tag("div", tag("span"), class_="divider"),
                class_="canvas",
            ),
            class_="stage",
            tabindex=0,
            role="region",
            aria_label=f"Two pictures of {shot.clip}, one over the other; scrolls when enlarged",
        ),
        tag(
            "div", tag("span", class_="left-name"), tag("span", class_="right-name"), class_="names"
        ),
        tag(
            "label",
            tag("span", "Divider between left and right"),
            tag("input", type="range", min=0, max=100, value=50, step=1),
            class_="divide",
        ),
        tag(
            "p",
            f"Drag on the picture, or move the divider with the arrow keys. Whole frames are "
            f"WebP{reduced}; the crop is exact. The frame is the crop shown below, the line the "
            "scan line of the temporal profiles.",
            class_="quiet",
        ),
        data(content),
        class_="compare",
        role="group",
        aria_label=f"Two networks on {shot.clip}, side by side",
    )


def _select(label: str, options: Sequence[str], chosen: int, class_: str) -> Html:
    choices = [
        tag("option", text, value=number, selected=number == chosen)
        for number, text in enumerate(options)
    ]
    return tag("label", tag("span", label), tag("select", *choices, class_=class_))


def _marks(shot: Shot) -> Html:
    """The crop and the scan line, drawn over a whole frame."""
    height, width = shot.hr.shape[1:3]
    top, left, tall, wide = shot.window
    return tag(
        "svg",
        tag("rect", x=left, y=top, width=wide, height=tall),
        tag("line", x1=0, y1=shot.row + 0.5, x2=width, y2=shot.row + 0.5),
        viewBox=f"0 0 {width} {height}",
        class_="marks",
        aria_hidden="true",
    )


def _frames(gallery: Gallery) -> Iterator[tuple[str, Pixels]]:
    """LR (each pixel a block), every network, HR: whole middle frames."""
    shot = gallery.shot
    height, width = shot.hr.shape[1:3]
    blocks = shot.lr.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    yield "LR", blocks[:height, :width]
    for label, made in gallery.made.items():
        yield label, made.sr
    yield "HR", shot.hr[shot.middle]


def _crops(gallery: Gallery, name: str) -> Html:
    figures = [
        _figure(
            png(gallery.shot.window.of(pixels)),
            label,
            f"{label}, crop of {gallery.shot.clip}",
            note=f"{gallery.psnr[label]:.2f} dB" if label in gallery.psnr else "",
            id=f"{name}-crop-{number}",
            class_="pixels",
        )
        for number, (label, pixels) in enumerate(_frames(gallery))
    ]
    window = gallery.shot.window
    text = (
        f"{window.width} × {window.height} HR pixels from ({window.left}, {window.top}), exact: "
        "where HR has most detail. Beside the name: PSNR Y of the whole frame."
    )
    return _grid(text, figures, class_="grid natural" if window.width >= 200 else "grid")


def _errors(gallery: Gallery, detail: Detail) -> Html:
    hr = gallery.shot.hr[gallery.shot.middle]
    errors = {label: luma_error(made.sr, hr) for label, made in gallery.made.items()}
    top = max((float(np.percentile(e, PERCENTILE)) for e in errors.values()), default=1.0)
    figures = [
        _figure(
            webp(heat(error, top), detail.map_width, detail.quality),
            label,
            f"Error map of {label}",
            note=f"mean {error.mean():.2f}",
        )
        for label, error in errors.items()
    ]
    text = f"|SR − HR| of luma, levels of 255; one scale for all, white is {top:.0f} and more."
    return _grid(text, figures, _heat_key("0", f"{top:.0f}"))


def _profiles(gallery: Gallery) -> Html | None:
    shot = gallery.shot
    if len(shot.span) < 2:
        return None
    profiles = {**{n: m.profile for n, m in gallery.made.items()}, "HR": shot.hr[:, shot.row]}
    figures = [
        _figure(png(pixels), label, f"Temporal profile of {label}", class_="pixels profile")
        for label, pixels in profiles.items()
    ]
    text = (
        f"Row {shot.row} of frames {shot.span[0]} to {shot.span[-1]}, one under the other: steady "
        "motion gives smooth, slanted edges, flicker ragged ones."
    )
    frame = webp(shot.hr[shot.middle], 480)
    picture = tag("img", src=frame, alt=f"HR frame of {shot.clip} with the scan line")
    line = tag("div", picture, _marks(shot), class_="map")
    where = tag("figure", line, tag("figcaption", "HR, the crop and the scan line"))
    return join(tag("p", text, class_="quiet"), tag("div", where, *figures, class_="profiles"))


def _flows(gallery: Gallery, detail: Detail) -> Html | None:
    shot, at = gallery.shot, gallery.shot.middle
    if at == 0:
        return None
    if find_spec("cv2") is None:
        return tag("p", NO_FLOW, class_="notice")
    if min(shot.hr.shape[1:3]) < MIN_SIDE:
        return None
    pairs = {n: (m.before[0], m.sr) for n, m in gallery.made.items()}
    pairs["HR"] = shot.hr[at - 1], shot.hr[at]
    flows = {n: flow_between(as_tensor(a), as_tensor(b)).numpy() for n, (a, b) in pairs.items()}
    top = max(float(np.percentile(np.hypot(*flows["HR"]), PERCENTILE)), 1.0)
    figures = [
        _figure(
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
    wheel = tag("img", src=png(colour_wheel()), alt="Key: colours by direction", class_="wheel")
    return _grid(text, figures, wheel)


def _attention(gallery: Gallery, detail: Detail) -> Html | None:
    names = ("Σ|F|", "ΣF²", "max F²")
    rows = {
        label: [
            _figure(
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
        "Of F^SR, over its channels (paper, Eqs. 1 to 3); ΣF² is what training distils by default. "
        f"Each map has its own scale: white is its {PERCENTILE}th percentile."
    )
    return _rows(text, rows, "three", _heat_key("0", "its own most")) if rows else None


def _features(gallery: Gallery, detail: Detail) -> Html | None:
    """F^LR and F^SR of the crop, the same channels of every network."""
    learnt = {label: made for label, made in gallery.made.items() if made.f_sr.size > 1}
    if not learnt:
        return None
    # three channels are a picture's (VDSR's F^LR): no reason to show no others of anybody
    counts = [len(m) for made in learnt.values() for m in (made.f_lr, made.f_sr) if len(m) > 3]
    shared = min(counts, default=3)
    chosen = _liveliest(list(learnt.values())[-1].f_sr[:shared], detail.channels)
    rows = {
        label: [
            *(_channel(png, made.f_lr, "F^LR", label, channel) for channel in chosen),
            *(_channel(_small, made.f_sr, "F^SR", label, channel) for channel in chosen),
        ]
        for label, made in learnt.items()
    }
    text = (
        f"The crop. Of the first {shared} channels those whose F^SR varies most in "
        f"{list(learnt)[-1]}; the same numbers of every network. Black is a channel's least value, "
        "white its greatest."
    )
    return _rows(text, rows, "four")


def _channel(
    encode: Callable[[Pixels], str], maps: Pixels, kind: str, label: str, channel: int
) -> Html | None:
    """One channel's figure; None where the network has fewer."""
    if channel >= len(maps):
        return None
    alt = f"Channel {channel} of {kind} of {label}"
    return _figure(encode(maps[channel]), kind, alt, note=f"channel {channel}", class_="pixels")


def _small(pixels: Pixels) -> str:
    return webp(pixels, 240)


def _liveliest(maps: Pixels, number: int) -> list[int]:
    """The channels with the greatest standard deviation, (C, H, W)."""
    spread = maps.std(axis=(1, 2))
    return sorted(int(channel) for channel in np.argsort(-spread, kind="stable")[:number])


def _figure(
    source: str, label: str, alt: str, note: str = "", id: str | None = None, class_: str = ""
) -> Html:
    picture = tag("img", src=source, alt=alt, id=id, class_=class_ or None)
    caption = tag("figcaption", tag("b", label), tag("span", note) if note else None)
    return tag("figure", picture, caption)


def _grid(
    text: str, figures: Sequence[Html], key: Html | None = None, class_: str = "grid"
) -> Html:
    above = tag("div", tag("p", text, class_="quiet"), key, class_="about")
    return join(above, tag("div", *figures, class_=class_))


def _rows(
    text: str, rows: Mapping[str, Sequence[Html | None]], columns: str, key: Html | None = None
) -> Html:
    """A row, or more, of figures for each network, under its name."""
    above = tag("div", tag("p", text, class_="quiet"), key, class_="about")
    networks = [
        tag("div", tag("h5", label), tag("div", *figures, class_=f"grid {columns}"))
        for label, figures in rows.items()
    ]
    return join(above, *networks)


def _heat_key(low: str, high: str) -> Html:
    stops = ", ".join(f"rgb({r:.0f} {g:.0f} {b:.0f})" for r, g, b in HEAT_TABLE)
    bar = tag("i", style=f"background: linear-gradient(to right, {stops})")
    return tag("span", low, bar, high, class_="key")
