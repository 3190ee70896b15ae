"""Upscaling through its command: what comes out, tiles against whole frames, memory, wrong use."""

import json
import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio.v3 as iio
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor

from stdpipe import upscale
from stdpipe.data.frames import Clip, read_clip, stream_frames
from stdpipe.data.layouts import find_clips, find_one_clip
from stdpipe.data.video_facts import facts
from stdpipe.deploy import tiled
from stdpipe.evaluation.metrics import luma
from stdpipe.models.base import Network, window_indices
from stdpipe.models.bicubic import Bicubic
from stdpipe.models.checkpoints import load_network, save_network

Command = Callable[..., Any]
Frames = NDArray[np.uint8]
EDVR = "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1,num_reconstruct_block=1"
VDSR = "vdsr:num_feat=4,num_layer=2"
BICUBIC = ("--model", "bicubic")
CAUSAL = ("--model", "rrn-8", "--weights", "random:0")
CPU = torch.device("cpu")


def moving(count: int, height: int, width: int) -> Frames:
    """Smooth random texture that moves a pixel a frame: (T, h, w, 3)."""
    noise = torch.rand(1, 3, height // 4 + 3, (width + count) // 4 + 3)
    texture = F.interpolate(noise, scale_factor=4.0, mode="bicubic").clamp(0, 1)[0]
    views = [texture[:, 4 : 4 + height, 4 + t : 4 + t + width] for t in range(count)]
    return (torch.stack(views).permute(0, 2, 3, 1) * 255).round().byte().numpy()


def save_folder(folder: Path, frames: Frames) -> Path:
    folder.mkdir()
    for number, frame in enumerate(frames):
        iio.imwrite(folder / f"frame {number}.png", frame)
    return folder


def load(path: Path) -> Frames:
    return read_clip(find_one_clip(path))


def pixels(sr: Tensor) -> Frames:
    return (sr.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()  # type: ignore[no-any-return]


def whole_clip(net: Network, frames: Frames) -> Tensor:
    """(T, 3, H, W) in one go."""
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)[None] / 255
    with torch.inference_mode():
        return net.eval().forward_clip(clip)[0]


def largest_difference(a: Frames, b: Frames) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


@pytest.mark.parametrize("name", [EDVR, "fastdvdnet-quarter"])
def test_a_folder_is_the_whole_clip(tmp_path: Path, stdpipe: Command, name: str) -> None:
    """19 frames, so that chunks have neighbours on both sides; sizes that are not 4's."""
    frames = moving(19, 11, 14)
    source = save_folder(tmp_path / "lr", frames)
    stdpipe("upscale", source, tmp_path / "sr", "--model", name, "--weights", "random:0")
    net, _ = load_network(name, "random:0")
    assert largest_difference(load(tmp_path / "sr"), pixels(whole_clip(net, frames))) <= 1
    assert {path.name for path in source.iterdir()} == {p.name for p in (tmp_path / "sr").iterdir()}


def test_mixed_precision(tmp_path: Path, stdpipe: Command) -> None:
    """bfloat16 has eight bits: another image by a few levels, and no other."""
    source = save_folder(tmp_path / "lr", moving(2, 12, 16))
    network = ("--model", "fastdvdnet-quarter", "--weights", "random:0")
    for amp in ("none", "bf16"):
        stdpipe("upscale", source, tmp_path / amp, *network, "--amp", amp)
    assert 0 < largest_difference(load(tmp_path / "bf16"), load(tmp_path / "none")) <= 4


def test_a_video(
    tmp_path: Path, stdpipe: Command, save_frames: Command, save_tracks: Command
) -> None:
    """Frame count, size, exact rate, sound, and the pictures' luma (4:2:0 blurs their colours)."""
    rate = Fraction(30000, 1001)
    frames = moving(21, 46, 62)
    sound = save_tracks(tmp_path / "sound.mkv", seconds=0.7)
    source = save_frames(tmp_path / "lr.mp4", frames, rate, source=sound)
    out = tmp_path / "sr.mp4"
    result = json.loads(stdpipe("upscale", source, out, *BICUBIC, "--json").stdout)
    assert (result["frames"], result["width"], result["height"]) == (21, 248, 184)
    assert result["fps"] == float(rate)
    assert result["frames_per_s"] > 0
    found = find_one_clip(out)
    assert (facts(out).rate, len(found.frames)) == (rate, 21)
    back = read_clip(found)
    expected = pixels(whole_clip(Bicubic(), load(source)))
    assert back.shape == expected.shape == (21, 184, 248, 3)
    y = [luma(torch.from_numpy(frames).permute(0, 3, 1, 2) / 255) for frames in (back, expected)]
    for a, b in zip(*y, strict=True):
        assert peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=255) > 38
    with av.open(out) as file:
        assert [stream.codec.name for stream in file.streams.video] == ["h264"]
        assert [stream.codec.name for stream in file.streams.audio] == ["aac"]


