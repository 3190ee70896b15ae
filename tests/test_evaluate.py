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
from stdpipe.data.clips import read_frames
from stdpipe.data.layouts import find_clips
from stdpipe.evaluation.protocols import protocol, score
from stdpipe.models.checkpoints import load_network, save_network

Command = Callable[..., Any]
EDVR = "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1,num_reconstruct_block=1"
# RGB frames of Vid4, MATLAB's bicubic there and back; the tables of the field have 23.78 for `bi`
VID4_BI = {"calendar": 20.394, "city": 25.165, "foliage": 23.471, "walk": 26.104}
VID4_AVERAGE = {"bi": 23.784, "bd": 21.794, "bd-centred": 23.444}
# three frames of each clip only; written by this program when the whole clips gave VID4_AVERAGE
VID4_START = {"bi": 23.764441, "bd": 21.784399, "bd-centred": 23.425397}


def measure(stdpipe: Command, data: Path, *more: object) -> dict[str, Any]:
    result = stdpipe("evaluate", "--data", data, "--json", *more)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.slow
@pytest.mark.parametrize("degradation", VID4_AVERAGE)
def test_bicubic_on_vid4(vid4: Path, stdpipe: Command, degradation: str) -> None:
    more = ("--model", "bicubic", "--degradation", degradation)
    found = measure(stdpipe, vid4 / "GT", *more)
    assert found["average"]["psnr_y"] == pytest.approx(VID4_AVERAGE[degradation], abs=0.005)
    assert found["clips"].keys() == VID4_BI.keys()
    if degradation == "bi":
        for clip, psnr_y in VID4_BI.items():
            assert found["clips"][clip]["psnr_y"] == pytest.approx(psnr_y, abs=0.005)


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
def test_chunks_give_what_the_whole_clip_gives(tiny: Path, network: str) -> None:
    net = load_network(network, "random:0")[0].eval()
    lr = evaluate.degrade_clip(read_frames(find_clips(tiny, "test")[0]).hr, "bd", True)
    with torch.inference_mode():
        whole = net.forward_clip(lr[None])[0]
    for centres in (range(7), [0, 6], [3], range(2, 5)):
        chunks = evaluate.super_resolve(net, lr, list(centres), torch.device("cpu"))
        sr = torch.cat([features.sr for _, features in chunks])
        assert (sr - whole[list(centres)]).abs().max() < 1e-5


def test_odd_sizes_are_cropped_back(tmp_path: Path, make_data: Command, stdpipe: Command) -> None:
    data = make_data(tmp_path / "data", clips=1, height=30, width=46)
    found = measure(stdpipe, data, "--model", EDVR, "--weights", "random:0", "--degradation", "bi")
    clip = read_frames(find_clips(data, "test")[0])
    net = load_network(EDVR, "random:0")[0].eval()
    with torch.inference_mode():
        sr = net.forward_clip(evaluate.degrade_clip(clip.hr, "bi", True)[None])[0]
    expected = score(sr[..., :30, :46], clip.hr[..., :30, :46] / 255, protocol("vid4"))
    psnr = found["clips"]["00001/0001"]["psnr_y"]
    assert psnr == pytest.approx(sum(expected["psnr_y"]) / 7, abs=1e-4)


def test_json_says_the_whole_definition(tiny: Path, stdpipe: Command) -> None:
    found = measure(stdpipe, tiny, "--model", "bicubic")
    assert found["degradation"]["name"] == "bd"
    assert found["protocol"]["name"] == "vid4"
    assert found["data"] == str(tiny)
    assert found["clips"]["00001/0003"]["frames"] == 7
    assert found["average"]["ssim_y"] == found["clips"]["00001/0003"]["ssim_y"]


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


def test_random_weights_take_the_degradations_phase(tiny: Path, stdpipe: Command) -> None:
    more = ("--model", EDVR, "--weights", "random:0")
    assert measure(stdpipe, tiny, *more)["model"].endswith("phase=0.0")
    assert "phase" not in measure(stdpipe, tiny, *more, "--degradation", "bi")["model"]
    assert measure(stdpipe, tiny, "--model", "bicubic")["model"] == "bicubic"


def test_files(tmp_path: Path, tiny: Path, stdpipe: Command) -> None:
    more = ("--model", EDVR, "--weights", "random:0", "--teacher", "fastdvdnet-quarter")
    found = measure(stdpipe, tiny, *more, "--teacher-weights", "random:1", "--out", tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == found
    rows = rows_of(tmp_path / "frames.csv")
    assert [row["frame"] for row in rows] == [str(t) for t in range(7)]
    mean = sum(float(row["psnr_y"]) for row in rows) / 7
    assert mean == pytest.approx(found["average"]["psnr_y"])
    table = (tmp_path / "table.md").read_text()
    assert f"| average | {found['average']['psnr_y']:.3f} |" in table
    assert found["protocol"]["text"] in table
    assert found["degradation"]["text"] in table
    picture = iio.imread(tmp_path / "pictures" / "00001_0003.png")
    assert picture.shape[1] > 5 * 160  # LR, SR, HR and two attention maps


def test_frames_csv_counts_frames_of_the_clip(tmp_path: Path, tiny: Path, stdpipe: Command) -> None:
    measure(stdpipe, tiny, "--model", "bicubic", "--protocol", "vimeo", "--out", tmp_path)
    (row,) = rows_of(tmp_path / "frames.csv")
    assert (row["clip"], row["frame"]) == ("00001/0003", "3")


def test_pictures_are_as_many_as_asked_for(tmp_path: Path, tiny: Path, stdpipe: Command) -> None:
    measure(stdpipe, tiny, "--model", "bicubic", "--out", tmp_path, "--pictures", 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "frames.csv", "result.json", "table.md"
    ]  # fmt: skip


def test_a_perfect_result_is_null_in_json_and_inf_in_the_table(
    tmp_path: Path, make_data: Command, stdpipe: Command
) -> None:
    data = make_data(tmp_path / "data", clips=1)
    for frame in (data / "sequences/00001/0001").iterdir():
        iio.imwrite(frame, torch.full((32, 48, 3), 90, dtype=torch.uint8).numpy())
    assert measure(stdpipe, data, "--model", "bicubic")["average"] == {
        "psnr_y": None, "ssim_y": 1.0
    }  # fmt: skip
    text = stdpipe("evaluate", "--data", data, "--model", "bicubic").stdout
    assert "| average | inf | 1.0000 |" in text


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
