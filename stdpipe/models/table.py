"""What every named network is and costs (`stdpipe models`), beside its published counts.

Costs are counted as macs.py says, and the part of deformable convolutions is given apart, too.
"""

from typing import Any, NamedTuple

import torch
from tabulate import tabulate

from stdpipe.models import zoo
from stdpipe.models.base import count_parameters
from stdpipe.models.macs import HEIGHT, WIDTH, count_macs


class Published(NamedTuple):
    """A network's source and the counts published there; None where none can be compared."""

    source: str
    parameters: int | None = None
    tmac: float | None = None  # from the published layers, one window at 180 x 120
    paper_tmac: float | None = None  # as the STD paper's tables have it
    form: str = ""  # what is other in the published form, whose counts these are
    note: str = ""  # why the counts here differ from those, or from the paper's


EDVR = "EDVR, CVPRW 2019; XPixelGroup/BasicSR"
FASTDVDNET = "FastDVDnet, CVPR 2020; m-tassano/fastdvdnet"
VSRNET = "VSRNet, IEEE TCI 2016; usstdqq/vsrnet_pytorch"
VESPCN = "VESPCN, CVPR 2017; LoSealL/VideoSuperResolution"
SOFVSR = "SOF-VSR, IEEE TIP 2020; The-Learning-And-Vision-Atelier-LAVA/SOF-VSR"
PUBLISHED = {
    "bicubic": Published("MATLAB's imresize(x, 4)"),
    "edvr": Published(EDVR, 3_300_131, 0.183),
    "edvr-m": Published(EDVR, 3_316_515, 0.237),
    "edvr-l": Published(
        EDVR,
        20_699_363,
        0.985,
        0.93,
        note="the paper's 0.93 is the published form without its deformable products, 0.052",
    ),
    "fastdvdnet": Published(
        FASTDVDNET,
        2_479_096,
        0.014,
        0.06,
        form="5 frames, denoising",
        note="the paper's form is in a supplement that is not public; ours has a third stage and "
        "EDVR's head, at the cost of its table; unless norm=batch, LeakyReLU and biases stand in "
        "place of batch norm and ReLU, and frames are seen less their surroundings' mean",
    ),
    "fastdvdnet-half": Published(FASTDVDNET),
    "fastdvdnet-quarter": Published(FASTDVDNET),
    "vdsr": Published(
        "VDSR, CVPR 2016; LoSealL/VideoSuperResolution",
        665_921,
        0.2297,
        0.22,
        form="Y",
        note="RGB; as published, vdsr:channels=1, the published counts; the paper may have cut "
        "0.2297 off to 0.22",
    ),
    "vsrnet": Published(
        VSRNET,
        272_577,
        0.098,
        form="5 frames, Y",
        note="7 frames of RGB less a local mean, and the output a residual to the bicubic frame; "
        "as published, vsrnet:num_frame=5,channels=1,residual=false, the published counts",
    ),
    "vsrnet-deep": Published(
        f"{VSRNET}; deepened to the STD paper's cost",
        paper_tmac=0.23,
        note="a guess: the published layers take 0.137 for the paper's 7 frames, and end in 32 "
        "channels",
    ),
    "vespcn": Published(
        VESPCN,
        868_177,
        0.0181,
        form="Y",
        note="RGB, and the output a residual to the bilinear frame; as published, "
        "vespcn:channels=1,residual=false, the published counts",
    ),
    "vespcn-deep": Published(
        f"{VESPCN}; deepened to the STD paper's cost",
        paper_tmac=0.26,
        note="a guess: the published layers take a fourteenth of the paper's 0.26",
    ),
    "sofvsr": Published(
        SOFVSR,
        1_047_617,
        0.045,
        form="Y",
        note="RGB, and the output a residual to the bilinear frame; as published, "
        "sofvsr:channels=1,residual=false, the published counts",
    ),
    "d3dnet": Published(
        "D3Dnet, IEEE SPL 2020; XinyiYing/D3Dnet",
        2_579_941,
        0.320,
        form="Y",
        note="RGB; as published, d3dnet:channels=1, the published counts",
    ),
    "rbpn": Published(
        "RBPN, CVPR 2019; alterzero/RBPN-PyTorch",
        12_771_943,
        3.18,
        form="384 channels before RGB",
        note="a head of 384 -> 64 -> 3 (+0.07); the last back-projection, which reaches no output, "
        "is left out (-0.15)",
    ),
    "toflow": Published("TOFlow, IJCV 2019; XPixelGroup/BasicSR", 1_405_899, 0.8145, 0.81),
    "duf": Published("VSR-DUF, CVPR 2018; XPixelGroup/BasicSR", 5_821_952, 0.6172, 0.62),
    "pisr": Published("PISR, ECCV 2020; cvlab-yonsei/PISR; around fastdvdnet"),
}


HEAD = (
    "network",
    "frames",
    "parameters",
    "TMAC",
    "of these deformable",
    "F^SR channels",
    "published parameters",
    "published TMAC",
    "STD paper's TMAC",
    "source",
)


def describe_network(name: str) -> dict[str, Any]:
    """One row: what `stdpipe models --json` tells of a network. Nothing is published of one with
    options, or of a user's own."""
    with torch.device("meta"):
        net = zoo.parse(name).build()
    macs = count_macs(net)
    published = PUBLISHED.get(name, Published(_source(name)))
    return {
        "name": name,
        "frames": net.num_frame,
        "parameters": count_parameters(net),
        "tmac": macs.total / 1e12,
        "tmac_deformable": macs.deformable / 1e12,
        "f_sr_channels": net.f_sr_channels,
        "source": published.source,
        "published": {
            "parameters": published.parameters,
            "tmac": published.tmac,
            "form": published.form,
            "note": published.note,
            "std_paper_tmac": published.paper_tmac,
        },
    }


def _source(name: str) -> str:
    base = PUBLISHED.get(name.partition(":")[0])
    return base.source if base else ""


def network_table(rows: list[dict[str, Any]]) -> str:
    """The rows of `describe_network` as Markdown."""
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
    """A row of the table, in the order of HEAD."""
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