@pytest.mark.parametrize(
    ("name", "degradation", "told"),
    [
        (VDSR, "bd", "a network trained for bd"),
        (f"{VDSR},phase=0", None, "this network"),
        (VDSR, "bi", ""),
    ],
)
def test_what_weights_are_for(
    tmp_path: Path,
    stdpipe: Command,
    caplog: pytest.LogCaptureFixture,
    name: str,
    degradation: str | None,
    told: str,
) -> None:
    """It stands in the result; and where the picture comes out shifted, a line says so."""
    weights = tmp_path / "weights.pt"
    save_network(weights, load_network(name, "random:0")[0], name, degradation)
    source = save_folder(tmp_path / "lr", moving(1, 8, 8))
    arguments = ("upscale", source, tmp_path / "sr", "--weights", weights, "--json")
    assert json.loads(stdpipe(*arguments).stdout)["degradation"] == degradation
    lines = [line for line in caplog.messages if "LR pixel" in line]
    assert len(lines) == bool(told)
    if told:
        assert told in lines[0]
        assert "shifted by 1.5 HR pixels" in lines[0]


def test_a_folder_becomes_a_video_and_a_folder_again(tmp_path: Path, stdpipe: Command) -> None:
    """At 25 frames a second unless told otherwise; 23.976 is 24000/1001."""
    source = save_folder(tmp_path / "lr", moving(5, 8, 12))
    for more, rate in (((), Fraction(25)), (("--fps", 23.976), Fraction(24000, 1001))):
        video = tmp_path / f"sr{len(more)}.mkv"
        stdpipe("upscale", source, video, *BICUBIC, *more)
        assert (facts(video).rate, len(load(video))) == (rate, 5)
    text = stdpipe("upscale", video, tmp_path / "deep" / "sr", *BICUBIC).stdout
    assert text.startswith(f"5 frames of 192x128 in {tmp_path}/deep/sr, ")
    names = sorted(path.name for path in (tmp_path / "deep" / "sr").iterdir())
    assert names == [f"0000000{number}.png" for number in range(5)]


def test_a_packed_clip_is_its_folder(tmp_path: Path, stdpipe: Command) -> None:
    source = save_folder(tmp_path / "lr", moving(3, 8, 12))
    stdpipe("pack-clips", "--data", source, "--out", tmp_path / "lr.h5")
    for path, out in ((source, "a"), (tmp_path / "lr.h5", "b")):
        stdpipe("upscale", path, tmp_path / out, *BICUBIC)
    np.testing.assert_array_equal(load(tmp_path / "a"), load(tmp_path / "b"))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(0, 5))
def test_chunks_hold_every_window(count: int, k: int) -> None:
    """Each centre once, in order, between the neighbours it has in the whole; and no frame is read
    before it is needed, nor kept after."""
    read = done = 0

    def frames() -> Iterator[Frames]:
        nonlocal read
        for number in range(count):
            read += 1
            yield np.full((1, 1, 3), number, np.uint8)

    whole = window_indices(count, 2 * k + 1, range(count))
    for clip, first, centres in upscale.chunks(frames(), k):
        assert len(clip) <= upscale.CHUNK + 2 * k
        assert read <= done + upscale.CHUNK + k
        numbers = clip[:, 0, 0, 0].tolist()
        for window in window_indices(len(clip), 2 * k + 1, [t - first for t in centres]):
            assert [numbers[t] for t in window] == whole[done]
            done += 1
    assert done == count


def test_tiles_through_the_command(tmp_path: Path, stdpipe: Command) -> None:
    source = save_folder(tmp_path / "lr", moving(3, 21, 30))
    for name, more in (("whole", 0), ("cut", 5)):
        out = tmp_path / name
        result = stdpipe("upscale", source, out, *BICUBIC, "--tile", more, "--json")
        assert result.stderr == ""
    found = json.loads(result.stdout)["tiles"]
    assert found["count"] > 1
    assert found | {"count": 0} == {"count": 0, "overlap": 2, "exact": True, "largest_step": None}
    assert largest_difference(load(tmp_path / "cut"), load(tmp_path / "whole")) == 0


