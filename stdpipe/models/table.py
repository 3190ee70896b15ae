"""The table of `stdpipe models`: each network's size and cost, beside the published counts."""

import math
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel

from stdpipe.cache.schema import check, read_yaml
from stdpipe.models import zoo
from stdpipe.models.base import Network, count_parameters
from stdpipe.models.fold import folded
from stdpipe.models.macs import HEIGHT, WIDTH, count_macs, steady_macs
from stdpipe.templates import markdown_table


class Published(BaseModel):
    """A network's source and the counts published there; None where none can be compared."""

    source: str
    role: Literal["teacher", "student", "baseline"] | None = None
    """What it is for; None in a user's own network."""
    parameters: int | None = None
    tmac: float | None = None
    """Multiply-accumulates (10^12) of the published layers, for one window at 180 x 120."""
    form: str = ""
    """The difference of the published form, which has these counts."""
    note: str = ""
    """The reason why the counts here differ from those, or from the paper's."""
    std_paper_tmac: float | None = None
    """The count in the STD paper's tables, in 10^12."""


FILE = Path(__file__).with_name("networks.yaml")
PUBLISHED = check(dict[str, Published], read_yaml(FILE), str(FILE))
HEAD = ("network", "role", "kind", "frames", "parameters", "MB", "TMAC", "of these deformable",
        "F^SR channels", "published parameters", "published TMAC", "STD paper's TMAC",
        "source")  # fmt: skip
SIZED = ("network", "role", "kind", "GMAC a frame", "state MB", "file MB", "parameters")
FLOAT_BYTES = 4
SMALL = 0.01  # TMAC below which three decimals say too little


class Size(NamedTuple):
    """An LR size, in pixels."""

    width: int
    height: int


def describe_network(name: str, size: Size | None = None) -> dict[str, Any]:
    """Return a network's row of `stdpipe models`; with options, it has no published counts.

    size: where given, the row also holds what a frame of that size costs in a long video: gmac,
    with work that windows share counted once, and state_bytes, what a causal network carries.
    """
    with torch.device("meta"):
        net = folded(zoo.parse(name).build())  # as it is exported
    macs = count_macs(net)
    base = PUBLISHED.get(name.partition(":")[0], Published(source=""))
    published = PUBLISHED.get(name, Published(source=base.source))
    return {
        "name": name,
        "role": base.role,
        "kind": net.kind,
        "frames": net.input_shapes(8, 8)[0][1],
        "parameters": count_parameters(net),
        "file_bytes": FLOAT_BYTES * count_parameters(net),
        "tmac": macs.total / 1e12,
        "tmac_deformable": macs.deformable / 1e12,
        "f_sr_channels": net.f_sr_channels,
        "source": published.source,
        "published": published.model_dump(exclude={"source", "role"}),
        **(_of_size(net, size) if size else {}),
    }


def _of_size(net: Network, size: Size) -> dict[str, Any]:
    state = net.input_shapes(size.height, size.width)[1:]
    return {
        "size": f"{size.width}x{size.height}",
        "gmac": steady_macs(net, size.height, size.width).total / 1e9,
        "state_bytes": FLOAT_BYTES * sum(map(math.prod, state)),
    }


def sized_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows of `describe_network` with a size as Markdown, the cheapest first."""
    table = [
        (
            *(row["name"], row["role"] or "", row["kind"], f"{row['gmac']:.2f}"),
            f"{row['state_bytes'] / 1e6:.2f}" if row["state_bytes"] else "",
            *(f"{row['file_bytes'] / 1e6:.2f}", f"{row['parameters']:,}"),
        )
        for row in sorted(rows, key=itemgetter("gmac"))
    ]
    text = markdown_table(SIZED, table, 3)
    return (
        f"{text}\n\nGMAC: 10^9 multiply-accumulates of one more frame of {rows[0]['size']} LR "
        "pixels in a long video;\nconvolutions and matrix products. State and file are float32."
    )


def network_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows of `describe_network` as Markdown."""
    table = markdown_table(HEAD, map(cells, rows), 3, last=1)
    note = (
        f"\nTMAC: 10^12 multiply-accumulates of one window at {WIDTH} x {HEIGHT} LR pixels; "
        "convolutions,\nand the matrix products behind deformable sampling. EDVR takes less than "
        "published: the reference's\nhalf of each first offset convolution runs once."
    )
    noted = [(row["name"], row["published"]["note"]) for row in rows]
    notes = [f"- {name}: {text}" for name, text in noted if text]
    return "\n".join([table, note, "", *notes])


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a row of the table, in the order of HEAD."""
    published = row["published"]
    form = f" ({published['form']})" if published["form"] else ""
    return (
        row["name"],
        row["role"] or "",
        row["kind"],
        str(row["frames"]),
        f"{row['parameters']:,}",
        f"{row['file_bytes'] / 1e6:.2f}",
        f"{row['tmac']:.3f}" if row["tmac"] >= SMALL else f"{row['tmac']:.2g}",
        f"{row['tmac_deformable']:.3f}" if row["tmac_deformable"] else "",
        str(row["f_sr_channels"]),
        f"{published['parameters']:,}{form}" if published["parameters"] else "",
        f"{published['tmac']:.3f}{form}" if published["tmac"] else "",
        str(published["std_paper_tmac"] or ""),
        row["source"],
    )
