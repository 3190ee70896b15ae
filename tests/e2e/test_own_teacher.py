"""Other teachers than EDVR, from training to a distilled student: examples/own_teacher.py, RBPN."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stdpipe import cache
from stdpipe.data.layouts import find_clips
from stdpipe.data.samples import read_frames, view_pair
from stdpipe.data.views import View, orient
from stdpipe.device import settle
from stdpipe.models.base import Network
from stdpipe.models.checkpoints import load_network

Command = Callable[..., Any]
EXAMPLE = Path(__file__).parents[2] / "examples" / "own_teacher.py"
OWN = "own_teacher:Mine"
SETTINGS = ("--set", "steps=2", "--set", "batch=1", "--set", "patch=32", "--set", "workers=0")
RBPN = "rbpn:num_frame=3,num_feat=8,num_base=8,num_resblock=1"


@pytest.fixture
def beside_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example in the folder where the commands run, as for a user; not yet imported."""
    shutil.copy(EXAMPLE, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("own_teacher", "tailed"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def lies_in(store: Path, teacher: Network, data: Path) -> bool:
    """Whether each cached F^SR is what this teacher computes from the clip, bit for bit."""
    teacher = settle(teacher, torch.device("cpu"))
    reader = cache.open_reader(store)
    clips = {clip.key: clip for clip in find_clips(data, "train")}
    same = []
    for view in map(View.parse, reader.entries):
        lr = view_pair(read_frames(clips[view.clip]).hr, view, "bd")[1]
        with torch.inference_mode():
            f_sr = teacher.features_clip(lr[None]).f_sr[0]
        stored = torch.from_numpy(reader.read(str(view), "f_sr"))
        same.append(torch.equal(orient(stored, view.orientation), f_sr))
    return bool(same) and all(same)


def test_the_example_teaches(
    beside_the_example: Path, tiny: Path, stdpipe: Command, train: Command
) -> None:
    """Trained, run over the training set, and its features taught; it is found by its name."""
    net = ("--data", tiny, "--teacher", f"{OWN}:width=8")
    stdpipe("train-teacher", *net, "--out", "mine", *SETTINGS)
    weights = ("--weights", "mine/weights.pt", "--cache", "c.zarr")
    made = stdpipe("extract-teacher", *net, *weights, "--encoding", "float32", "--json")
    assert json.loads(made.stdout)["teacher"] == f"{OWN}:phase=0.0,width=8"
    teacher, _ = load_network(OWN, "mine/weights.pt")
    assert lies_in(beside_the_example / "c.zarr", teacher, tiny)
    found = json.loads(stdpipe(*train("run", tiny, "--cache", "c.zarr", "--json")).stdout)
    assert found["sd"] > 0
    assert found["td"] > 0


def test_an_own_teachers_trunk_is_refused_before_it_is_stored(
    beside_the_example: Path, tiny: Path, refused: Command
) -> None:
    """Training builds the tail from what the cache names, and no file may have a module imported:
    said before hours of extraction, not after."""
    tailed = "from own_teacher import Mine\nclass Tailed(Mine):\n    tail, halo = ('up',), 1\n"
    (beside_the_example / "tailed.py").write_text(tailed)
    told = refused(
        "extract-teacher", "--data", tiny, "--teacher", "tailed:Tailed", "--weights", "random:0",
        "--cache", "c.zarr", "--encoding", "trunk-int8",
    )  # fmt: skip
    assert "tailed:Tailed:phase=0.0 would be imported" in told
    assert "choose float16 or int8" in told
    assert not (beside_the_example / "c.zarr").exists()


def test_rbpn_teaches(tmp_path: Path, tiny: Path, stdpipe: Command, train: Command) -> None:
    """From a published checkpoint: its new head trained alone, then as any teacher."""
    original, _ = load_network(f"{RBPN},published_head=true", "random:0")
    torch.save(original.state_dict(), tmp_path / "rbpn.pth")
    net, run = ("--data", tiny, "--teacher", RBPN), tmp_path / "head"
    only = ("--init", tmp_path / "rbpn.pth", "--set", "train_only=output")
    stdpipe("train-teacher", *net, "--out", run, *only, *SETTINGS)
    store = ("--weights", run / "weights.pt", "--cache", tmp_path / "c")
    stdpipe("extract-teacher", *net, *store, "--encoding", "float32")
    teacher, _ = load_network(None, str(run / "weights.pt"))
    assert torch.equal(teacher.state_dict()["feat0.conv.weight"], original.feat0.conv.weight)  # type: ignore[union-attr]
    assert lies_in(tmp_path / "c", teacher, tiny)
    cached = train(tmp_path / "run", tiny, "--cache", tmp_path / "c", "--json")
    found = json.loads(stdpipe(*cached).stdout)
    assert found["sd"] > 0
    assert found["td"] > 0


@pytest.mark.parametrize(
    ("teacher", "encoding", "told"),
    [
        (RBPN, "trunk-int8", "RBPN has no trunk that a tail turns into f_sr: choose an encoding"),
        ("rrn-8", "int8", "has no F^SR"),
    ],
    ids=["trunk", "shuffled"],
)
def test_refused(
    tmp_path: Path, tiny: Path, refused: Command, teacher: str, encoding: str, told: str
) -> None:
    """What has no trunk, or no F^SR that a student could match."""
    job = ("--teacher", teacher, "--weights", "random:0", "--encoding", encoding)
    job += ("--targets", "f_sr,attention")
    answer = refused("extract-teacher", "--data", tiny, "--cache", tmp_path / "c", *job)
    assert told in answer
    assert not (tmp_path / "c").exists()


def test_the_plan_of_a_teacher_without_a_trunk(
    tmp_path: Path, tiny: Path, stdpipe: Command
) -> None:
    """What its encodings cost is told, and nothing is written."""
    job = ("--teacher", RBPN, "--weights", "random:0", "--cache", tmp_path / "c", "--plan")
    stdpipe("extract-teacher", "--data", tiny, *job)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("name", [RBPN, "toflow:num_frame=3,num_feat=4,num_flow_feat=2",
                                  "duf:num_layer=16,num_feat=4"])  # fmt: skip
def test_evaluate(tmp_path: Path, tiny: Path, stdpipe: Command, name: str) -> None:
    """The second teacher and the baselines are measured as any network, with pictures."""
    measure = ("--model", name, "--weights", "random:0", "--out", tmp_path / "r", "--json")
    found = json.loads(stdpipe("evaluate", "--data", tiny, *measure).stdout)
    assert found["model"].startswith(name.split(":")[0])
    assert found["average"]["psnr_y"] > 0
    assert list((tmp_path / "r" / "pictures").iterdir())
