"""Counts of every named network, and how `stdpipe models` tells them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stdpipe.models import zoo
from stdpipe.models.macs import count_macs
from stdpipe.models.table import PUBLISHED, describe_network, network_table
from stdpipe.models.zoo import ZOO

Command = Callable[..., Any]
PUBLISHED_FORMS = {
    "edvr": "edvr",
    "edvr-m": "edvr-m",
    "edvr-l": "edvr-l",
    "vdsr": "vdsr:channels=1",
    "vsrnet": "vsrnet:num_frame=5,channels=1,residual=false",
    "vespcn": "vespcn:channels=1,residual=false",
    "sofvsr": "sofvsr:channels=1,residual=false",
    "d3dnet": "d3dnet:channels=1",
}


@pytest.fixture(scope="module")
def rows(stdpipe: Command) -> dict[str, dict[str, Any]]:
    """Every network's row, counted once: a dozen seconds."""
    told = json.loads(stdpipe("models", "--json").stdout)["models"]
    assert [row["name"] for row in told] == list(ZOO)
    return {row["name"]: row for row in told}


def test_every_network_has_a_source() -> None:
    assert PUBLISHED.keys() == ZOO.keys()


FAST = ("vdsr", "vsrnet", "vespcn", "fastdvdnet")


@pytest.mark.parametrize(
    "name", [x if x in FAST else pytest.param(x, marks=pytest.mark.slow) for x in PUBLISHED_FORMS]
)
def test_published_counts_are_counted_again(name: str) -> None:
    """Parameters and TMAC; EDVR's TMAC are fewer, since the reference's half of each first offset
    convolution is published as run for every neighbour. FastDVDnet's are of the denoiser."""
    published, form = PUBLISHED[name], PUBLISHED_FORMS[name]
    row = describe_network(form)
    assert published.tmac
    assert row["parameters"] == published.parameters
    if name.startswith("edvr"):
        assert 0.93 * published.tmac < row["tmac"] < published.tmac
    else:
        assert row["tmac"] == pytest.approx(published.tmac, abs=5e-4)


@pytest.mark.parametrize("name", PUBLISHED_FORMS)
def test_the_note_names_the_published_form(name: str) -> None:
    """Where the default is another; of what makes it another all but the window's options."""
    form = PUBLISHED_FORMS[name]
    assert form == name or f"as published, {form}, the published counts" in PUBLISHED[name].note


def test_deformable_sampling_is_counted_apart() -> None:
    """A 64-channel DCNv2 with 8 groups: conv_offset is a convolution, the rest is not."""
    with torch.device("meta"):
        net = zoo.parse("edvr-m").build()
    macs = count_macs(net, height=4, width=8)
    assert macs.deformable == 7 * 64 * 64 * 9 * (2 * 32 + 8 + 2)  # L1 twice, L2, L3


def test_json(stdpipe: Command) -> None:
    vdsr, vsrnet = json.loads(stdpipe("models", "vdsr", "vsrnet", "--json").stdout)["models"]
    assert describe_network("vdsr") == vdsr
    assert (vsrnet["frames"], vsrnet["f_sr_channels"]) == (7, 32)
    assert vsrnet["published"]["form"] == "5 frames, Y"


def test_text_is_a_markdown_table(stdpipe: Command) -> None:
    text = stdpipe("models", "bicubic", "vdsr").stdout
    lines = [line for line in text.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in table[2:]] == ["bicubic", "vdsr"]
    assert {len(row) for row in table} == {13}
    vdsr = next(row for row in table if row[0] == "vdsr")
    counts = ["668,227", "2.67", "0.231", "", "64", "665,921 (Y)", "0.230 (Y)", "0.22"]
    assert vdsr[1:12] == ["student", "window", "1", *counts]
    assert vdsr[12].startswith("VDSR")
    small = next(x for x in stdpipe("models", "rrn").stdout.splitlines() if x.startswith("| rrn "))
    assert small.split("|")[7].strip() == "0.00077"


def test_a_size_orders_by_what_a_frame_costs(stdpipe: Command, refused: Command) -> None:
    """In a long video: work that windows share counts once; a state has bytes."""
    names = ("fastdvdnet-eighth", "rrn", "vespcn")
    told = json.loads(stdpipe("models", *names, "--size", "320x180", "--json").stdout)["models"]
    light, rrn, vespcn = told
    kernels = 35_664 - 12 * 16 - 48  # less the biases
    assert rrn["gmac"] == pytest.approx(kernels * 320 * 180 / 1e9)
    assert rrn["state_bytes"] == 16 * 320 * 180 * 4
    assert light["gmac"] == pytest.approx(1.37, abs=0.005)
    assert light["state_bytes"] == vespcn["state_bytes"] == 0
    # three blocks a frame in place of nine a window
    assert light["gmac"] < 0.65 * describe_network(names[0])["tmac"] * 1e3 * (320 * 180) / (
        180 * 120
    )
    lines = stdpipe("models", *names, "--size", "320x180").stdout.splitlines()
    assert [line.split()[1] for line in lines[2:5]] == list(names)
    for size in ("320", "00x10"):
        assert "320x180" in refused("models", "rrn", "--size", size, code=2)


@pytest.mark.parametrize(
    ("special", "plain"),
    [("rrn:wide=2", "rrn"), ("rlsp:contract=true", "rlsp"), ("swrn:contract=true", "swrn")],
)
def test_counts_are_of_what_is_exported(stdpipe: Command, special: str, plain: str) -> None:
    """Convolutions that are folded at export count as the plain ones that they become."""
    told = json.loads(stdpipe("models", special, plain, "--size", "32x18", "--json").stdout)
    one, other = ({**row, "name": "", "published": ""} for row in told["models"])
    assert one == other


@pytest.mark.slow
def test_what_differs_is_explained(rows: dict[str, dict[str, Any]]) -> None:
    """Counts unlike the published or the paper's have a note; EDVR's own is under the table."""
    text = network_table(list(rows.values()))
    for name, row in rows.items():
        published = row["published"]
        same = published["parameters"] in (None, row["parameters"]) and (
            published["std_paper_tmac"] in (None, round(row["tmac"], 2))
        )
        assert same or published["note"], name
        if published["note"]:
            assert f"- {name}: {published['note']}" in text.splitlines()


def test_any_name_is_described(
    stdpipe: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With options and a user's own, in the order given, of which nothing is published."""
    monkeypatch.chdir(tmp_path)
    own = "from stdpipe.models.bicubic import Bicubic\n\n\nclass Own(Bicubic):\n    num_frame = 3\n"
    Path("own_table.py").write_text(own)
    names = ("vdsr:channels=1", "own_table:Own")
    y, mine = json.loads(stdpipe("models", *names, "--json").stdout)["models"]
    assert (y["name"], y["parameters"], y["published"]["parameters"]) == (names[0], 665_921, None)
    assert y["source"] == PUBLISHED["vdsr"].source
    assert (mine["name"], mine["frames"], mine["source"]) == ("own_table:Own", 3, "")
    lines = stdpipe("models", *names).stdout.splitlines()
    assert [line.split()[1] for line in lines[2:4]] == list(names)


def test_a_name_that_is_none(refused: Command) -> None:
    assert "did you mean 'vdsr'?" in refused("models", "vdrs", code=2)
