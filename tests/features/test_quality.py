"""A teacher is measured before its features are kept: the embedded EDVR, right and wrong."""

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from torch import Tensor

from stdpipe import cache
from stdpipe.cache.errors import UserError
from stdpipe.data.layouts import find_clips
from stdpipe.data.views import View
from stdpipe.features.quality import Quality, Trial, complaint, measure, quality_of, shift
from stdpipe.models import zoo
from stdpipe.models.bicubic import Bicubic
from stdpipe.models.checkpoints import load_network
from stdpipe.models.deform import DeformConvPack

Command = Callable[..., Any]
ASSETS = Path(str(files("stdpipe.assets")))
CPU = torch.device("cpu")
SIDE = 96


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real clip of 96 x 96 pixels, in a data set of its own."""
    root = tmp_path_factory.mktemp("crops")
    (root / "0018").mkdir()
    for number in range(1, 8):
        frame = iio.imread(ASSETS / f"sample/sequences/00001/0018/im{number}.png")
        iio.imwrite(root / f"0018/im{number}.png", frame[16 : 16 + SIDE, 64 : 64 + SIDE])
    return root


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """The embedded teacher, trained for `bd`, in a file that does not say so."""
    net, facts = load_network(None, str(ASSETS / "teacher.pt"))
    file = tmp_path_factory.mktemp("foreign") / "edvr.pth"
    torch.save({"params": net.state_dict()}, file)
    return "--teacher", facts["network"], "--weights", file


def moving(y: float, x: float, seed: int = 0, size: int = 64) -> Tensor:
    """Waves of 8 to 40 pixels, moved down by y and right by x: (2, size, size)."""
    rng = np.random.default_rng(seed)
    down, right = np.mgrid[:size, :size].astype(float)
    image = np.zeros((2, size, size))
    for plane in image:
        for _ in range(12):
            turn, length, phase = rng.uniform([0, 8, 0], [np.pi, 40, 2 * np.pi])
            along = np.sin(turn) * (down - y) + np.cos(turn) * (right - x)
            plane += np.sin(2 * np.pi * along / length + phase)
    return torch.from_numpy(image)


@pytest.mark.parametrize("seed", range(4))
def test_a_shift_is_found_exactly(seed: int) -> None:
    """To a hundredth of a pixel, for any shift within reach; gain and blur do not move it."""
    y, x = np.random.default_rng(seed).uniform(-3.5, 3.5, 2)
    found = shift(0.9 * moving(y, x, seed) + 0.1, moving(0, 0, seed))
    assert found == pytest.approx((y, x), abs=0.01)


def test_flat_images_have_no_shift() -> None:
    assert shift(torch.zeros(1, 64, 64), torch.zeros(1, 64, 64)) == (0, 0)


def test_a_good_teachers_figures_stand_in_its_cache(
    tmp_path: Path, crops: Path, foreign: tuple[object, ...], stdpipe: Command
) -> None:
    """In the manifest's notes, in `cache info` and in the plan; resuming leaves them."""
    out = tmp_path / "c.zarr"
    command = ["extract-teacher", "--data", crops, *foreign, "--degradation", "bd", "--cache", out]
    planned = json.loads(stdpipe(*command, "--plan", "--json").stdout)["quality"]
    stdpipe(*command)
    made = cache.load_manifest(out)
    assert json.loads(json.dumps(made.notes["quality"])) == planned
    assert planned["psnr"] > planned["bicubic_psnr"] + 0.5
    assert np.hypot(*planned["shift"]) < 0.15
    assert planned["clips"] == 1
    assert 0 < planned["offset"] < 10
    stdpipe(*command)
    assert cache.load_manifest(out) == made
    told = stdpipe("cache", "info", out).stdout
    assert f"{planned['psnr']:.2f} dB" in told
    assert f"{planned['bicubic_psnr']:.2f} dB" in told


def test_weights_for_another_degradation_are_refused(
    tmp_path: Path, crops: Path, foreign: tuple[object, ...], stdpipe: Command, refused: Command
) -> None:
    """The cause is named, and nothing is written, by the plan neither; --accept-teacher goes on."""
    command = ["extract-teacher", "--data", crops, *foreign, "--cache", tmp_path / "c.zarr"]
    for more in ([], ["--plan"]):
        told = refused(*command, "--degradation", "bi", *more)
        assert "with --degradation bd it has" in told
        assert "--accept-teacher" in told
        assert not (tmp_path / "c.zarr").exists()
    accepted = stdpipe(
        *command, "--degradation", "bi", "--accept-teacher", "--targets", "attention"
    )
    assert "with --degradation bd it has" in accepted.stderr
    noted = cache.load_manifest(tmp_path / "c.zarr").notes["quality"]
    assert noted["shift"] == pytest.approx((-1.5, -1.5), abs=0.1)


