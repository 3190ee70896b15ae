"""The report from its front door: what is on the page, what is missing, and that nothing runs."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import yaml

from stdpipe.cache.errors import UserError
from stdpipe.cache.seal import unseal
from stdpipe.models.checkpoints import load_network, save_network
from stdpipe.report import write_report
from stdpipe.reporting.tables import Table
from stdpipe.training.config import to_mapping

Command = Callable[..., Any]
TEACHER = "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_reconstruct_block=1"
NETWORKS = ("bicubic", "fastdvdnet-quarter@random:0")


class Page(HTMLParser):
    """The page's elements, and the text of those that hold some."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open = tag

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open, []).append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(out: Path) -> tuple[str, Page]:
    text = (out / "index.html").read_text()
    return text, Page(text)


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory, make_data: Command, stdpipe: Command
) -> Path:
    """An evaluation of two networks on two clips (e), a training run (run) and their data."""
    root = tmp_path_factory.mktemp("measured")
    make_data(root / "data", clips=2, height=48, width=64)
    (root / "data" / "sep_testlist.txt").write_text("00001/0001\n00001/0002\n")
    models = [word for name in NETWORKS for word in ("--model", name)]
    more = ("--protocol", "vid4", "--metrics", "quality,temporal")
    stdpipe("evaluate", "--data", root / "data", *models, *more, "--out", root / "e")
    return root


def save_random(file: Path) -> Path:
    net, facts = load_network(TEACHER, "random:0")
    save_network(file, net, facts["network"], "bd")
    return file


@pytest.fixture(scope="module")
def run(measured: Path, train: Command, stdpipe: Command) -> Path:
    stdpipe(*train(measured / "run", measured / "data", scheme="none"))
    return measured / "run"


@pytest.fixture(scope="module")
def report(measured: Path, run: Path, stdpipe: Command) -> Path:
    out = measured / "report"
    stdpipe("report", run, measured / "e", "--out", out)
    return out


def test_the_page_has_every_part(report: Path) -> None:
    text, page = read(report)
    titles = [title.strip() for name in ("h2", "h3", "h4") for title in page.texts[name]]
    for title in (
        "Training",
        "Clip 00001/0001",
        "Clip 00001/0002",
        "Same crop of every network",
        "Error maps",
        "Temporal profiles",
        "Optical flow of the output",
        "Attention maps",
        "Feature maps",
    ):
        assert title in titles
    assert "every frame; the whole frame; LR rounded to 8 bits" in text
    assert "stdpipe evaluate --data" in text
    assert len(text.encode()) < 20e6


def test_every_picture_is_inside_and_has_a_description(report: Path) -> None:
    """The two of each slider get theirs from the script: they are empty without it."""
    text, page = read(report)
    for image in page.of("img"):
        if image.get("class") not in ("under", "over"):
            assert image["alt"]
            assert str(image["src"]).startswith("data:image/")
    for name, attributes in page.tags:
        if name != "img":
            assert "src" not in attributes
        assert str(attributes.get("href", "#")).startswith("#"), (name, attributes)
    assert "@import" not in text
    assert "url(" not in text


def test_best_values_are_those_of_the_result(measured: Path, report: Path) -> None:
    networks = json.loads((measured / "e" / "result.json").read_text())["networks"]
    best = max(net["average"]["psnr_y"] for net in networks)
    worst = min(net["average"]["psnr_y"] for net in networks)
    text, _ = read(report)
    assert f'<td class="best"><strong>{best:.3f}' in text
    assert f"<td>{worst:.3f}</td>" in text


def test_the_same_command_goes_on(measured: Path, report: Path, stdpipe: Command) -> None:
    """What networks made is kept: the page comes out the same without running them."""
    made = sorted((report / "parts").glob("*.npz"))
    assert len(made) == len(NETWORKS) * 2
    before = {file: file.stat().st_mtime_ns for file in made}
    made[0].write_bytes(made[0].read_bytes()[:1000])
    text = (report / "index.html").read_text()
    stdpipe("report", measured / "run", measured / "e", "--out", report)
    assert without_date((report / "index.html").read_text()) == without_date(text)
    after = {file: file.stat().st_mtime_ns for file in made}
    assert [file for file in made if after[file] != before[file]] == [made[0]]
    assert sorted((report / "parts").iterdir()) == made


def without_date(text: str) -> str:
    return re.sub(r"Made [^<]* UTC", "", text)


