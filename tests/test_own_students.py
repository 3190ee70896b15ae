"""The students that stdpipe comes with: what they cost, and what they gain without being told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stdpipe import assets
from stdpipe.data.frames import read_clip
from stdpipe.data.layouts import find_one_clip
from stdpipe.models.checkpoints import load_network
from stdpipe.models.table import Size, describe_network

Command = Callable[..., Any]
CLIP = assets.SAMPLE / "sequences" / "00001" / "0022"  # held out from them and from their teacher


@pytest.mark.parametrize(("name", "gmac"), [("embedded-small", 1), ("embedded-student", 10)])
def test_what_they_cost(name: str, gmac: float) -> None:
    file = assets.EMBEDDED[name]
    net, facts = load_network(None, str(file))
    assert net.kind == "causal"
    assert facts["degradation"] == "bi"  # for ordinary footage
    assert describe_network(facts["network"], Size(320, 180))["gmac"] < gmac
    assert (
        sum(assets.EMBEDDED[n].stat().st_size for n in ("embedded-small", "embedded-student")) < 2e6
    )


def test_what_they_gain(stdpipe: Command) -> None:
    """On a clip of the sample that was held out; the better one is the one that upscale takes."""
    names = [f"@{name}" for name in ("embedded-small", "embedded-student")]
    models = [word for name in ("bicubic", *names) for word in ("--model", name)]
    found = json.loads(
        stdpipe("evaluate", "--data", CLIP, *models, "--degradation", "bi", "--json").stdout
    )
    bicubic, small, large = (network["average"]["psnr_y"] for network in found["networks"])
    assert small > bicubic + 0.4
    assert large > small


def test_upscale_takes_the_better_one(tmp_path: Path, stdpipe: Command) -> None:
    """Without weights, and says so; the frames are those of its file."""
    given = ("upscale", CLIP, "--tile", 0)
    told = stdpipe(*given, tmp_path / "a").stdout
    assert "own student" in told
    other = stdpipe(*given, tmp_path / "b", "--weights", "embedded-student").stdout
    assert "own student" not in other
    one, two = (read_clip(find_one_clip(tmp_path / name)) for name in "ab")
    assert torch.equal(torch.from_numpy(one), torch.from_numpy(two))
