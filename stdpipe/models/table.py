"""What every named network is and costs (`stdpipe models`): counted here, published counts beside.

Counted as macs.py says; its deformable part is given apart, too.
"""

from typing import Any, NamedTuple

import torch

from stdpipe.models import zoo
from stdpipe.models.base import count_parameters
from stdpipe.models.macs import HEIGHT, WIDTH, count_macs


class Published(NamedTuple):
    """Where a network comes from, and its counts there; None where there is nothing to compare."""

    source: str
    parameters: int | None = None
    tmac: float | None = None  # from the published layers, one window at 180 x 120
    paper_tmac: float | None = None  # as the STD paper's tables have it
    form: str = ""  # what is other in the published form, whose counts these are


EDVR = "EDVR, CVPRW 2019; XPixelGroup/BasicSR"
FASTDVDNET = "FastDVDnet, CVPR 2020; m-tassano/fastdvdnet"
VSRNET = "VSRNet, IEEE TCI 2016; usstdqq/vsrnet_pytorch"
VESPCN = "VESPCN, CVPR 2017; LoSealL/VideoSuperResolution"
SOFVSR = "SOF-VSR, IEEE TIP 2020; The-Learning-And-Vision-Atelier-LAVA/SOF-VSR"
PUBLISHED = {
    "bicubic": Published("MATLAB's imresize(x, 4)"),
    "edvr": Published(EDVR, 3_300_131, 0.183),
    "edvr-m": Published(EDVR, 3_316_515, 0.237),
    "edvr-l": Published(EDVR, 20_699_363, 0.985, 0.93),
    "fastdvdnet": Published(FASTDVDNET, 2_479_096, 0.014, 0.06, form="5 frames, denoising"),
    "fastdvdnet-half": Published(FASTDVDNET),
    "fastdvdnet-quarter": Published(FASTDVDNET),
    "vdsr": Published("VDSR, CVPR 2016; LoSealL/VideoSuperResolution", 668_227, 0.2305, 0.22),
    "vsrnet": Published(VSRNET, 272_577, 0.098, form="5 frames, Y"),
    "vsrnet-deep": Published(f"{VSRNET}; deepened to the STD paper's cost", paper_tmac=0.23),
    "vespcn": Published(VESPCN, 878_787, 0.0187),
    "vespcn-deep": Published(f"{VESPCN}; deepened to the STD paper's cost", paper_tmac=0.26),
    "sofvsr": Published(SOFVSR, 1_047_617, 0.045, form="Y"),
    "d3dnet": Published("D3Dnet, IEEE SPL 2020; XinyiYing/D3Dnet", 2_579_941, 0.320, form="Y"),
    "rbpn": Published(
        "RBPN, CVPR 2019; alterzero/RBPN-PyTorch", 12_771_943, 3.18, form="384 channels before RGB"
    ),
    "toflow": Published("TOFlow, IJCV 2019; XPixelGroup/BasicSR", 1_405_899, 0.8145, 0.81),
    "duf": Published("VSR-DUF, CVPR 2018; XPixelGroup/BasicSR", 5_821_952, 0.6172, 0.62),
    "pisr": Published("PISR, ECCV 2020; cvlab-yonsei/PISR; around fastdvdnet"),
}


def describe(name: str) -> dict[str, Any]:
    """One row: what `stdpipe models --json` tells of a network."""
    with torch.device("meta"):
        net = zoo.parse(name).build()
    macs = count_macs(net)
    published = PUBLISHED.get(name, Published(""))
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
            "std_paper_tmac": published.paper_tmac,
        },
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of `describe` as Markdown."""
    head = (
        "| network | frames | parameters | TMAC | of these deformable | F^SR channels "
        "| published parameters | published TMAC | STD paper's TMAC | source |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n"
    )
    note = (
        f"\nTMAC: 10^12 multiply-accumulates of one window at {WIDTH} x {HEIGHT} LR pixels; "
        "convolutions,\nand the matrix products behind deformable sampling. EDVR takes less than "
        "published: the reference's\nhalf of each first offset convolution runs once."
    )
    return head + "\n".join(_line(row) for row in rows) + "\n" + note


def _line(row: dict[str, Any]) -> str:
    published = row["published"]
    form = f" ({published['form']})" if published["form"] else ""
    cells = [
        row["name"],
        row["frames"],
        f"{row['parameters']:,}",
        f"{row['tmac']:.3f}",
        f"{row['tmac_deformable']:.3f}" if row["tmac_deformable"] else "",
        row["f_sr_channels"],
        f"{published['parameters']:,}{form}" if published["parameters"] else "",
        f"{published['tmac']:.3f}{form}" if published["tmac"] else "",
        published["std_paper_tmac"] or "",
        row["source"],
    ]
    return f"| {' | '.join(str(cell) for cell in cells)} |"