def test_tables_stay_when_weights_change_or_go_and_data_too(
    measured: Path, run: Path, tmp_path: Path, stdpipe: Command
) -> None:
    data = shutil.copytree(measured / "data", tmp_path / "data")
    trained = shutil.copytree(run, tmp_path / "trained")
    weights = trained / "weights.pt"
    models = ("--model", "bicubic", "--model", f"@{weights}", "--crop", 0)
    stdpipe("evaluate", "--data", data, *models, "--protocol", "vid4", "--out", tmp_path / "e")

    def missing() -> str:
        found = write_report([tmp_path / "e", trained], tmp_path / "r", clips=1, frames=1)
        assert found["networks"] == ["bicubic", "trained"]
        assert found["clips"] == (["00001/0001"] if data.exists() else [])
        (told,) = found["missing"]
        assert isinstance(told, str)
        return told

    net, facts = load_network(None, str(weights))
    next(net.parameters()).data.add_(0.01)
    save_network(weights, net, facts["network"], "bd")
    assert "holds other weights now than those that were measured" in missing()
    weights.unlink()
    assert "No pictures of trained: no weights file" in missing()
    shutil.rmtree(data)
    assert f"data folder {data} does not exist" in missing()
    text, _ = read(tmp_path / "r")
    assert f"data folder {data} does not exist" in text
    assert "Averages, data · bd · vid4" in text


def test_results_of_different_protocols_share_no_table(
    measured: Path, tmp_path: Path, stdpipe: Command
) -> None:
    bicubic = ("evaluate", "--data", measured / "data", "--model", "bicubic")
    stdpipe(*bicubic, "--protocol", "vid4-float", "--out", tmp_path / "float")
    stdpipe(*bicubic, "--protocol", "vid4", "--crop", 2, "--out", tmp_path / "crop")
    stdpipe(*bicubic, "--protocol", "vid4", "--degradation", "bi", "--out", tmp_path / "bi")
    folders = [measured / "e", *(tmp_path / name for name in ("float", "crop", "bi"))]
    write_report(folders, tmp_path / "r", clips=0)
    text, _page = read(tmp_path / "r")
    tables = re.findall(r'class="hidden">(Averages[^<]*)<', text)
    assert tables == [
        "Averages, data · bd · vid4",
        "Averages, data · bd · vid4-float",
        "Averages, data · bd · vid4-crop2",
        "Averages, data · bi · vid4",
    ]
    assert "--protocol vid4 --crop 2" in text


def test_nothing_in_a_result_can_run(measured: Path, tmp_path: Path) -> None:
    """Every text that a folder holds, and the page's own policy were one to slip through."""
    bad = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'
    shutil.copytree(measured / "e", tmp_path / "e")
    file = tmp_path / "e" / "result.json"
    result = unseal(file.read_bytes())
    result["data"] = bad
    result["protocol"]["text"] = result["degradation"]["text"] = bad
    result["networks"][0] |= {"name": bad, "model": bad, "weights": bad, "trained_for": bad}
    result["networks"][0]["clips"] |= {bad: result["networks"][0]["clips"]["00001/0001"]}
    result["networks"][1]["clips"] |= {bad: result["networks"][1]["clips"]["00001/0001"]}
    file.write_text(json.dumps(result))
    table = Table(bad, bad, [bad, bad], [[bad, bad]])
    write_report([tmp_path / "e"], tmp_path / "r", tables=[table], title=bad)
    text, page = read(tmp_path / "r")
    assert "alert(1)" in text
    assert all(script.get("type") == "application/json" for script in page.of("script")[:-1])
    assert page.of("script")[-1] == {}
    assert not [name for name, attributes in page.tags if "onerror" in attributes]
    assert text.count("</script>") == len(page.of("script"))
    (policy,) = (m["content"] for m in page.of("meta") if "http-equiv" in m)
    assert "default-src 'none'" in str(policy)
    assert "script-src 'sha256-" in str(policy)


