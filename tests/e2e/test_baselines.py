"""Baselines of the paper's tables, TOFlow and VSR-DUF, from BasicSR's file to a trained network.

Their names and shapes are held against BasicSR's in tests/models. Not shown: a published file, none
of which can be shipped here.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stdpipe.models.checkpoints import load_network

Command = Callable[..., Any]
SETTINGS = {"steps": 2, "batch": 1, "patch": 32, "workers": 0, "save_every": 2}
BASELINES = ["toflow", "duf"]


@pytest.fixture
def theirs(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A baseline's name and a file as BasicSR saves it: parameters and statistics, no word of what
    it is. Norms have seen something."""
    net, _ = load_network(request.param, "random:0")
    for name, buffer in net.named_buffers():
        if "running" in name:
            buffer.copy_(torch.rand_like(buffer) + 0.5 * name.endswith("var"))
    torch.save({"params": net.state_dict()}, tmp_path / "theirs.pth")
    return request.param, tmp_path / "theirs.pth"


def parameters(file: Path) -> dict[str, Tensor]:
    content: dict[str, Tensor] = torch.load(file, weights_only=True)["params"]
    return content


@pytest.mark.parametrize("theirs", BASELINES, indirect=True)
def test_a_published_file_is_measured(
    tmp_path: Path, tiny: Path, stdpipe: Command, refused: Command, theirs: tuple[str, Path]
) -> None:
    """As it is, by its network's name and with its degradation, which the file does not say."""
    name, file = theirs
    measure = ("evaluate", "--data", tiny, "--out", tmp_path / "r")
    assert "does not say which network it is for" in refused(*measure, "--weights", file)
    network = (*measure, "--model", name, "--weights", file)
    assert "does not say which degradation it was trained for" in refused(*network)
    found = json.loads(stdpipe(*network, "--degradation", "bi", "--json").stdout)
    assert found["model"] == name
    assert found["degradation"]["name"] == "bi"
    assert found["average"]["psnr_y"] > 0


@pytest.mark.parametrize("theirs", BASELINES, indirect=True)
def test_it_trains_on(
    tmp_path: Path, tiny: Path, stdpipe: Command, theirs: tuple[str, Path]
) -> None:
    """From BasicSR's values, which a step moves by no more than the learning rate; each parameter
    moves, and each norm's statistics; what comes out can be measured by its name alone."""
    name, file = theirs
    settings = [x for k, v in SETTINGS.items() for x in ("--set", f"{k}={v}")]
    run = ("--data", tiny, "--degradation", "bi", "--out", tmp_path / "run", *settings)
    stdpipe("train-teacher", "--teacher", name, "--init", file, *run)
    before, after = parameters(file), parameters(tmp_path / "run" / "weights.pt")
    assert before.keys() == after.keys()
    fixed = {"mean", "std"}  # ImageNet's
    assert {k for k in before if torch.equal(before[k], after[k])} - fixed == set()
    trained, facts = load_network(None, str(tmp_path / "run" / "weights.pt"))
    assert facts["network"] == name
    far = [k for k, _ in trained.named_parameters() if (before[k] - after[k]).abs().max() > 1e-3]
    assert far == []
    measure = ("--weights", tmp_path / "run" / "weights.pt", "--out", tmp_path / "r", "--json")
    found = json.loads(stdpipe("evaluate", "--data", tiny, *measure).stdout)
    assert found["average"]["psnr_y"] > 0
