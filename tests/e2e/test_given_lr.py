"""LR that is given, or all that there is, or a camera's: from extraction to the report."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from torch import Tensor

from stdpipe import CachedClips, Distillation
from stdpipe.api import degrade_clip
from stdpipe.cache.errors import UserError
from stdpipe.data.pairs import find_pairs
from stdpipe.data.samples import Stream
from stdpipe.data.views import View, baked_views
from stdpipe.training.metrics_log import read_metrics

Command = Callable[..., Any]
RULES = ("--model", "bicubic", "--protocol", "vid4", "--crop", 0, "--json")


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.fixture
def beside(tmp_path: Path, apart: Path, stdpipe: Command) -> Callable[[str], Path]:
    """beside(how): a folder of LR that stdpipe wrote of the set `apart`."""

    def write(how: str) -> Path:
        folder = tmp_path / f"lr-{how.replace(':', '_')}"
        stdpipe("degrade", apart, folder, "--degradation", how)
        return folder

    return write


def test_given_equals_made(
    tmp_path: Path, apart: Path, beside: Command, train: Command, extract: Command,
    stdpipe: Command,
) -> None:  # fmt: skip
    """Extraction, training with and without a cache, and evaluation: loss for loss, score for
    score."""
    lr = ("--lr", beside("bi"))
    found: dict[str, Any] = {}
    for name, how in (("made", ("--degradation", "bi")), ("given", lr)):
        cache = tmp_path / f"{name}.zarr"
        stdpipe(*extract(apart, cache, *how))
        data = lr if name == "given" else ()
        stdpipe(*train(tmp_path / name, apart, *data, "--cache", cache, "--scheme", "std,output=1"))
        stdpipe(*train(tmp_path / f"{name}-none", apart, *how, "--student", "rrn-8", "--scheme",
                       "none", warm_start=1))  # fmt: skip
        told = json.loads(stdpipe("evaluate", "--data", apart, *how, *RULES).stdout)
        found[name] = [
            losses(tmp_path / name),
            losses(tmp_path / f"{name}-none"),
            told["average"],
            told["clips"],
        ]
    assert found["given"] == found["made"]
    manifest = json.loads((tmp_path / "given.zarr/manifest.json").read_text())
    assert manifest["made_by"]["degradation"] == "given:phase=1.5"


def test_bd_is_transposed_alone(
    tmp_path: Path, apart: Path, beside: Command, extract: Command, stdpipe: Command,
    refused: Command,
) -> None:  # fmt: skip
    """LR of phase 0 cannot be flipped; a cache has it upright or transposed."""
    lr = ("--lr", beside("bd"))
    stdpipe(*extract(apart, tmp_path / "c.zarr", *lr, "--orientations", 2))
    made = json.loads((tmp_path / "c.zarr/manifest.json").read_text())
    assert {entry[-1] for entry in made["entries"]} == {"0", "4"}
    assert "1 to 2" in refused(*extract(apart, tmp_path / "d.zarr", *lr, "--orientations", 3))
    stdpipe("cache", "verify", tmp_path / "c.zarr")
    stdpipe("cache", "check", tmp_path / "c.zarr", "--teacher-weights", "random:0")


def test_lr_is_part_of_the_identity(
    tmp_path: Path, apart: Path, beside: Command, train: Command, extract: Command,
    stdpipe: Command, refused: Command,
) -> None:  # fmt: skip
    """Other LR under the same names is refused in training; another phase by the cache's name."""
    folder = beside("bi")
    stdpipe(*extract(apart, tmp_path / "c.zarr", "--lr", folder))
    given = ("--lr", folder, "--cache", tmp_path / "c.zarr", "--scheme", "output")
    stdpipe(*train(tmp_path / "a", apart, *given))
    for file in folder.glob("sequences/*/*/im4.png"):
        iio.imwrite(file, 255 - iio.imread(file))
    told = refused(*train(tmp_path / "b", apart, *given))
    assert "crc32" in told
    told = refused(*train(tmp_path / "b", apart, *given, "--degradation", "given:phase=0"))
    assert "phase=1.5" in told
    assert "phase=0" in told
    assert "--lr" in refused(*train(tmp_path / "b", apart, *given[2:]))


