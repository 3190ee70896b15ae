"""The names of `import stdpipe`: quick to import, and equal to the commands."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stdpipe as api
from stdpipe.data.views import orient

Command = Callable[..., Any]
TEACHER = (
    "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1,num_reconstruct_block=1"
)


def bicubic(lr: Tensor) -> Tensor:
    """A plain function as a network."""
    sr = F.interpolate(lr.flatten(0, 1), scale_factor=4, mode="bicubic", align_corners=False)
    return sr.unflatten(0, lr.shape[:2])


class Net(nn.Module):
    """A module that returns more than images."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, lr: Tensor) -> dict[str, Tensor]:
        return {"f_sr": lr, "sr": self.scale * bicubic(lr)}


def test_import_is_quick_and_without_torch() -> None:
    """Only a name that is used imports what it needs."""
    code = (
        "import sys, stdpipe; heavy = {'torch', 'numpy', 'zarr'} & sys.modules.keys(); "
        "assert not heavy, heavy; assert set(stdpipe.__all__) <= set(dir(stdpipe)); "
        "stdpipe.UserError; assert 'torch' not in sys.modules; stdpipe.Distillation; "
        "assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="distil"):
        api.distil  # noqa: B018


def test_extraction(tmp_path: Path, tiny: Path, stdpipe: Command, extract: Command) -> None:
    """The cache is the command's, and the same call goes on with it."""
    seen: list[tuple[int, int]] = []
    options = {"weights": "random:0", "teacher": TEACHER, "encoding": "float32"}
    made = api.extract_teacher(
        tiny, tmp_path / "a", progress=lambda *done: seen.append(done), **options
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    printed = json.loads(stdpipe(*extract(tiny, tmp_path / "b"), "--json").stdout)
    assert printed | {"cache": made["cache"]} == made
    assert api.extract_teacher(tiny, str(tmp_path / "a"), **options)["missing"] == 0
    with pytest.raises(TypeError, match="orientation"):
        api.extract_teacher(tiny, tmp_path / "c", orientation=2)


def test_evaluation(tmp_path: Path, tiny: Path, stdpipe: Command) -> None:
    """A network's figures are the command's; a function's those of the same function by name."""
    torch.manual_seed(0)
    network = api.load_network("random:0", "rrn-8")
    assert not network.training
    printed = json.loads(
        stdpipe(
            "evaluate", "--data", tiny, "--model", "rrn-8", "--weights", "random:0", "--json"
        ).stdout
    )
    found = api.evaluate_network(network, tiny)
    assert found["average"] == printed["average"]
    assert found["model"] == printed["model"]
    own = Net().train()
    centred = api.evaluate_network(own, tiny, degradation="bi")
    assert own.training
    assert next(own.parameters()).device.type == "cpu"
    plain = api.evaluate_network(bicubic, tiny, degradation="bi")
    bicubic_network = api.load_network(network="bicubic")
    named = api.evaluate_network(bicubic_network, tiny, degradation="bi")
    same = api.evaluate_network(bicubic_network.forward_clip, tiny, degradation="bi")
    assert same["average"] == named["average"]
    assert plain["average"] == centred["average"]
    assert (plain["model"], centred["model"]) == ("bicubic", "Net")


def test_upscaling(tmp_path: Path, tiny: Path, stdpipe: Command) -> None:
    source, names = tiny / "sequences/00001/0001", [f"im{n}.png" for n in range(1, 8)]
    stdpipe("upscale", source, tmp_path / "a", "--model", "rrn-8", "--weights", "random:0")
    made = api.upscale_video(
        source, tmp_path / "b", api.load_network("random:0", "rrn-8", degradation="bi")
    )
    assert made["frames"] == 7
    for name in names:
        assert (iio.imread(tmp_path / "a" / name) == iio.imread(tmp_path / "b" / name)).all()
    api.upscale_video(source, tmp_path / "c", Net())
    frames = torch.from_numpy(iio.imread(source / "im1.png")).permute(2, 0, 1)[None, None] / 255
    expected = (bicubic(frames)[0, 0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    assert abs(iio.imread(tmp_path / "c" / "im1.png").astype(int) - expected.astype(int)).max() <= 1
    with pytest.raises(FileExistsError):
        api.upscale_video(source, tmp_path / "c", Net())


def test_weights_by_name(tmp_path: Path, tiny: Path) -> None:
    """embedded, a file, and what they were trained for."""
    teacher = api.load_network("embedded")
    assert teacher.facts["degradation"] == "bd"
    assert api.evaluate_network("embedded", tiny)["trained_for"] == "bd"
    with pytest.raises(FileNotFoundError):
        api.evaluate_network(tmp_path / "no.pt", tiny)
    random = api.load_network("random:0", "rrn-8", degradation="bi")
    assert api.evaluate_network(random, tiny)["degradation"]["name"] == "bi"
    foreign = tmp_path / "foreign.pt"
    torch.save(random.state_dict(), foreign)
    loaded = api.load_network(foreign, "rrn-8")
    with pytest.raises(api.UserError, match="degradation"):  # as the command: it may cost 7 dB
        api.evaluate_network(loaded, tiny)
    known = api.load_network(foreign, "rrn-8", degradation="bi")
    assert api.evaluate_network(known, tiny)["degradation"]["name"] == "bi"
    with pytest.raises(api.UserError, match="list"):
        api.extract_teacher(tiny, tmp_path / "c", targets="sr")
    with pytest.raises(api.UserError, match="vid4"):
        api.evaluate_network(teacher, tiny, protocol="nothing")
    with pytest.raises(api.UserError, match="int"):
        api.evaluate_network(3, tiny)  # type: ignore[arg-type]
    with pytest.raises(api.UserError, match="should return"):
        api.evaluate_network(lambda lr: lr, tiny)


class Keeps(nn.Module):
    """Remembers its last features, as hooks and recurrent networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Parameter(torch.ones(())) * 2

    def forward(self, lr: Tensor) -> Tensor:
        return bicubic(lr)


def test_bad_options(tmp_path: Path, tiny: Path) -> None:
    """Checked as the command line checks them; nothing is written."""
    source, data = tiny / "sequences/00001/0001", str(tiny)
    out, cache = tmp_path / "out", tmp_path / "c"

    def extracted(**options: Any) -> Callable[[], Any]:
        return lambda: api.extract_teacher(tiny, cache, weights="embedded", **options)

    def upscaled(**options: Any) -> Callable[[], Any]:
        return lambda: api.upscale_video(source, out, bicubic, **options)

    def measured(network: Any = bicubic, **options: Any) -> Callable[[], Any]:
        return lambda: api.evaluate_network(network, tiny, **options)

    for call, told in (
        (extracted(amp="fp8"), "amp"),
        (extracted(encoding="int9"), "int9"),
        (extracted(seed="a"), "seed"),
        (extracted(batch=0), "batch"),
        (extracted(orientations=9), "orientations"),
        (extracted(compression="lz4"), "compression"),
        (upscaled(crf=99), "crf"),
        (upscaled(fps=0), "fps"),
        (upscaled(fps=float("nan")), "fps"),
        (upscaled(tile=-1), "tile"),
        (upscaled(amp="x"), "amp"),
        (measured(amp="fp8"), "amp"),
        (measured(Net), "class Net"),
        (measured(Keeps()), "lambda"),
        (measured(lambda lr: (bicubic(lr) * 255).byte()), "uint8"),
        (lambda: api.degrade_clip(torch.rand(3, 64, 64)), "(3, 64, 64)"),
        (lambda: api.degrade_clip(torch.rand(1, 3, 64, 64), "db"), "bd"),
        (lambda: api.CachedClips(data, degradation="db"), "bd"),
        (lambda: api.CachedClips(data, patch=16.0), "patch"),  # type: ignore[arg-type]
        (lambda: api.CachedClips(data, patch=16).set_epoch(-1), "epoch"),
    ):
        with pytest.raises(api.UserError) as error:
            call()
        assert told in str(error.value)
    assert not out.exists()
    assert not cache.exists()


def test_an_open_cache_is_a_cache(tiny: Path, tiny_cache: Path) -> None:
    """It is taken wherever a cache's path is; LR made of turned frames is the clips' own."""
    cache = api.open_cache(tiny_cache)
    clips = api.CachedClips(tiny, cache, ["sr"], patch=32)
    assert clips.cache_id == cache.id
    assert api.Distillation("sd", cache, 4).needs == ("attention",)
    view, _ = clips.stream.view(0)
    frames = [iio.imread(tiny / "sequences" / view.clip / f"im{n}.png") for n in range(1, 8)]
    hr = torch.stack([torch.from_numpy(x).permute(2, 0, 1) for x in frames])
    turned = orient(hr, view.orientation)
    lr, item = api.degrade_clip(turned, cache.degradation), clips[0]
    height, width = turned.shape[-2:]
    places = [(y, x) for y in range(0, height - 31, 4) for x in range(0, width - 31, 4)]
    (y, x), *_ = [
        (y, x) for y, x in places
        if torch.equal(turned[..., y : y + 32, x : x + 32].float() / 255, item["hr"])
    ]  # fmt: skip
    assert torch.equal(lr[..., y // 4 : y // 4 + 8, x // 4 : x // 4 + 8], item["lr"])
