"""Training a teacher: what changes in which phase, and that an interrupted run loses nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stdpipe.models import zoo
from stdpipe.models.checkpoints import load_network, save_network
from stdpipe.models.rbpn import RBPN
from stdpipe.training import run_folder

Command = Callable[..., Any]
NET = "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1,num_reconstruct_block=1"
SETTINGS = {"steps": 3, "batch": 2, "patch": 32, "workers": 0, "log_every": 1, "save_every": 1}


def command(out: Path, data: Path, *more: object, net: str = NET, **settings: object) -> list[Any]:
    changed = [x for k, v in (SETTINGS | settings).items() for x in ("--set", f"{k}={v}")]
    return ["train-teacher", "--data", data, "--teacher", net, "--out", out, *changed, *more]


def weights(run: Path) -> dict[str, Tensor]:
    return torch.load(run / "weights.pt", weights_only=True)["params"]


def changed(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    return {key for key in a if not torch.equal(a[key], b[key])}


def save_and_stop_at(step: int) -> Callable[..., None]:
    save = run_folder.save_checkpoint

    def save_and_stop(out: Path, done: int, **parts: Any) -> None:
        save(out, done, **parts)
        if done == step:
            raise KeyboardInterrupt

    return save_and_stop


@pytest.fixture
def without_tsa(tmp_path: Path, tiny: Path, stdpipe: Command) -> Path:
    """Weights of a teacher whose fusion is a 1 x 1 convolution."""
    stdpipe(*command(tmp_path / "m0", tiny, net=f"{NET},with_tsa=false"))
    return tmp_path / "m0" / "weights.pt"


def test_tsa_steps_train_the_fusion_alone(
    tmp_path: Path, tiny: Path, without_tsa: Path, stdpipe: Command
) -> None:
    before = torch.load(without_tsa, weights_only=True)["params"]
    init = ("--init", without_tsa)
    stdpipe(*command(tmp_path / "fusion", tiny, *init, tsa_steps=3))
    after = weights(tmp_path / "fusion")
    kept = {key for key in before if not key.startswith("fusion.")}
    assert kept == {key for key in after if not key.startswith("fusion.")}
    assert all(torch.equal(before[key], after[key]) for key in kept)
    stdpipe(*command(tmp_path / "all", tiny, *init, tsa_steps=2))
    moved = {key for key in kept if not torch.equal(before[key], weights(tmp_path / "all")[key])}
    assert "conv_first.weight" in moved
    assert "conv_last.weight" in moved


def test_init_keeps_a_fusion_that_fits(tmp_path: Path, tiny: Path, stdpipe: Command) -> None:
    """Adam moves a weight by at most lr a step: a fresh fusion would be further away."""
    stdpipe(*command(tmp_path / "first", tiny))
    init = ("--init", tmp_path / "first" / "weights.pt", "--set", "seed=9")
    stdpipe(*command(tmp_path / "second", tiny, *init, tsa_steps=1, steps=1, lr=1e-9))
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert max((first[key] - second[key]).abs().max().item() for key in first) < 1e-6


def test_init_without_tsa_steps_must_fit(
    tmp_path: Path, tiny: Path, without_tsa: Path, refused: Command
) -> None:
    told = refused(*command(tmp_path / "run", tiny, "--init", without_tsa))
    assert "does not fit this network: it lacks" in told
    assert "fusion." in told
    assert not (tmp_path / "run").exists()


@pytest.fixture
def published_rbpn(tmp_path: Path) -> Path:
    """A checkpoint as the original writes it: its own head, under DataParallel's names."""
    net = RBPN(num_frame=3, num_feat=8, num_base=8, num_resblock=1, published_head=True)
    torch.save({f"module.{k}": v for k, v in net.state_dict().items()}, tmp_path / "rbpn.pth")
    return tmp_path / "rbpn.pth"


