"""The demo: its parts in place, and, slowly, the whole of it."""

import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from stdpipe import demo
from stdpipe.data.layouts import find_clips
from stdpipe.models import zoo
from stdpipe.models.checkpoints import load_network
from stdpipe.training.config import load

Command = Callable[..., Any]
TEACHER = "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_reconstruct_block=1"
ASSETS = Path(str(files("stdpipe.assets")))


def test_the_embedded_clips_and_teacher_fit_together() -> None:
    train, test = (find_clips(ASSETS / "sample", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (4, 3)
    assert not {clip.key for clip in train} & {clip.key for clip in test}
    net, facts = load_network(None, str(ASSETS / "teacher.pt"))
    assert facts["degradation"] == demo.DEGRADATION
    assert net.f_sr_channels == 64
    assert zoo.parse(demo.STUDENT).build().f_sr_channels > 0


def test_the_embedded_data_credits_its_authors() -> None:
    assert "Creative Commons Attribution 3.0" in (ASSETS / "SOURCES.md").read_text()


def test_a_short_demo(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the size: five rows, every file, and a second run that resumes."""
    from stdpipe.models.checkpoints import save_network

    net, facts = load_network(TEACHER, "random:0")
    save_network(tmp_path / "teacher.pt", net, facts["network"], "bd")
    settings = ["steps=2", "batch=1", "patch=32", "workers=0"]
    monkeypatch.setattr(demo, "SAMPLE", tiny)
    monkeypatch.setattr(demo, "TEACHER", tmp_path / "teacher.pt")
    monkeypatch.setattr(
        demo.config, "load", lambda cls, file, given: load(cls, file, [*given, *settings])
    )
    said: list[str] = []
    first = demo.run_demo(tmp_path / "demo", said.append)
    assert [row["name"] for row in first["rows"]] == [
        "bicubic",
        "bicubic, true phase",
        "student without a teacher",
        "student with a teacher",
        "teacher",
    ]
    assert len(said) == 4
    for row in first["rows"]:
        assert re.search(rf"\| {row['name']} +\| +{row['parameters']:,} \|", first["text"])
    assert len(list((tmp_path / "demo" / "results" / "pictures").glob("*.png"))) == 1
    page = (tmp_path / "demo" / "report" / "index.html").read_text()
    assert all(page.count(f'<th scope="row">{row["name"]}</th>') >= 2 for row in first["rows"])
    assert "<li>student with a teacher: " in page, "its training run has its name, too"
    assert demo.run_demo(tmp_path / "demo", said.append)["rows"] == first["rows"]


@pytest.mark.slow
def test_the_demo(tmp_path: Path, stdpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """`stdpipe demo` as the help has it. Minutes; which student wins is not asserted."""
    monkeypatch.chdir(tmp_path)
    result = stdpipe("demo", "--out", "demo")
    assert "| teacher " in result.stdout
    assert result.stderr.count("\n") == 4
    assert (tmp_path / "demo" / "runs" / "taught" / "weights.pt").is_file()