def test_a_training_is_refused_what_another_degradation_made(
    tmp_path: Path, crops: Path, stdpipe: Command, refused: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A training that goes on from it, on purpose, measures both ends. The network begins as
    bicubic interpolation, at the phase that it is built with."""
    monkeypatch.setattr("stdpipe.features.quality.CLIPS", 1)
    name, out = "vdsr:num_layer=3,phase=0.0", tmp_path / "run"
    torch.save({"params": zoo.parse(name).build().state_dict()}, tmp_path / "w.pt")
    run = ["train-teacher", "--data", crops, "--teacher", name, "--init", tmp_path / "w.pt"]
    run += [x for s in ("steps=1", "batch=1", "patch=32", "workers=0") for x in ("--set", s)]
    run += ["--out", out, "--degradation", "bd-centred"]
    assert "with --degradation bd it has" in refused(*run)
    assert not out.exists()
    found = json.loads(stdpipe(*run, "--accept-teacher", "--json").stdout)
    assert found["init_quality"]["psnr"] < found["init_quality"]["bicubic_psnr"]
    assert found["quality"]["psnr"] < found["quality"]["bicubic_psnr"]
    again = json.loads(stdpipe(*run, "--json").stdout)  # nothing begins from --init now
    assert again["init_quality"] is None
    assert again["quality"] == found["quality"]


class Wrong(Bicubic):
    """Bicubic interpolation that expects something else than RGB in [0, 1]."""

    def __init__(self, what: str) -> None:
        super().__init__(phase=0.0)
        self.what = what

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:
        if self.what == "BGR":  # it takes these warm pictures for cold ones, and darkens them
            red, _, blue = f_sr.mean((0, 2, 3))
            return f_sr if blue > red else f_sr / 2
        if self.what == "255":
            return f_sr - 1
        return f_sr * torch.nan


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        ("BGR", "BGR"),
        ("255", "values from 0 to 255"),
        ("nan", "not finite"),
    ],
)
def test_the_cause_is_found_by_trying(what: str, cause: str, crops: Path) -> None:
    clips = {c.key: c for c in find_clips(crops, "train", length=7)}
    views = [View(key, 0) for key in clips]
    with pytest.raises(UserError, match=cause):
        quality_of(Wrong(what), clips, views, "bd", CPU)


def test_bicubic_itself_passes_at_the_true_phase_alone(crops: Path) -> None:
    clips = {c.key: c for c in find_clips(crops, "train", length=7)}
    views = [View(key, 0) for key in clips]
    found = quality_of(Bicubic(phase=0.0), clips, views, "bd", CPU)
    assert found
    assert found.psnr == found.bicubic_psnr
    assert found.offset is None
    with pytest.raises(UserError, match="below"):
        quality_of(Bicubic(phase=1.5), clips, views, "bd", CPU)


def test_small_clips_do_not_keep_the_others_from_being_measured(
    tmp_path: Path, crops: Path, stdpipe: Command
) -> None:
    """Wherever they stand in the list, and however many they are."""
    shutil.copytree(crops / "0018", tmp_path / "data/c")
    for name in "abdefgh":
        (tmp_path / "data" / name).mkdir()
        for number in range(1, 8):
            frame = iio.imread(crops / f"0018/im{number}.png")[:32, :48]
            iio.imwrite(tmp_path / f"data/{name}/im{number}.png", frame)
    clips = {c.key: c for c in find_clips(tmp_path / "data", "train", length=7)}
    found = quality_of(Bicubic(phase=0.0), clips, [View(key, 0) for key in "abc"], "bd", CPU)
    assert found
    assert found.clips == 1
    command = ("extract-teacher", "--data", tmp_path / "data", "--weights", "embedded")
    told = stdpipe(*command, "--cache", tmp_path / "c", "--targets", "sr", "--json")
    assert json.loads(told.stdout)["quality"]["clips"] == 1


def test_offsets_that_ran_away_are_refused() -> None:
    """The layer's mean counts, whatever its image still is."""
    teacher = load_network("edvr:num_feat=8,deformable_groups=2,num_frame=3", "random:0")[0].eval()
    packs = [part for part in teacher.modules() if isinstance(part, DeformConvPack)]
    torch.nn.init.constant_(packs[0].conv_offset.bias, -150.0)
    hrs = [torch.randint(256, (3, 3, SIDE, SIDE), dtype=torch.uint8)]
    found = measure(Trial(teacher, hrs, "bd", CPU))
    assert found.offset == pytest.approx(150, abs=1)
    good = Quality(30.0, 28.0, (0.0, 0.0), found.offset)
    assert "150 pixels" in complaint(good)