def test_given_is_the_default_where_it_lies_beside(
    tmp_path: Path, save_frames: Command, stdpipe: Command, refused: Command
) -> None:
    """GT beside BIx4: scored as it is, unless another degradation is asked for, which is told."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
    (tmp_path / "set/GT").mkdir(parents=True)
    save_frames(tmp_path / "set/GT/a", coarse.repeat(4, 1).repeat(4, 2))
    stdpipe("degrade", tmp_path / "set", tmp_path / "set/BIx4", "--degradation", "bi")
    told = json.loads(stdpipe("evaluate", "--data", tmp_path / "set", *RULES).stdout)
    assert told["degradation"]["name"] == "given:phase=1.5"
    made = stdpipe("evaluate", "--data", tmp_path / "set", "--degradation", "bi", *RULES)
    assert "BIx4" in made.stderr
    assert json.loads(made.stdout)["average"] == told["average"]
    black = iio.imread(tmp_path / "set/BIx4/a/00000001.png") * 0
    iio.imwrite(tmp_path / "set/BIx4/a/00000001.png", black)
    worse = json.loads(stdpipe("evaluate", "--data", tmp_path / "set", "--degradation",
                               "given:phase=1.5", *RULES).stdout)  # fmt: skip
    assert worse["average"]["psnr_y"] < told["average"]["psnr_y"]
    report = tmp_path / "report"
    stdpipe("evaluate", "--data", tmp_path / "set", *RULES[:-1], "--out", tmp_path / "e",
            "--degradation", "given:phase=1.5")  # fmt: skip
    stdpipe("report", tmp_path / "e", "--out", report)
    assert "No pictures" not in (report / "index.html").read_text()


def test_weights_for_another_phase(
    tmp_path: Path, beside: Command, apart: Path, stdpipe: Command
) -> None:
    """LR of phase 1.5 beside HR is not shown to weights for `bd`, unless somebody asks for it."""
    (tmp_path / "set").mkdir()
    shutil.copytree(apart / "sequences/00001", tmp_path / "set/GT")
    shutil.copytree(beside("bi") / "sequences/00001", tmp_path / "set/BIx4")
    rules = ("--data", tmp_path / "set", "--model", "@embedded", "--json")
    ran = stdpipe("evaluate", *rules)
    assert "phase=1.5" in ran.stderr
    told = json.loads(ran.stdout)
    assert told["degradation"]["name"] == "bd"
    made = ("--weights", "embedded", "--targets", "sr", "--json")
    stdpipe("extract-teacher", "--data", tmp_path / "set", "--cache", tmp_path / "c.zarr", *made)
    manifest = json.loads((tmp_path / "c.zarr/manifest.json").read_text())
    assert manifest["made_by"]["degradation"] == "bd"
    asked = json.loads(stdpipe("evaluate", *rules, "--degradation", "given").stdout)
    assert asked["degradation"]["name"] == "given:phase=1.5"
    student = ("--model", "@embedded-small", "--data", tmp_path / "set", "--json")
    ran = stdpipe("evaluate", *student)
    assert json.loads(ran.stdout)["degradation"]["name"] == "given:phase=1.5"
    assert "for bi" not in ran.stderr


@pytest.mark.parametrize("targets", ["sr", "sr,f_sr,attention"])
def test_lr_alone(
    tmp_path: Path, apart: Path, beside: Command, train: Command, extract: Command,
    stdpipe: Command, refused: Command, targets: str,
) -> None:  # fmt: skip
    """The teacher labels clips without HR: they train by `output`, and are counted, and nothing
    scores them."""
    folder = beside("bi")
    gone = apart / "sequences/00001/0002"
    shutil.rmtree(gone)
    kept = (apart / "sep_trainlist.txt").read_text().replace("00001/0002\n", "")
    (apart / "sep_trainlist.txt").write_text(kept)
    lr, cache = ("--lr", folder), tmp_path / "c.zarr"
    plan = json.loads(stdpipe(*extract(apart, cache, *lr, "--targets", targets, "--plan",
                                       "--json")).stdout)  # fmt: skip
    assert (plan["entries"], plan["lr_alone"]) == (3, 1)
    stdpipe(*extract(apart, cache, *lr, "--targets", targets))
    told = json.loads(stdpipe("cache", "info", cache, "--json").stdout)
    assert told["lr_alone"] == 1
    assert "LR alone" in stdpipe("cache", "info", cache).stdout
    given = (*lr, "--cache", cache)
    run = tmp_path / "run"
    stdpipe(*train(run, apart, *given, "--scheme", "output", "--student", "rrn-8", steps=6,
                   warmup_steps=0, batch=1))  # fmt: skip
    rows = read_metrics(run / "metrics.jsonl")
    recs = [row["rec"] for row in rows]
    assert recs.count(0) == 2  # each of three clips is seen twice
    assert all(row["output"] > 0 for row in rows)
    assert "output" in refused(*train(tmp_path / "n", apart, *given, "--scheme", "none"))
    assert "LR alone" in refused("train-teacher", "--data", apart, *lr, "--teacher", "rrn-8",
                                 "--out", tmp_path / "t")  # fmt: skip
    stdpipe("evaluate", "--data", apart, *lr, *RULES)  # the test clip has HR
    told = refused(
        "evaluate", "--data", f"{folder}:lr=.", "--degradation", "given:phase=1.5", *RULES
    )
    assert "LR alone" in told
    stdpipe(
        "cache", "check", cache, "--teacher-weights", "random:0", "--data", f"{apart}:lr={folder}"
    )


def test_a_camera(
    tmp_path: Path, apart: Path, beside: Command, train: Command, extract: Command,
    stdpipe: Command,
) -> None:  # fmt: skip
    """What its chain makes in training and evaluation is what degrade writes; the manifest says
    which encoder made it."""
    how = ("--degradation", "camera:noise=3,crf=30")
    stdpipe(*extract(apart, tmp_path / "c.zarr", *how))
    made = json.loads((tmp_path / "c.zarr/manifest.json").read_text())["made_by"]
    assert "264" in made["encoder"]
    stdpipe(*train(tmp_path / "a", apart, "--cache", tmp_path / "c.zarr", "--scheme", "output"))
    stdpipe(*train(tmp_path / "b", apart, "--cache", tmp_path / "c.zarr", "--scheme", "output",
                   workers=2))  # fmt: skip
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    alone = json.loads(stdpipe("evaluate", "--data", apart, *how, *RULES).stdout)
    lr = ("--lr", beside(how[1]), "--degradation", "given:phase=1.5")
    given = json.loads(stdpipe("evaluate", "--data", apart, *lr, *RULES).stdout)
    assert alone["average"] == given["average"]


def test_a_loop_of_ones_own(
    tmp_path: Path, apart: Path, beside: Command, extract: Command, stdpipe: Command
) -> None:
    """CachedClips says which clips have HR, and Distillation takes no L_rec of the others."""
    folder = beside("bi")
    alone = Path(f"{folder}:lr=.")
    told = ("--degradation", "given:phase=1.5", "--targets", "sr")
    stdpipe(*extract(alone, tmp_path / "c.zarr", *told))
    clips = CachedClips(alone, tmp_path / "c.zarr", ["sr"], patch=16)
    item = clips[0]
    assert item["has_hr"].tolist() == [0] * 7
    batch = {name: x[None] for name, x in item.items() if isinstance(x, Tensor)}
    loss, log = Distillation("output", tmp_path / "c.zarr")(batch, sr=batch["sr"])
    assert float(log["rec"]) == 0
    assert float(loss) == 0
    with pytest.raises(UserError, match="--lr"):
        CachedClips(apart, degradation="given")


def test_baked_views_of_two_orientations() -> None:
    """As many as there are, and no endless search for more."""
    turns = (0, 4)
    assert len(baked_views(["a"], 0, 2, 32, 32, 32, 4, turns)) == 2
    with pytest.raises(UserError, match="1 to 2"):
        baked_views(["a"], 0, 3, 32, 32, 32, 4, turns)


def test_a_cameras_lead_has_noise_of_its_own(tiny: Path) -> None:
    """What comes before a clip does not repeat the clip's noise."""
    name = "camera:noise=20,crf=0"
    clip = find_pairs(tiny, "train", name)[0]
    stream = Stream({clip.key: clip}, [View(clip.key, 0)], name, 32, 0, lead=lambda _: 3)
    sample = stream[0]
    clean = Stream({clip.key: clip}, [View(clip.key, 0)], "camera:noise=0,crf=0", 32, 0,
                   lead=lambda _: 3)[0]  # fmt: skip
    lead, own = (sample[name] - clean[name] for name in ("before", "lr"))
    for one in lead:
        for other in own:
            both = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))
            assert abs(float(both[0, 1])) < 0.5


def test_degrade_clip_is_a_camera() -> None:
    hr = torch.rand(5, 3, 64, 64)
    made = degrade_clip(hr, "camera:noise=30", "a")
    assert torch.equal(made, degrade_clip(hr, "camera:noise=30", "a"))
    assert not torch.equal(made, degrade_clip(hr, "camera:noise=30", "b"))
    assert not torch.equal(made, degrade_clip(hr, "camera"))
    with pytest.raises(UserError, match="lies on disk"):
        degrade_clip(hr, "given:phase=0")
