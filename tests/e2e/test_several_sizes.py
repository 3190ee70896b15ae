"""Clips of 96 x 64 to 448 x 256 pixels and of 3 to 30 frames in one set, from extraction to a
result; and the same of a folder of videos of two sizes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.utils.data import DataLoader

from stdpipe import cache
from stdpipe.data.layouts import find_clips
from stdpipe.data.samples import read_frames, view_hr
from stdpipe.data.sizes import check_sizes, leave_small, seen_size
from stdpipe.data.views import View, draw_box
from stdpipe.features.teacher_cache import open_cache
from stdpipe.models.checkpoints import load_network, save_network
from stdpipe.training.clips import CachedClips
from stdpipe.training.metrics_log import read_metrics

Command = Callable[..., Any]

# name -> frames, height, width; one is too short, one has sides that are no multiples of 16
CLIPS = {"a": (30, 64, 96), "b": (9, 128, 192), "c": (3, 64, 96), "d": (7, 96, 160)}
SIZES = {"96x64": 4, "192x128": 1, "160x96": 1}
TOLD = "6 clips: 4 of 96x64, 1 of 192x128, 1 of 160x96"
TEACHER = (
    "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1,num_reconstruct_block=1"
)
SMALL = ("--teacher", TEACHER, "--weights", "random:0")


def moving(number: int, num_frames: int, height: int, width: int) -> np.ndarray[Any, Any]:
    texture = np.random.default_rng(number).integers(0, 256, (height // 4, width // 4, 3))
    large = np.kron(texture, np.ones((4, 4, 1))).astype(np.uint8)
    return np.stack([np.roll(large, 2 * t, 1) for t in range(num_frames)])


def save_clips(root: Path, save_frames: Callable[..., Path], **changes: tuple[int, ...]) -> Path:
    root.mkdir()
    for number, (name, shape) in enumerate((CLIPS | changes).items()):
        save_frames(root / name, moving(number, *shape))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, save_frames: Callable[..., Path]) -> Path:
    """Up to 192 x 128 pixels alone, which is soon computed."""
    return save_clips(tmp_path_factory.mktemp("sizes") / "data", save_frames)


def filled(path: Path) -> dict[str, bytes]:
    """All that lies in a cache but what names its writers, where they are several."""
    found = (p for p in path.rglob("*") if p.is_file() and p.suffix != ".lock")
    return {str(p.relative_to(path)): p.read_bytes() for p in found}


@pytest.fixture(scope="module")
def trunk(data: Path, tmp_path_factory: pytest.TempPathFactory, stdpipe: Command) -> Path:
    """A cache by default options: sr, attention, and F^SR as trunk-int8."""
    path = tmp_path_factory.mktemp("trunk") / "c"
    told = stdpipe("extract-teacher", "--data", data, "--cache", path, *SMALL, "--json")
    assert TOLD in told.stderr
    assert "1 of 4 clips are left out, which have fewer than 7 frames: c (3)" in told.stderr
    found = json.loads(told.stdout)
    assert (found["entries"], found["encoding"], found["sizes"]) == (6, "trunk-int8", SIZES)
    return path


def test_what_is_cached(data: Path, trunk: Path, stdpipe: Command, tmp_path: Path) -> None:
    """Whatever asks a cache: info, verify, check, a window from Python, plain Zarr."""
    info = json.loads(stdpipe("cache", "info", trunk, "--json").stdout)
    assert (info["sizes"], info["committed"], info["complete"]) == (SIZES, 6, True)
    assert info["bytes"] == sum(
        f.stat().st_size for f in trunk.rglob("c.*") if "tail" not in f.parts
    )
    assert "4 of 96x64" in stdpipe("cache", "info", trunk).stdout
    assert "6 ok, 0 broken" in stdpipe("cache", "verify", trunk).stdout
    stdpipe("cache", "check", trunk, "--teacher-weights", "random:0", "--clips", 6)
    opened = open_cache(trunk)
    assert opened.keys[:2] == ("a/000000", "a/000007")
    for key, shape in (("a/000007", (64, 96)), ("b/000000", (128, 192)), ("d", (96, 160))):
        (turn,) = opened.orientations(key)
        maps = opened.read_maps(key, ["sr", "f_sr", "attention"], None, turn)
        assert maps["sr"].shape[-2:] == (shape[::-1] if turn & 4 else shape)
        assert maps["f_sr"].shape[-2:] == maps["attention"].shape[-2:] == maps["sr"].shape[-2:]


def test_a_flipped_bit_in_a_group_is_found(trunk: Path, tmp_path: Path, stdpipe: Command) -> None:
    broken = Path(shutil.copytree(trunk, tmp_path / "c"))
    file = next((broken / "7x128x192/attention").glob("c.*"))
    content = bytearray(file.read_bytes())
    content[1000] ^= 4
    file.write_bytes(content)
    found = json.loads(stdpipe("cache", "verify", broken, "--json", code=1).stdout)
    assert [(one["key"][:8], one["array"]) for one in found["broken"]] == [
        ("b/000000", "attention")
    ]


def test_the_plan_weighs_every_size(
    data: Path, trunk: Path, tmp_path: Path, stdpipe: Command
) -> None:
    command = ("extract-teacher", "--data", data, "--cache", tmp_path / "c", *SMALL)
    told = stdpipe(*command, "--plan", "--json")
    assert TOLD in told.stderr
    planned = json.loads(told.stdout)
    assert planned["sizes"] == SIZES
    assert planned["measured_on"][-1].startswith("b/000000")
    weight = cache.open_reader(trunk).total_bytes()
    assert planned["encodings"]["trunk-int8"]["bytes"] == pytest.approx(weight, rel=0.01)
    assert planned["missing_bytes"] == pytest.approx(weight, rel=0.01)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("how", [("--encoding", "int8"), ("--targets", "sr")])
def test_shares_and_stops_make_the_same_bytes(
    data: Path, tmp_path: Path, stdpipe: Command, monkeypatch: pytest.MonkeyPatch, how: Any
) -> None:
    """In groups of two clips, the second of which is done already when a killed run goes on."""
    small = f"{data}:exclude=b"
    command = ("extract-teacher", "--data", small, *SMALL, "--batch", 2, *how, "--cache")
    stdpipe(*command, tmp_path / "whole")
    whole = filled(tmp_path / "whole")

    written = []
    write = cache.Writer.write

    def stopping(self: cache.Writer, key: str, *rest: Any) -> int:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(key)
        return write(self, key, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(cache.Writer, "write", stopping)
        stdpipe(*command, tmp_path / "stopped", code=130)
    assert len(cache.open_reader(tmp_path / "stopped", allow_incomplete=True).entries) == 3
    stdpipe(*command, tmp_path / "stopped")
    assert filled(tmp_path / "stopped") == whole
    one_by_one = ("extract-teacher", "--data", small, *SMALL, *how, "--cache")
    stdpipe(*one_by_one, tmp_path / "one")
    for part in ("1/2", "0/2"):
        stdpipe(*one_by_one, tmp_path / "parts", "--part", part)
    own, parts = filled(tmp_path / "one"), filled(tmp_path / "parts")
    assert {n: d for n, d in parts.items() if not n.startswith("journal/")} == {
        n: d for n, d in own.items() if not n.startswith("journal/")
    }


def losses(run: Path) -> list[dict[str, Any]]:
    lines = read_metrics(run / "metrics.jsonl")
    return [{k: line[k] for k in ("loss", "rec", "sd", "td") if k in line} for line in lines]


def test_training_from_baked_views_is_training_with_the_live_teacher(
    data: Path, tmp_path: Path, stdpipe: Command, train: Command
) -> None:
    """Loss for loss, of clips of all sizes; patches are all alike, so that their maps are, too."""
    baked = ("--views", "baked", "--baked", 2, "--patch", 48)
    path, small = tmp_path / "c", ("--teacher", TEACHER, "--weights", tmp_path / "t.pt")
    net, facts = load_network(TEACHER, "random:3", 0.0)
    save_network(tmp_path / "t.pt", net, facts["network"], "bd")
    more = ("--encoding", "float32", "--accept-teacher")
    stdpipe("extract-teacher", "--data", data, "--cache", path, *small, *baked, *more)
    assert cache.load_manifest(path).groups == {}
    settings = {"patch": 48, "steps": 3, "warmup_steps": 1, "log_every": 1}
    live = ("--live-teacher", tmp_path / "t.pt")
    stdpipe(*train(tmp_path / "cached", data, "--cache", path, **settings))
    stdpipe(*train(tmp_path / "live", data, "--cache", path, *live, **settings))
    one, other = losses(tmp_path / "cached"), losses(tmp_path / "live")
    assert len(one) == 3
    assert "sd" in one[-1]
    for mine, theirs in zip(one, other, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


def test_from_a_cache_to_a_result(
    data: Path, trunk: Path, tmp_path: Path, stdpipe: Command
) -> None:
    """A patch that only the larger clips hold; the others are named, and left out."""
    small = {"steps": 2, "patch": 96, "batch": 2, "workers": 0}
    changes = [word for name, value in small.items() for word in ("--set", f"{name}={value}")]
    student = ("--student", "d3dnet:num_feat=4,num_frame=3,num_deform_block=1,num_block=1")
    run = tmp_path / "run"
    told = stdpipe(
        "train-student", "--data", data, "--cache", trunk, "--out", run, *student, *changes,
        "--scheme", "std",
    )  # fmt: skip
    assert (
        "4 of 6 clips are left out, which are smaller than the patch of 96: a/000000 (96x64),"
        in (told.stderr)
    )
    assert "2 clips: 1 of 192x128, 1 of 160x96" in told.stderr
    network = ("--model", f"@{run / 'weights.pt'}", "--model", "bicubic", "--json")
    told = stdpipe("evaluate", "--data", data, *network, "--protocol", "vid4")
    assert "4 clips: 2 of 96x64, 1 of 192x128, 1 of 160x96; 3 to 30 frames" in told.stderr
    scored = json.loads(told.stdout)["networks"][0]["clips"]
    assert {name: len(rows) for name, rows in scored.items()}.keys() == CLIPS.keys()


def test_a_student_of_all_sizes(data: Path, trunk: Path, tmp_path: Path, stdpipe: Command) -> None:
    """Each crop is of the clip's own maps: what is read equals the whole map's crop."""
    names = ["sr", "f_sr", "attention"]
    clips, opened = CachedClips(data, trunk, names, patch=48, seed=1), open_cache(trunk)
    assert len(clips) == 6
    seen = set()
    for position in range(6):
        view, rng = clips.stream.view(position)
        box = draw_box(rng, 48, *opened.read(str(view), "sr").shape[-2:])
        item, whole = clips[position], opened.read_maps(str(view), names)
        for name in names:
            crop = whole[name][..., box.y : box.bottom, box.x : box.right]
            assert torch.allclose(item[name], crop, atol=1e-4)
        assert torch.equal(
            item["hr"],
            view_hr(read_frames(clips.stream.clips[view.clip]).hr, view)[box.cut()].float() / 255,
        )
        seen.add(view.clip.partition("/")[0])
    assert seen == {"a", "b", "d"}


def test_a_batch_of_narrow_frames_and_turned_ones(
    data: Path, tmp_path: Path, stdpipe: Command, train: Command
) -> None:
    """A patch as high as the smallest frames: windows of a trunk have less room than their halo, in
    one direction when upright and in the other when turned, and still make one batch."""
    path, small = tmp_path / "c", f"{data}:exclude=b"
    more = ("--encoding", "trunk-float16", "--targets", "f_sr", "--orientations", 2)
    stdpipe("extract-teacher", "--data", small, "--cache", path, *SMALL, *more)
    clips = CachedClips(small, path, ["f_sr"], patch=64, seed=1, decode=False)
    batch = next(iter(DataLoader(clips, len(clips))))
    decoded, opened = clips.decode(batch)["f_sr"], open_cache(path)
    for position, key in enumerate(batch["key"]):
        view, rng = clips.stream.view(position)
        whole = opened.read(str(view), "f_sr")
        box = draw_box(rng, 64, *whole.shape[-2:])
        assert view.clip == key
        crop = whole[..., box.y : box.bottom, box.x : box.right]
        assert torch.allclose(decoded[position], crop, atol=1e-4)


def test_a_patch_that_no_clip_holds(
    data: Path, trunk: Path, tmp_path: Path, refused: Command
) -> None:
    told = refused(
        "train-student", "--data", data, "--cache", trunk, "--out", tmp_path / "run",
        "--student", "rrn-8", "--set", "patch=512",
    )  # fmt: skip
    assert "every clip is smaller than the patch of 512: a/000000 (96x64)" in told
    assert "DATA:pad=512" in told


def test_small_frames_and_short_clips_are_filled_up_by_option(
    data: Path, trunk: Path, tmp_path: Path, stdpipe: Command, refused: Command
) -> None:
    """By their edges and their last frame, in every command that is given the same name."""
    name = f"{data}:pad=96,repeat=1,exclude=b"
    clips = {clip.key: clip for clip in find_clips(Path(name), "train", length=7)}
    sizes = check_sizes([*clips.values()], 4)
    assert list(clips) == ["a/000000", "a/000007", "a/000014", "a/000021", "c", "d"]
    assert leave_small(clips, sizes, 96, 4) == clips
    short, whole = read_frames(clips["c"]).hr, read_frames(find_clips(data, None)[2]).hr
    assert short.shape == (7, 3, 96, 96) == (7, 3, *seen_size(clips["c"], sizes["c"], 4))
    assert (short[:3, :, :64] == whole).all()
    assert (short[3:] == short[2]).all()
    assert (short[:, :, 64:] == short[:, :, 63:64]).all()
    path, run = tmp_path / "c", tmp_path / "run"
    command = ("--data", name, "--cache", path)
    stdpipe("extract-teacher", *command, *SMALL, "--targets", "sr")
    assert cache.open_reader(path).manifest.made_by["pad"] == 96
    assert [View.parse(key).clip for key in cache.open_reader(path).entries] == list(clips)
    stdpipe("cache", "check", path, "--teacher-weights", "random:0")  # finds data of that name
    student = ("--student", "rrn-8", "--scheme", "output", "--out", run)
    settings = ("--set", "steps=2", "--set", "patch=96", "--set", "batch=2", "--set", "workers=0")
    stdpipe("train-student", *command, *student, *settings)
    assert yaml.safe_load((run / "config.yaml").read_text())["data"] == name
    other = f"{data}:repeat=1,exclude=b"
    wrong = ("--data", other, "--cache", path)
    told = stdpipe("train-student", *wrong, *student, *settings, code=1).stderr
    assert "pad=96" in told
    assert "pad=0" in told
    assert "pad 96" in stdpipe("extract-teacher", *wrong, *SMALL, code=1).stderr


def test_a_teacher_learns_from_several_sizes(data: Path, tmp_path: Path, stdpipe: Command) -> None:
    settings = ("--set", "steps=1", "--set", "patch=96", "--set", "batch=1", "--set", "workers=0")
    out = ("--out", tmp_path / "run", "--teacher", TEACHER)
    told = stdpipe("train-teacher", "--data", data, *out, *settings)
    assert "4 of 6 clips are left out" in told.stderr
    assert "2 clips: 1 of 192x128, 1 of 160x96" in told.stderr


def test_a_folder_of_videos_of_two_sizes(
    tmp_path: Path, save_frames: Callable[..., Path], stdpipe: Command
) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    for number, shape in enumerate([(9, 64, 96), (15, 96, 160), (8, 64, 96), (4, 64, 96)]):
        save_frames(root / f"v{number}.mp4", moving(number, *shape), crf=8)
    data, path, run = f"{root}:test=0.3", tmp_path / "c", tmp_path / "run"
    extract = ("extract-teacher", "--data", data, "--weights", "embedded", "--targets", "sr")
    found = json.loads(stdpipe(*extract, "--cache", path, "--json").stdout)
    held = {clip.key.partition("/")[0] for clip in find_clips(Path(data), "test")}
    assert len(held) == 1
    assert found["entries"] == sum(found["sizes"].values())
    assert stdpipe("cache", "verify", path).exit_code == 0
    small = ("--set", "steps=2", "--set", "patch=48", "--set", "batch=1", "--set", "workers=0")
    student = ("--student", "rrn-8", "--cache", path, "--out", run)
    stdpipe("train-student", "--data", data, *student, *small)
    network = ("--model", f"@{run / 'weights.pt'}", "--model", "bicubic", "--json")
    result = json.loads(stdpipe("evaluate", "--data", data, *network).stdout)
    assert {clip.partition("/")[0] for clip in result["networks"][0]["clips"]} == held


def test_a_cache_grows_by_a_clip_of_another_size(
    data: Path, tmp_path: Path, stdpipe: Command
) -> None:
    path = tmp_path / "c"
    more = ("--cache", path, *SMALL, "--targets", "sr")
    stdpipe("extract-teacher", "--data", f"{data}:exclude=b,exclude=d,exclude=c", *more)
    before = cache.load_manifest(path)
    assert before.groups == {}
    stdpipe("extract-teacher", "--data", f"{data}:exclude=b,exclude=c", *more)
    after = cache.load_manifest(path)
    assert list(after.groups) == ["7x96x160"]
    assert after.cache_id == before.cache_id
    assert cache.verify(path).ok == 5


@pytest.mark.slow
def test_up_to_the_size_of_vimeo(
    tmp_path: Path, save_frames: Callable[..., Path], stdpipe: Command
) -> None:
    """All of the path, once; the tests above are its fast siblings."""
    data = save_clips(tmp_path / "data", save_frames, b=(9, 256, 448))
    path, run = tmp_path / "c", tmp_path / "run"
    command = ("extract-teacher", "--data", data, *SMALL, "--cache", path, "--json")
    planned = json.loads(stdpipe(*command, "--plan").stdout)
    made = json.loads(stdpipe(*command).stdout)
    assert made["sizes"] == planned["sizes"] == {"96x64": 4, "448x256": 1, "160x96": 1}
    assert planned["missing_bytes"] == pytest.approx(made["bytes"], rel=0.01)
    stdpipe("cache", "verify", path)
    stdpipe("cache", "check", path, "--teacher-weights", "random:0", "--clips", 6)
    student = ("--student", "d3dnet:num_feat=4,num_frame=3,num_deform_block=1,num_block=1")
    small = ("--set", "steps=2", "--set", "patch=64", "--set", "batch=2", "--set", "workers=0")
    train = ("train-student", "--data", data, "--cache", path, "--out", run, "--scheme", "std")
    assert "6 clips: 4 of 96x64, 1 of 448x256" in stdpipe(*train, *student, *small).stderr
    network = ("--model", f"@{run / 'weights.pt'}", "--json")
    told = stdpipe("evaluate", "--data", data, *network, "--protocol", "vid4")
    assert "4 clips: 2 of 96x64, 1 of 448x256, 1 of 160x96; 3 to 30 frames" in told.stderr
