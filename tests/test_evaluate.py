"""Measuring: published numbers for bicubic, chunks against whole clips, and every file written."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import pytest
import torch

from stdpipe import evaluate
from stdpipe.cache.seal import unseal
from stdpipe.data.degrade import degrade
from stdpipe.data.frames import read_clip
from stdpipe.data.layouts import find_clips, find_one_clip
from stdpipe.data.pieces import pieces
from stdpipe.data.samples import read_frames
from stdpipe.evaluation.metrics import QUALITY, TEMPORAL
from stdpipe.evaluation.protocols import Protocol, protocol, score_frames, scored_frames
from stdpipe.models import zoo
from stdpipe.models.base import Network
from stdpipe.models.bicubic import Bicubic
from stdpipe.models.checkpoints import load_network, save_network
from stdpipe.models.running import ClipRunner

Command = Callable[..., Any]
EDVR = "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1,num_reconstruct_block=1"
# RGB frames of Vid4, MATLAB's bicubic there and back; the tables of the field have 23.78 for `bi`
VID4_BI = {"calendar": 20.394, "city": 25.165, "foliage": 23.471, "walk": 26.104}
VID4_AVERAGE = {"bi": 23.784, "bd": 21.794, "bd-centred": 23.444}
# of other rules, measured once: with 8 pixels cropped, and sampled at bd's true phase
VID4_CROP8 = {"bi": 23.785, "bd": 21.825, "bd-centred": 23.445}
VID4_TRUE_PHASE, VID4_TRUE_PHASE_REPEATED_EDGE = 23.360, 23.354
# three frames of each clip only; written by this program when the whole clips gave VID4_AVERAGE
VID4_START = {"bi": 23.764441, "bd": 21.784399, "bd-centred": 23.425397}


def measure(stdpipe: Command, data: Path, *more: object) -> dict[str, Any]:
    result = stdpipe("evaluate", "--data", data, "--json", *more)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def score(sr: torch.Tensor, hr: torch.Tensor, rules: Protocol) -> dict[str, list[float]]:
    """QUALITY of the frames of a clip that count, both (T, 3, H, W) in [0, 1]."""
    chosen = scored_frames(len(hr), rules)
    rows = score_frames({"sr": sr[chosen]}, hr[chosen], rules)["sr"]
    return {name: [row[name] for row in rows] for name in QUALITY}


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def cells(text: str, first: str) -> list[str]:
    """The cells of the table row that begins with that one."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return next(row for row in rows if row[:1] == [first])


@pytest.mark.slow
@pytest.mark.parametrize("degradation", VID4_AVERAGE)
def test_bicubic_on_vid4(tmp_path: Path, vid4: Path, stdpipe: Command, degradation: str) -> None:
    more = ("--model", "bicubic", "--degradation", degradation)
    found = measure(stdpipe, vid4 / "GT", *more)
    assert found["average"]["psnr_y"] == pytest.approx(VID4_AVERAGE[degradation], abs=0.0005)
    assert found["clips"].keys() == VID4_BI.keys()
    assert sum(row["frames"] for row in found["clips"].values()) == 171
    if degradation == "bi":
        for clip, psnr_y in VID4_BI.items():
            assert found["clips"][clip]["psnr_y"] == pytest.approx(psnr_y, abs=0.005)
    cropped = measure(stdpipe, vid4 / "GT", *more, "--crop", 8)
    assert cropped["protocol"]["name"] == "vid4-crop8"
    assert cropped["average"]["psnr_y"] == pytest.approx(VID4_CROP8[degradation], abs=0.0005)


@pytest.mark.slow
def test_bicubic_at_the_true_phase_on_vid4(vid4: Path, stdpipe: Command) -> None:
    """23.360 dB with MATLAB's mirrored border; 23.354 where the LR's edge pixels are repeated."""
    found = measure(stdpipe, vid4 / "GT", "--model", "bicubic:phase=0", "--degradation", "bd")
    assert found["average"]["psnr_y"] == pytest.approx(VID4_TRUE_PHASE, abs=0.0005)
    net, means = load_network("bicubic:phase=0", None)[0], []
    for clip in find_clips(vid4 / "GT", None):
        hr = read_frames(clip).hr
        lr = torch.nn.functional.pad(degrade(hr, "bd"), (2, 2, 2, 2), mode="replicate")
        sr = torch.cat([net(frame[None, None])[..., 8:-8, 8:-8] for frame in lr])
        psnr = score(sr, hr / 255, protocol("vid4"))["psnr_y"]
        means.append(sum(psnr) / len(psnr))
    assert sum(means) / 4 == pytest.approx(VID4_TRUE_PHASE_REPEATED_EDGE, abs=0.0005)