def test_tiles_that_are_not_exact_say_so(
    tmp_path: Path, stdpipe: Command, caplog: pytest.LogCaptureFixture
) -> None:
    """EDVR reads where its input says: a warning before, and the step at the seams after.

    Its value is held against the frames: the overlap is 64, so the frame must be larger.
    """
    source = save_folder(tmp_path / "lr", moving(3, 8, 180))
    arguments = ("--model", EDVR, "--weights", "random:0", "--tile", 16)
    result = stdpipe("upscale", source, tmp_path / "sr", *arguments, "--json")
    found = json.loads(result.stdout)["tiles"]
    assert (found["count"], found["overlap"], found["exact"]) == (12, 64, False)
    assert 0 <= found["largest_step"] <= 2
    assert "tiles of this network are not exact" in caplog.text
    text = stdpipe("upscale", source, tmp_path / "again", *arguments).stdout
    assert f"differ by up to {found['largest_step']} of 255 levels where they meet" in text


def test_when_frames_are_cut_unasked() -> None:
    """Above 640 x 360; then a tile sees about as much as that."""
    net = Bicubic().eval()
    assert len(tiled.cut(net, 360, 640, None).tiles) == 1
    assert len(tiled.cut(net, 2000, 2000, 0).tiles) == 1
    cut = tiled.cut(net, 361, 640, None)
    assert len(cut.tiles) == 2
    for tile in tiled.cut(net, 2160, 3840, None).tiles:
        assert tile.seen.height * tile.seen.width <= tiled.WHOLE
    causal = load_network("rrn-8", "random:0")[0]
    assert len(tiled.cut(causal, 720, 1280, None).tiles) == 1
    assert len(tiled.cut(causal, 721, 1280, None).tiles) > 1