def test_rbpns_new_head_is_trained_alone(
    tmp_path: Path, tiny: Path, published_rbpn: Path, stdpipe: Command,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """All else is the published file's, to the bit; the head starts fresh, which is said, and
    learns."""
    net = "rbpn:num_frame=3,num_feat=8,num_base=8,num_resblock=1"
    run = command(tmp_path / "run", tiny, "--init", published_rbpn, net=net, train_only="output")
    stdpipe(*run)
    assert f"{published_rbpn} does not hold this output, which starts fresh" in caplog.text
    before = {k[7:]: v for k, v in torch.load(published_rbpn, weights_only=True).items()}
    after = weights(tmp_path / "run")
    head = {k for k in after if k.startswith("output.")}
    assert changed({k: v for k, v in before.items() if not k.startswith("output.")}, after) == set()
    torch.manual_seed(0)  # of the run, which draws its network first
    drawn = zoo.parse(net).build().state_dict()
    assert changed({k: drawn[k] for k in head}, after) == head
    again = load_network(None, str(tmp_path / "run" / "weights.pt"))[0]
    assert again.f_sr_channels == 64


def test_a_part_that_fits_is_kept(
    tmp_path: Path, tiny: Path, published_rbpn: Path, stdpipe: Command,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """train_only does not throw away what --init holds of its parts; a nested part may be named."""
    net = "rbpn:num_frame=3,num_feat=8,num_base=8,num_resblock=1,published_head=true"
    only = {"train_only": "DBPN.feat1, output", "steps": 1, "lr": 1e-9}
    stdpipe(*command(tmp_path / "run", tiny, "--init", published_rbpn, net=net, **only))
    assert "fresh" not in caplog.text
    before = {k[7:]: v for k, v in torch.load(published_rbpn, weights_only=True).items()}
    after = weights(tmp_path / "run")
    assert all(k.startswith(("DBPN.feat1.", "output.")) for k in changed(before, after))
    assert max((before[k] - after[k]).abs().max().item() for k in before) < 1e-6


def test_what_is_not_trained_keeps_its_statistics(
    tmp_path: Path, tiny: Path, stdpipe: Command
) -> None:
    """A frozen network's norms do not go on counting."""
    net = "toflow:num_frame=3,num_feat=4,num_flow_feat=2"
    save_network(tmp_path / "w.pt", zoo.parse(net).build(), net, "bd")
    init = ("--init", tmp_path / "w.pt")
    stdpipe(*command(tmp_path / "run", tiny, *init, net=net, train_only="conv_4"))
    statistics = {k: v for k, v in weights(tmp_path / "run").items() if "running_mean" in k}
    assert len(statistics) == 16
    assert not any(v.any() for v in statistics.values())


@pytest.mark.parametrize("tsa_steps", [0, 2])
def test_a_stopped_run_goes_on_bit_for_bit(
    tmp_path: Path, tiny: Path, without_tsa: Path, stdpipe: Command, refused: Command,
    monkeypatch: pytest.MonkeyPatch, tsa_steps: int,
) -> None:  # fmt: skip
    """With tsa_steps, it stops in the first phase and resumes into the second."""
    init = ("--init", without_tsa) if tsa_steps else ()
    arguments = {"tsa_steps": tsa_steps, "steps": 4}
    stdpipe(*command(tmp_path / "whole", tiny, *init, **arguments))
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "save_checkpoint", save_and_stop_at(1))
        refused(*command(tmp_path / "parts", tiny, *init, **arguments), code=130)
    stdpipe(*command(tmp_path / "parts", tiny, *init, **arguments))
    assert changed(weights(tmp_path / "whole"), weights(tmp_path / "parts")) == set()


def test_weights_that_could_not_be_written_are_written_by_the_next_run(
    tmp_path: Path, tiny: Path, stdpipe: Command, refused: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space")

    arguments = command(tmp_path / "run", tiny, steps=1)
    with monkeypatch.context() as patch:
        patch.setattr("stdpipe.models.checkpoints.save_network", full)
        refused(*arguments)
    stdpipe(*arguments)
    assert weights(tmp_path / "run")


def test_excluded_clips_are_not_read(tmp_path: Path, make_data: Command, stdpipe: Command) -> None:
    data = make_data(tmp_path / "data", clips=2)
    for frame in (data / "sequences/00001/0002").iterdir():
        frame.write_bytes(b"")
    stdpipe(*command(tmp_path / "run", data, "--exclude", "00001/0002"))


def test_the_weights_say_what_they_are(tmp_path: Path, tiny: Path, stdpipe: Command) -> None:
    stdpipe(*command(tmp_path, tiny, "--degradation", "bi"))
    net, facts = load_network(None, str(tmp_path / "weights.pt"))
    assert facts["degradation"] == "bi"
    assert net.num_frame == 3
    assert net.phase == 1.5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--exclude", "00001/0009"], "'00001/0009', which is to be left out, is no clip"),
        (
            [x for n in (1, 2, 3) for x in ("--exclude", f"00001/000{n}")],
            "none of the 3 clips",
        ),
        (["--teacher", "bicubic"], "has nothing to train"),
        (["--teacher", f"{NET},hr_in=true,with_predeblur=true"], "does not enlarge: its input"),
        (
            ["--teacher", "fastdvdnet-quarter", "--set", "tsa_steps=1"],
            "a fusion, which fastdvdnet:phase=0.0,width=0.25 does not have",
        ),
        (
            ["--set", "train_only=conv_last,fusoin"],
            "phase=0.0 has no part 'fusoin'; did you mean 'fusion'? (known: conv_first,",
        ),
        (["--set", "train_only=conv_last"], "train_only leaves the rest of edvr:"),
        (["--set", "tsa_steps=1"], "phase=0.0 as --init has it: give --init"),
        (["--init", "nowhere.pt"], "no weights file nowhere.pt"),
        (["--set", "patch=64"], "smaller than the patch of 64"),
        (["--set", "lr=1e30"], "loss is not finite at step"),
    ],
    ids=[
        "exclude",
        "all",
        "bicubic",
        "hr_in",
        "no-fusion",
        "no-part",
        "part-without-init",
        "tsa-without-init",
        "init",
        "patch",
        "nan",
    ],
)
def test_refused(
    tmp_path: Path, tiny: Path, refused: Command, more: list[str], message: str
) -> None:
    words = command(tmp_path / "run", tiny, *more)
    if "--teacher" in more:  # in place of the usual one
        first = words.index("--teacher")
        words = [*words[:first], *words[first + 2 :]]
    assert message in refused(*words)