def test_each_network_makes_what_is_scored(
    tmp_path: Path, folders: Path, stdpipe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a causal one, which runs over all frames; and maps of the pictured frame alone."""
    images, maps = [], []
    forward_clip, features_clip = Bicubic.forward_clip, Bicubic.features_clip
    monkeypatch.setattr(Bicubic, "forward_clip", lambda *x: images.extend(x[2]) or forward_clip(*x))
    monkeypatch.setattr(Bicubic, "features_clip", lambda *x: maps.extend(x[2]) or features_clip(*x))
    monkeypatch.setattr(Network, "features_clip", Bicubic.features_clip)
    named = ("--model", "bicubic", "--model", "rrn-8@random:0", "--protocol", "vimeo")
    arguments = ("evaluate", "--data", folders, *named, "--out", tmp_path / "out")
    found = json.loads(stdpipe(*arguments, "--pictures", 1, "--json").stdout)["networks"][0]
    assert len(images) == len(found["clips"]) == 3
    assert len(maps) == 1


@pytest.mark.parametrize("degradation", VID4_START)
def test_bicubic_on_the_start_of_vid4(
    tmp_path: Path, vid4: Path, stdpipe: Command, degradation: str
) -> None:
    for clip in sorted((vid4 / "GT").iterdir()):
        (tmp_path / clip.name).mkdir()
        for frame in sorted(clip.iterdir())[:3]:
            (tmp_path / clip.name / frame.name).symlink_to(frame)
    found = measure(stdpipe, tmp_path, "--model", "bicubic", "--degradation", degradation)
    assert found["average"]["psnr_y"] == pytest.approx(VID4_START[degradation], abs=0.0005)


@pytest.mark.parametrize("network", [EDVR, "fastdvdnet-quarter"])
def test_pieces_give_what_the_whole_clip_gives(tiny: Path, network: str) -> None:
    net = load_network(network, "random:0")[0].eval()
    (clip,) = find_clips(tiny, "test")
    with torch.inference_mode():
        whole = net.forward_clip(degrade(read_frames(clip).hr, "bd")[None])[0]
        for centres in (range(7), [0, 6], [3], range(2, 5)):
            parts, run = pieces(clip, list(centres), 3, "bd", lr_8bit=True), ClipRunner(net)
            sr = [evaluate.super_resolve(run, part, torch.device("cpu"))[0] for part in parts]
            assert (torch.cat(sr) - whole[list(centres)]).abs().max() < 1e-5


def test_odd_sizes_are_cropped_back(tmp_path: Path, make_data: Command, stdpipe: Command) -> None:
    data = make_data(tmp_path / "data", clips=1, height=30, width=46)
    more = ("--model", EDVR, "--weights", "random:0", "--degradation", "bi", "--protocol", "vid4")
    found = measure(stdpipe, data, *more, "--out", tmp_path / "out")
    clip = read_frames(find_clips(data, "test")[0])
    net = load_network(EDVR, "random:0")[0].eval()
    with torch.inference_mode():
        sr = net.forward_clip(degrade(clip.hr, "bi")[None])[0]
    expected = score(sr[..., :30, :46], clip.hr[..., :30, :46] / 255, protocol("vid4"))
    for name, values in expected.items():
        assert found["clips"]["00001/0001"][name] == pytest.approx(sum(values) / 7, abs=1e-4)
    assert (tmp_path / "out" / "pictures" / "00001_0001.png").exists()


def test_json_and_files_state_the_whole_definition(
    tmp_path: Path, tiny: Path, stdpipe: Command
) -> None:
    found = measure(stdpipe, tiny, "--model", "bicubic", "--out", tmp_path, "--pictures", 0)
    assert found["degradation"]["name"] == "bd"
    assert found["protocol"]["name"] == "vimeo"
    assert "septuplets" in found["protocol"]["chosen"]
    assert found["protocol"]["text"] == protocol("vimeo").text
    assert (found["metrics"], found["amp"]) == (QUALITY, "none")
    assert found["data"] == str(tiny)
    assert found["clips"]["00001/0003"]["frames"] == 1
    assert found["average"]["ssim_y"] == found["clips"]["00001/0003"]["ssim_y"]
    names = [".lock", "frames.csv", "result.json", "table.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    (row,) = rows_of(tmp_path / "frames.csv")
    assert (row["clip"], row["frame"]) == ("00001/0003", "3")  # counted in the clip


def test_weights_bring_their_degradation(tmp_path: Path, tiny: Path, stdpipe: Command) -> None:
    net, facts = load_network(EDVR, "random:3")
    save_network(tmp_path / "w.pt", net, facts["network"], "bd-centred")
    found = measure(stdpipe, tiny, "--weights", tmp_path / "w.pt")
    assert (found["degradation"]["name"], found["trained_for"]) == ("bd-centred", "bd-centred")
    assert (
        measure(stdpipe, tiny, "--weights", tmp_path / "w.pt", "--degradation", "bi")[
            "degradation"
        ]["name"]
        == "bi"
    )


@pytest.mark.parametrize("named", [("--model", "@embedded"), ("--weights", "embedded")])
def test_the_embedded_teacher(tiny: Path, stdpipe: Command, named: tuple[str, str]) -> None:
    """It is found by that word, and its file says what network it is."""
    found = measure(stdpipe, tiny, *named)
    assert found["model"].startswith("edvr:")
    assert found["degradation"]["name"] == "bd"


def test_the_embedded_teacher_did_not_make_this_cache(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, refused: Command
) -> None:
    """Options that name a file as a path know the word, too."""
    how = ("--cache", tiny_cache, "--scheme", "output", "--teacher-weights", "embedded")
    assert "teacher_sha256" in refused(*train(tmp_path / "run", tiny, *how))


def test_random_weights_take_the_degradations_phase(tiny: Path, stdpipe: Command) -> None:
    more = ("--model", EDVR, "--weights", "random:0")
    assert measure(stdpipe, tiny, *more)["model"].endswith("phase=0.0")
    assert "phase" not in measure(stdpipe, tiny, *more, "--degradation", "bi")["model"]
    assert measure(stdpipe, tiny, "--model", "bicubic")["model"] == "bicubic"


def test_files(tmp_path: Path, tiny: Path, stdpipe: Command) -> None:
    more = ("--model", EDVR, "--weights", "random:0", "--teacher", "fastdvdnet-quarter")
    more = (*more, "--protocol", "vid4")
    found = measure(stdpipe, tiny, *more, "--teacher-weights", "random:1", "--out", tmp_path)
    assert unseal((tmp_path / "result.json").read_bytes()) == found
    rows = rows_of(tmp_path / "frames.csv")
    assert [row["frame"] for row in rows] == [str(t) for t in range(7)]
    mean = sum(float(row["psnr_y"]) for row in rows) / 7
    assert mean == pytest.approx(found["average"]["psnr_y"])
    table = (tmp_path / "table.md").read_text()
    assert cells(table, "average")[1] == f"{found['average']['psnr_y']:.3f}"
    assert found["protocol"]["text"] in table
    assert found["degradation"]["text"] in table
    picture = iio.imread(tmp_path / "pictures" / "00001_0003.png")
    assert picture.shape[1] > 5 * 160  # LR, SR, HR and two attention maps


def test_a_perfect_result_is_null_in_json_and_inf_in_the_table(
    tmp_path: Path, make_data: Command, stdpipe: Command
) -> None:
    data = make_data(tmp_path / "data", clips=1)
    for frame in (data / "sequences/00001/0001").iterdir():
        iio.imwrite(frame, torch.full((32, 48, 3), 90, dtype=torch.uint8).numpy())
    found = measure(stdpipe, data, "--model", "bicubic")
    assert found["average"] == {
        "psnr_y": None, "ssim_y": 1.0, "psnr_rgb": None, "ssim_rgb": 1.0
    }  # fmt: skip
    assert found["excluded"] == ["00001/0001"]
    text = stdpipe("evaluate", "--data", data, "--model", "bicubic").stdout
    assert cells(text, "average") == ["average", "inf", "1.0000", "inf", "1.0000"]
    assert "00001/0001: equal to HR" in text


def test_a_network_that_yields_nan_is_no_result(
    tmp_path: Path, tiny: Path, refused: Command
) -> None:
    net, facts = load_network(EDVR, "random:0")
    torch.nn.init.constant_(net.conv_last.bias, float("nan"))
    save_network(tmp_path / "w.pt", net, facts["network"], "bd")
    told = refused("evaluate", "--data", tiny, "--weights", tmp_path / "w.pt")
    assert "clip 00001/0003: the network's output is not finite" in told


def test_a_clip_too_short_for_the_protocol(tmp_path: Path, tiny: Path, refused: Command) -> None:
    shutil.copytree(tiny / "sequences/00001/0001", tmp_path / "short")
    for frame in sorted((tmp_path / "short").iterdir())[4:]:
        frame.unlink()
    more = ("--model", "bicubic", "--protocol", "vid4-duf")
    told = refused("evaluate", "--data", tmp_path, *more)
    assert "a clip of 4 frames has none that protocol 'vid4-duf' scores" in told


# several networks, other data, other metrics


def save_random(path: Path, network: str, degradation: str) -> Path:
    net, facts = load_network(network, "random:0")
    save_network(path, net, facts["network"], degradation)
    return path


def test_several_networks_are_measured_as_each_alone(
    tmp_path: Path, folders: Path, stdpipe: Command
) -> None:
    """Windows of different lengths among them: one pass reads for the longest."""
    weights = save_random(tmp_path / "w.pt", EDVR, "bd")
    names = ("bicubic:phase=0", f"@{weights}", "fastdvdnet-quarter@random:1")
    together = [word for name in names for word in ("--model", name)]
    found = measure(stdpipe, folders, *together, "--out", tmp_path / "out")
    assert [net["weights"] for net in found["networks"]] == [None, str(weights), "random:1"]
    for name, network in zip(names, found["networks"], strict=True):
        alone = measure(stdpipe, folders, "--model", name)
        for clip, row in alone["clips"].items():
            assert network["clips"][clip] == pytest.approx(row, abs=1e-6)
    table = (tmp_path / "out" / "table.md").read_text()
    assert cells(table, "bicubic:phase=0.0")[1:3] == ["vid4", "bd"]
    assert cells(table, "network")[1:4] == ["protocol", "degradation", "PSNR Y (dB)"]
    assert len(rows_of(tmp_path / "out" / "frames.csv")) == 3 * 3 * 7
    picture = iio.imread(tmp_path / "out" / "pictures" / "0001.png")
    assert picture.shape[1] > 8 * 160  # LR, three SR, HR and three attention maps


def test_networks_for_different_degradations(
    tmp_path: Path, folders: Path, stdpipe: Command, refused: Command
) -> None:
    one, two = (save_random(tmp_path / f"{d}.pt", EDVR, d) for d in ("bd", "bi"))
    both = ("--model", f"@{one}", "--model", f"@{two}")
    told = refused("evaluate", "--data", folders, *both)
    assert "trained for different degradations: " in told
    assert "give --degradation" in told
    found = stdpipe("evaluate", "--data", folders, *both, "--degradation", "bi").stdout
    assert f"@ {one} was trained for bd" in found
    assert f"@ {two} was trained" not in found
    twice = ("--model", f"@{one}", "--model", f"@{one}")
    assert "is named twice" in refused("evaluate", "--data", folders, *twice)


def test_vimeo_lists(tmp_path: Path, make_data: Command, stdpipe: Command) -> None:
    data = make_data(tmp_path / "data")
    shutil.copy(data / "sep_trainlist.txt", data / "sep_testlist.txt")
    (data / "fast_testset.txt").write_text("00001/0003\n")
    (data / "slow_testset.txt").write_text("00001/0001\n")
    found = measure(stdpipe, data, "--model", "bicubic")
    clips, lists = found["clips"], found["lists"]
    assert lists["fast"] == {"clips": 1} | {name: clips["00001/0003"][name] for name in QUALITY}
    assert lists["unlisted"] == ["00001/0002"]
    both = [clips[key]["psnr_y"] for key in ("00001/0001", "00001/0003")]
    assert lists["weighted"]["psnr_y"] == pytest.approx(sum(both) / 2)
    assert found["average"]["psnr_y"] != lists["weighted"]["psnr_y"]
    text = stdpipe("evaluate", "--data", data, "--model", "bicubic").stdout
    assert cells(text, "weighted (2 clips)")[1] == f"{lists['weighted']['psnr_y']:.3f}"
    assert "lists" not in measure(stdpipe, data, "--model", "bicubic", "--protocol", "vid4")


def test_reds4_is_found_by_its_clips(tmp_path: Path, folders: Path, stdpipe: Command) -> None:
    for name in ("000", "001", "011", "015", "020"):
        shutil.copytree(folders / "0001", tmp_path / "REDS" / name)
    found = measure(stdpipe, tmp_path / "REDS", "--model", "bicubic")
    assert found["protocol"]["name"] == "reds4"
    assert list(found["clips"]) == ["000", "011", "015", "020"]


def test_a_video_is_measured(
    tmp_path: Path, folders: Path, stdpipe: Command, save_frames: Command
) -> None:
    frames = read_clip(find_one_clip(folders / "0001"))
    video = save_frames(tmp_path / "walk.mp4", frames, crf=20)
    decoded = save_frames(tmp_path / "decoded", read_clip(find_one_clip(video)))
    found = measure(stdpipe, video, "--model", "bicubic")
    assert list(found["clips"]) == ["walk"]
    assert found["clips"]["walk"]["frames"] == 7
    assert found["average"] == measure(stdpipe, decoded, "--model", "bicubic")["average"]


def test_temporal_and_cost(tmp_path: Path, folders: Path, stdpipe: Command) -> None:
    pytest.importorskip("cv2", reason="needs OpenCV's flow (extra: temporal)")
    more = ("--model", "bicubic", "--metrics", "quality,temporal,cost", "--out", tmp_path / "out")
    found = measure(stdpipe, folders, *more)
    assert found["metrics"]["flow"].startswith("OpenCV ")
    assert set(TEMPORAL) <= set(found["average"])
    assert found["average"]["tof"] > 0
    assert found["cost"]["parameters"] == 0
    assert found["cost"]["macs"] == 0  # it interpolates
    first, second = rows_of(tmp_path / "out" / "frames.csv")[:2]
    assert first["tof"] == ""
    assert float(second["tof"]) > 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert cells(table, "clip")[5:] == ["warp error", "HR's own", "tOF (px)", "profile diff"]
    assert "0 parameters, 0.00 GMAC a frame" in table


def test_temporal_metrics_of_single_frames(tiny: Path, refused: Command) -> None:
    pytest.importorskip("cv2", reason="needs OpenCV's flow (extra: temporal)")
    told = refused("evaluate", "--data", tiny, "--model", "bicubic", "--metrics", "temporal")
    assert "need consecutive frames, but protocol 'vimeo' scores one of each clip" in told


def test_cost_is_that_of_what_is_exported(folders: Path, stdpipe: Command) -> None:
    more = ("--model", "rrn-8:wide=2@random:0", "--model", "rrn-8@random:0", "--metrics", "cost")
    arguments = ("evaluate", "--data", folders, *more, "--json")
    wide, plain = (x["cost"] for x in json.loads(stdpipe(*arguments).stdout)["networks"])
    assert {"parameters", "macs"} <= wide.keys()
    assert [wide[x] == plain[x] for x in ("parameters", "macs", "peak_memory_bytes")] == [True] * 3


def test_a_still_scene_of_no_causal_network(folders: Path, refused: Command) -> None:
    told = refused("evaluate", "--data", folders, "--model", "bicubic", "--still", 1000)
    assert "causal" in told


def test_temporal_metrics_without_opencv(
    folders: Path, refused: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stdpipe.evaluation.temporal.find_spec", lambda name: None)
    told = refused("evaluate", "--data", folders, "--model", "bicubic", "--metrics", "temporal")
    assert told.endswith("pip install 'stdpipe[temporal]'")


def test_pictures_show_what_was_scored(
    tmp_path: Path, folders: Path, stdpipe: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network runs once a piece, in the precision asked for, pictures or not."""
    calls = []
    real = evaluate.super_resolve

    def counted(*arguments: Any) -> Any:
        calls.append(arguments[3])
        return real(*arguments)

    monkeypatch.setattr(evaluate, "super_resolve", counted)
    more = ("--model", "fastdvdnet-quarter@random:0", "--amp", "bf16", "--out", tmp_path / "out")
    measure(stdpipe, folders, *more, "--pictures", 1)
    assert calls == ["bf16"] * 3 * 2


def test_weights_of_others_at_another_phase_are_warned_of(
    tmp_path: Path, tiny: Path, stdpipe: Command, caplog: pytest.LogCaptureFixture
) -> None:
    """They say no degradation: the score would be that of a shifted image, without a word."""
    net = zoo.parse("vdsr:num_layer=3").build()
    torch.save({"state_dict": net.state_dict()}, tmp_path / "w.pth")
    named = ("--model", "vdsr:num_layer=3", "--weights", tmp_path / "w.pth", "--metrics", "quality")
    stdpipe("evaluate", "--data", tiny, *named, "--degradation", "bi")
    assert "HR pixels off" not in caplog.text
    stdpipe("evaluate", "--data", tiny, *named, "--degradation", "bd")
    assert "1.5 HR pixels off" in caplog.text