def test_frames_are_let_go(
    tmp_path: Path, stdpipe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 frames no more than a chunk and its neighbours are in memory at once."""
    read: list[weakref.ref[Frames]] = []
    alive = []

    def watched(clip: Clip) -> Iterator[Frames]:
        for frame in stream_frames(clip):
            read.append(weakref.ref(frame))
            alive.append(sum(one() is not None for one in read))
            yield frame

    monkeypatch.setattr(upscale, "stream_frames", watched)
    source = save_folder(tmp_path / "lr", moving(40, 8, 8))
    stdpipe("upscale", source, tmp_path / "sr", "--model", EDVR, "--weights", "random:0")
    assert len(read) == 40
    assert max(alive) <= upscale.CHUNK + 3


def growth(spawn: Command, few: Path, many: Path, network: tuple[str, ...] = BICUBIC) -> int:
    """MB by which the largest memory of a process grows when it upscales `many`, too."""
    first, second = (
        ["upscale", str(source), str(source.with_stem(f"sr{source.stem}")), *network]
        for source in (few, many)
    )
    before = (
        "import atexit, re\n"
        # getrusage's would be that of pytest, where it is more: exec hands it on
        "def status(): return open('/proc/self/status').read()\n"
        "def tell(): print(int(re.search(r'VmHWM:\\s*(\\d+)', status())[1]) // 1024)\n"
        "from stdpipe.cli.main import main\n"
        f"main({first}, standalone_mode=False)\n"
        "tell()\n"
        "atexit.register(tell)"
    )
    done = spawn(second, before)
    assert done.returncode == 0, done.stderr
    _, peak, _, last = done.stdout.splitlines()
    return int(last) - int(peak)


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freed memory goes back at once: what glibc keeps varies by 100 MB from chunk to chunk."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak")
@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize(
    ("name", "side"),
    [
        pytest.param("sofvsr:num_feat=16", 32, marks=pytest.mark.slow),
        pytest.param(
            "d3dnet:num_feat=16,num_frame=3,num_deform_block=1,num_block=1",
            64,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_memory_is_that_of_a_window(tmp_path: Path, spawn: Command, name: str, side: int) -> None:
    """Eight frames of 80 x 80 at once took 850 MB more than one, and 340; one by one 70 and 6."""
    one, eight = (save_folder(tmp_path / f"{n}", moving(n, side, side)) for n in (1, 8))
    assert growth(spawn, one, eight, ("--model", name, "--weights", "random:0")) < 50


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak")
@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("network", [BICUBIC, CAUSAL], ids=["bicubic", "causal"])
def test_memory_of_1000_frames(
    tmp_path: Path, spawn: Command, save_frames: Command, network: tuple[str, ...]
) -> None:
    """Against 100: held, 900 frames more of 384 x 256 would be 265 MB as pixels alone."""
    frames = moving(20, 64, 96)
    there_and_back = np.concatenate([frames, frames[::-1]])
    few, many = (
        save_frames(tmp_path / f"{count}.mp4", np.resize(there_and_back, (count, 64, 96, 3)))
        for count in (100, 1000)
    )
    assert growth(spawn, few, many, network) < 30
    assert len(find_clips(tmp_path / "sr1000.mp4", "test")[0].frames) == 1000


@pytest.fixture
def lr(tmp_path: Path) -> Path:
    return save_folder(tmp_path / "lr", moving(2, 8, 8))


def test_an_output_that_exists(
    tmp_path: Path, stdpipe: Command, refused: Command, lr: Path
) -> None:
    """Kept without --overwrite; with it, only a video or a folder of PNG files goes."""
    video, folder = tmp_path / "sr.mp4", tmp_path / "sr"
    for out in (video, folder):
        stdpipe("upscale", lr, out, *BICUBIC)
        assert "exists: choose another name, or give --overwrite" in refused(
            "upscale", lr, out, *BICUBIC
        )
        stdpipe("upscale", lr, out, *BICUBIC, "--overwrite")
    (folder / "notes.txt").write_text("mine")
    told = refused("upscale", lr, folder, *BICUBIC, "--overwrite")
    assert "holds more than PNG files" in told
    assert (folder / "notes.txt").exists()
    (tmp_path / "file").write_text("mine")
    assert "is no folder" in refused("upscale", lr, tmp_path / "file", *BICUBIC, "--overwrite")
    (tmp_path / "v.mp4").mkdir()
    assert "is no file" in refused("upscale", lr, tmp_path / "v.mp4", *BICUBIC, "--overwrite")


def test_a_link_is_no_output_for_a_folder(tmp_path: Path, refused: Command, lr: Path) -> None:
    (tmp_path / "there").mkdir()
    for target in ("there", "nowhere"):
        (tmp_path / "link").symlink_to(tmp_path / target)
        told = refused("upscale", lr, tmp_path / "link", *BICUBIC, "--overwrite")
        assert "link" in told
        assert (tmp_path / "link").is_symlink()
        (tmp_path / "link").unlink()


def test_bad_input(tmp_path: Path, refused: Command, lr: Path) -> None:
    out = tmp_path / "sr.mp4"
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    (tmp_path / "many" / "a").mkdir(parents=True)
    (tmp_path / "many" / "b").mkdir()
    for clip in ("a", "b"):
        iio.imwrite(tmp_path / "many" / clip / "0.png", np.zeros((8, 8, 3), np.uint8))
    for source, told in (
        ("nowhere", "nowhere does not exist: give a video file or a folder of frames"),
        ("text.mp4", "text.mp4 is no video that can be read"),
        ("empty", "no clips in"),
        ("many", "many holds 2 clips (a, ...): give one"),
    ):
        shifted = ("--model", "bicubic:phase=0")  # whose warning is no second line here
        assert told in refused("upscale", tmp_path / source, out, *shifted)
    assert not out.exists()
    assert "is neither a folder nor" in refused("upscale", lr, tmp_path / "sr.avi", *BICUBIC)
    for inside in (lr, lr / "sr", lr / "sr.mp4", tmp_path):
        told = refused("upscale", lr, inside, *BICUBIC, "--overwrite")
        assert "overlap" in told
    assert "Not a directory" in refused("upscale", lr, tmp_path / "text.mp4" / "sr", *BICUBIC)
    assert "needs weights" in refused("upscale", lr, out, "--model", "fastdvdnet")


def test_an_output_that_is_not_finite(
    tmp_path: Path, refused: Command, lr: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bicubic, "to_rgb", lambda self, f_sr, centre: f_sr / 0)
    told = refused("upscale", lr, tmp_path / "sr", *BICUBIC)
    assert "not finite" in told
    assert list(tmp_path.iterdir()) == [lr]


def test_interrupted(
    tmp_path: Path, refused: Command, lr: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the midst of it: nothing is left, and the message does not promise anything."""

    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(upscale, "super_resolve_pixels", interrupt)
    for out in (tmp_path / "sr", tmp_path / "sr.mp4"):
        told = refused("upscale", lr, out, *BICUBIC, code=130)
        assert told == "stdpipe: interrupted; the same command goes on from what is done"
    assert list(tmp_path.iterdir()) == [lr]