def test_a_network_that_a_result_names_is_not_imported(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(measured / "e", tmp_path / "e")
    file = tmp_path / "e" / "result.json"
    result = unseal(file.read_bytes())
    result["networks"][1]["model"] = "evil:Net"
    file.write_text(json.dumps(result))
    (told,) = write_report([tmp_path / "e"], tmp_path / "r")["missing"]
    assert "the result names the network 'evil:Net'" in told


def test_the_limit_makes_pictures_smaller_then_fewer(
    measured: Path, report: Path, tmp_path: Path
) -> None:
    shutil.copytree(report / "parts", tmp_path / "r" / "parts")

    def write(limit: int) -> dict[str, Any]:
        found = write_report([measured / "e"], tmp_path / "r", limit=limit)
        assert found["bytes"] == (tmp_path / "r" / "index.html").stat().st_size <= limit
        return found

    whole = write(20_000_000)
    assert whole["missing"] == []
    (told,) = write(whole["bytes"] - 1)["missing"]
    assert "whole frames are at most 720 pixels wide" in told
    bare = write_report([measured / "e"], tmp_path / "r", clips=0)["bytes"]
    (told,) = write(bare + 1000)["missing"]
    assert "clips are left out: 00001/0001, 00001/0002" in told
    with pytest.raises(ValueError, match="without any picture, more than 1,000: give fewer"):
        write(1000)


def test_labels_and_more_tables(measured: Path, run: Path, tmp_path: Path) -> None:
    """As `stdpipe experiment` calls it."""
    table = Table(
        "Mean over seeds", "Three seeds.", ["scheme", "PSNR"], [["std", "30.1"]], [(0, 1)]
    )
    labels = {"bicubic": "Bicubic, as papers have it", str(run): "std, seed 1"}
    found = write_report(
        [measured / "e", run], tmp_path / "r", labels=labels, tables=[table], clips=0
    )
    assert found["networks"][0] == "Bicubic, as papers have it"
    assert found["runs"] == ["std, seed 1"]
    text, page = read(tmp_path / "r")
    assert "Mean over seeds" in page.texts["h3"]
    assert '<td class="best"><strong>30.1' in text


def test_every_printed_command_is_taken_by_its_cli(
    measured: Path,
    run: Path,
    tmp_path: Path,
    stdpipe: Command,
    train: Command,
    extract: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Real runs and evaluations, shown; then each line of the page is given to the CLI, which reads
    every option and config key of it. Only the work itself is replaced."""
    data, cache = measured / "data", tmp_path / "cache.zarr"
    stdpipe(*extract(data, cache))
    stdpipe(*train(tmp_path / "std", data, "--cache", cache, scheme="sd=1,output=0.5", steps=2,
                   **{"from.sd": 1}))  # fmt: skip
    small = ("--set", "patch=32", "--set", "batch=1", "--set", "workers=0", "--set", "steps=1")
    teacher = save_random(tmp_path / "live teacher.pt")
    stdpipe(*train(tmp_path / "live", data, "--live-teacher", teacher, scheme="sd"))
    words = ("--teacher", TEACHER, "--exclude", "00001/0001", "--out", tmp_path / "my teacher")
    stdpipe("train-teacher", "--data", data, *words, *small)
    models = ("--model", "bicubic", "--model", "bicubic:phase=0")
    rules = ("--protocol", "vid4", "--crop", 2, "--degradation", "bi", "--amp", "bf16")
    more = ("--metrics", "quality,cost", "--out", tmp_path / "crop")
    stdpipe("evaluate", "--data", data, *models, *rules, *more)
    runs = (run, tmp_path / "std", tmp_path / "live", tmp_path / "my teacher")
    write_report([measured / "e", tmp_path / "crop", *runs], tmp_path / "r", clips=0)
    _, page = read(tmp_path / "r")
    lines = [shlex.split(text) for text in page.texts["code"]]
    assert len(lines) == 2 + 2 + len(runs)

    taken: list[Any] = []

    def take(*job: Any) -> Any:
        taken.append(job)
        raise UserError("taken")

    monkeypatch.setattr("stdpipe.evaluate.evaluate", take)
    monkeypatch.setattr("stdpipe.train.train_students", lambda jobs: take(*jobs[0]))
    monkeypatch.setattr("stdpipe.train_teacher.train_teacher", take)
    for words in lines:
        assert words[0] == "stdpipe"
        assert "taken" in stdpipe(*words[1:], code=1).stderr
    jobs = [job for (job,) in taken[:4]]
    assert [(j.crop, j.amp, j.metrics) for j in jobs[::2]] == [
        (None, "none", ("quality", "temporal")),
        (2, "bf16", ("quality", "cost")),
    ]
    assert {j.out for j in jobs}.isdisjoint({measured / "e", tmp_path / "crop"})
    for folder, (job, options) in zip(runs, taken[4:], strict=True):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        own = to_mapping(options)
        assert {k: config[k] for k in own} == own
        assert job.out == folder
    assert taken[-2][0].live_teacher == str(teacher)
    assert str(taken[-1][0].data) == f"{data}:exclude=00001/0001"


def test_a_number_is_a_count_unless_a_clip_has_that_name(tmp_path: Path, stdpipe: Command) -> None:
    for name in ("011", "020", "3", "7"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for frame in range(2):
            pixels = np.full((16, 16, 3), 40 * frame, np.uint8)
            iio.imwrite(tmp_path / "data" / name / f"{frame:03}.png", pixels)
    bicubic = ("--model", "bicubic", "--protocol", "vid4", "--out", tmp_path / "e")
    stdpipe("evaluate", "--data", tmp_path / "data", *bicubic)
    for asked, shown in (("011", ["011"]), ("7", ["7"]), ("2", ["3", "7"]), ("0", [])):
        words = ("--clips", asked, "--out", tmp_path / "r", "--json")
        assert json.loads(stdpipe("report", tmp_path / "e", *words).stdout)["clips"] == shown
    plain = stdpipe("report", tmp_path / "e", "--out", tmp_path / "r", "--json").stdout
    assert json.loads(plain)["clips"] == ["3", "7", "011"]  # the default is a count


def test_clips_by_name(measured: Path, tmp_path: Path, stdpipe: Command) -> None:
    words = ("--clips", "00001/0002,walk", "--frames", 3, "--json")
    found = json.loads(stdpipe("report", measured / "e", "--out", tmp_path, *words).stdout)
    assert found["clips"] == ["00001/0002"]
    assert found["missing"] == [f"No pictures of clip walk: it is not in {measured / 'data'}."]
    assert "frames 2 to 4" in (tmp_path / "index.html").read_text()


def test_what_it_refuses(measured: Path, tmp_path: Path, refused: Command) -> None:
    out = ("--out", tmp_path / "r")
    assert "does not exist: give folders of evaluate" in refused("report", tmp_path / "no", *out)
    told = refused("report", measured / "data", *out)
    assert "neither an evaluation (result.json) nor a training run (config.yaml)" in told
    refused("report", *out, code=2)
    (tmp_path / "e" / "unfinished").mkdir(parents=True)
    assert "is not finished" in refused("report", tmp_path / "e", *out)
    (tmp_path / "e" / "result.json").write_text('{"networks": [{}]}')
    told = refused("report", tmp_path / "e", *out)
    assert "is no result that this version can read" in told
    assert not (tmp_path / "r").exists()


def test_flow_is_skipped_in_plain_words_without_opencv(
    measured: Path, report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(report / "parts", tmp_path / "parts")
    monkeypatch.setattr("stdpipe.reporting.clip_pictures.find_spec", lambda _name: None)
    write_report([measured / "e"], tmp_path, clips=1)
    text, _ = read(tmp_path)
    assert "Optical flow needs OpenCV, which was not installed" in text
    assert "Optical flow of bicubic" not in text


def test_pictures_are_those_that_were_scored(measured: Path, report: Path) -> None:
    """PSNR of a kept frame, rounded as `vid4` does, is what the evaluation wrote of it."""
    from skimage.metrics import peak_signal_noise_ratio

    from stdpipe.data.layouts import find_clips
    from stdpipe.evaluation.metrics import luma
    from stdpipe.reporting.data_uris import as_tensor
    from stdpipe.reporting.inputs import read_folders
    from stdpipe.reporting.shots import load_again, load_or_make, take_shot

    (group,) = read_folders([measured / "e"])[0]
    clip = find_clips(measured / "data", "test")[0]
    shot, pieces = take_shot(clip, "bd", True, 15, [load_again(e.facts) for e in group.entries])
    cpu = torch.device("cpu")
    for entry in group.entries:
        net = load_again(entry.facts)
        made = load_or_make(report / "parts", entry.facts, net, shot, pieces, cpu)
        sr, hr = as_tensor(made.sr), as_tensor(shot.hr[shot.middle])
        assert np.array_equal(made.profile[shot.middle], made.sr[shot.row])
        psnr = peak_signal_noise_ratio(luma(sr).numpy(), luma(hr).numpy(), data_range=255)
        written = {row["frame"]: row["psnr_y"] for row in entry.frames[clip.key]}
        assert psnr == pytest.approx(written[shot.frame], abs=1e-3)
