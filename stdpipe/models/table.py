"""The table of `stdpipe models`: each network's size and cost, beside the published counts."""

from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from tabulate import tabulate

from stdpipe.cache.schema import check, read_yaml
from stdpipe.models import zoo
from stdpipe.models.base import count_parameters
from stdpipe.models.macs import HEIGHT, WIDTH, count_macs


class Published(BaseModel):
    """A network's source and the counts published there; None where none can be compared."""

    source: str
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
HEAD = ("network", "frames", "parameters", "TMAC", "of these deformable", "F^SR channels",
        "published parameters", "published TMAC", "STD paper's TMAC", "source")  # fmt: skip


def describe_network(name: str) -> dict[str, Any]:
    """Return a network's row of `stdpipe models`; with options, it has no published counts."""
    with torch.device("meta"):
        net = zoo.parse(name).build()
    macs = count_macs(net)
    base = PUBLISHED.get(name.partition(":")[0], Published(source=""))
    published = PUBLISHED.get(name, Published(source=base.source))
    return {
        "name": name,
        "frames": net.num_frame,
        "parameters": count_parameters(net),
        "tmac": macs.total / 1e12,
        "tmac_deformable": macs.deformable / 1e12,
        "f_sr_channels": net.f_sr_channels,
        "source": published.source,
        "published": published.model_dump(exclude={"source"}),
    }


def network_table(rows: list[dict[str, Any]]) -> str:
    """Return the rows of `describe_network` as Markdown."""
    align = ["left", *["right"] * (len(HEAD) - 2), "left"]
    table = tabulate(map(cells, rows), HEAD, tablefmt="pipe", colalign=align, disable_numparse=True)
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
        str(row["frames"]),
        f"{row['parameters']:,}",
        f"{row['tmac']:.3f}",
        f"{row['tmac_deformable']:.3f}" if row["tmac_deformable"] else "",
        str(row["f_sr_channels"]),
        f"{published['parameters']:,}{form}" if published["parameters"] else "",
        f"{published['tmac']:.3f}{form}" if published["tmac"] else "",
        str(published["std_paper_tmac"] or ""),
        row["source"],
    )
