"""Every scheme and every student through the front door: ten steps from a cache."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stdpipe.distill.schemes import SCHEMES, parse_scheme
from stdpipe.distill.terms import TERMS
from stdpipe.models.zoo import ZOO

Command = Callable[..., Any]
TINY = "d3dnet:num_feat=4,num_frame=3,num_deform_block=1,num_block=1"  # F^SR and F^LR: 4 channels
TEN = {"steps": 10, "warmup_steps": 2, "patch": 16, "batch": 1, "log_every": 1, "save_every": 10}


@pytest.fixture(scope="module")
def full_cache(tiny: Path, extract: Command, stdpipe: Command, tmp_path_factory: Any) -> Path:
    """All targets, two orientations a clip, int8: as few bytes as can be, with scales."""
    path = tmp_path_factory.mktemp("full") / "cache.zarr"
    targets = ("--targets", "f_sr,attention,f_lr", "--encoding", "int8")
    stdpipe(*extract(tiny, path, "--orientations", 2, *targets))
    return path


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def checkpoint(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "checkpoint.pt", weights_only=True)
    return content


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_trains_ten_steps(
    tmp_path: Path, tiny: Path, full_cache: Path, train: Command, stdpipe: Command, scheme: str
) -> None:
    """Its terms are logged after warm-up, unweighted, and add up to the loss."""
    more = ("--cache", full_cache, "--student", TINY, "--scheme", scheme)
    stdpipe(*train(tmp_path, tiny, *more, **TEN))
    terms = parse_scheme(scheme)
    assert len(lines(tmp_path)) == 10
    for number, line in enumerate(lines(tmp_path)):
        assert TERMS.keys() & line.keys() == (terms.keys() if number >= 2 else set())
        total = line["rec"] + sum(line.get(name, 0) * weight for name, weight in terms.items())
        assert line["loss"] == pytest.approx(total, rel=1e-5)


def test_a_sum_of_everything(
    tmp_path: Path, tiny: Path, full_cache: Path, train: Command, stdpipe: Command,
    refused: Command, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Stopped and resumed, every helper comes back: bit for bit the unbroken run's."""
    scheme = ",".join(f"{name}=0.5" for name in TERMS)
    more = ("--cache", full_cache, "--student", TINY, "--scheme", scheme)
    settings = {**TEN, "steps": 4, "save_every": 1}
    stdpipe(*train(tmp_path / "whole", tiny, *more, **settings))
    save = torch.save

    def save_and_stop(content: Any, *rest: Any) -> None:
        save(content, *rest)
        if content.get("step") == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("torch.save", save_and_stop)
        refused(*train(tmp_path / "parts", tiny, *more, **settings), code=130)
    stdpipe(*train(tmp_path / "parts", tiny, *more, **settings))
    whole, parts = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    roles = {"student", "memory", "adapter", "adapter_lr", "memory_lr", "pisr"}
    assert whole.keys() == roles | {"step", "rng", "stepper", "frozen", "frozen_lr"}
    for role in roles:
        for name, value in whole[role].items():
            assert torch.equal(value, parts[role][name]), (role, name)
    assert "pisr.mean.0.weight" not in exported(tmp_path / "whole")
    assert exported(tmp_path / "whole").keys() == whole["student"].keys()


def exported(run: Path) -> dict[str, Tensor]:
    content: dict[str, Tensor] = torch.load(run / "weights.pt", weights_only=True)["params"]
    return content


def test_the_memory_of_f_lr_has_its_own_guard(
    tmp_path: Path, tiny: Path, full_cache: Path, train: Command, stdpipe: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It has the teacher's 8 channels; made to bite at once, the guard stops its weights."""
    monkeypatch.setattr("stdpipe.distill.time.COLLAPSE", 1e9)
    more = ("--cache", full_cache, "--student", TINY, "--scheme", "td-lr")
    stdpipe(*train(tmp_path, tiny, *more, **{**TEN, "steps": 5}))
    saved = checkpoint(tmp_path)
    assert (saved["frozen"], saved["frozen_lr"]) == (False, True)
    assert saved["memory_lr"]["hidden_gates.weight"].shape == (32, 8, 3, 3)
    assert saved["adapter_lr"]["weight"].shape == (8, 4, 1, 1)
    norms = [line["memory_lr_norm"] for line in lines(tmp_path)]
    assert norms[1] != norms[2]
    assert norms[2] == norms[3] == norms[4]


def test_what_is_missing_is_named_with_the_option_that_adds_it(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, refused: Command
) -> None:
    told = refused(*train(tmp_path, tiny, "--cache", tiny_cache, "--scheme", "pisr"))
    assert "scheme 'pisr' needs f_lr, which" in told
    assert told.endswith("extract again with --targets f_sr,attention,f_lr")


@pytest.mark.parametrize("scheme", ["std-lr", "kd-mean2", "pisr"])
def test_an_f_lr_that_is_the_input_learns_nothing(
    tmp_path: Path, tiny: Path, full_cache: Path, train: Command, refused: Command, scheme: str
) -> None:
    more = ("--cache", full_cache, "--student", "vdsr:num_layer=3", "--scheme", scheme)
    told = refused(*train(tmp_path, tiny, *more))
    assert f"scheme '{scheme}' teaches F^LR, but vdsr:num_layer=3,phase=0.0 trains nothing" in told


def test_a_teacher_without_a_head_gives_no_image(
    tmp_path: Path, tiny: Path, train: Command, stdpipe: Command, refused: Command
) -> None:
    """VDSR's base is bicubic: two LR pixels beyond a crop belong to its image."""
    stdpipe(
        "extract-teacher", "--data", tiny, "--cache", tmp_path / "c", "--teacher",
        "vdsr:num_layer=3", "--weights", "random:0",
    )  # fmt: skip
    told = refused(*train(tmp_path / "run", tiny, "--cache", tmp_path / "c", "--scheme", "output"))
    assert "which the last layers of vdsr:num_layer=3,phase=0.0 do not allow" in told


STUDENTS = [name for name in ZOO if name not in ("bicubic", "pisr", "rbpn", "duf", "edvr-l")]
FAST = ["fastdvdnet-quarter", "vsrnet"]  # F^SR of 64 channels, and of 32


def ten_steps(run: Path, tiny: Path, cache: Path, train: Command, stdpipe: Command) -> None:
    stdpipe(*train(run, tiny, "--cache", cache, "--student", run.name, "--scheme", "std", **TEN))
    assert [line["step"] for line in lines(run)] == list(range(1, 11))
    assert lines(run)[2].keys() >= {"sd", "td"}


@pytest.mark.parametrize("name", FAST)
def test_students_train_ten_steps_of_std(
    tmp_path: Path, tiny: Path, full_cache: Path, train: Command, stdpipe: Command, name: str
) -> None:
    ten_steps(tmp_path / name, tiny, full_cache, train, stdpipe)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STUDENTS if name not in FAST])
def test_every_student_trains_ten_steps_of_std(
    tmp_path: Path, tiny: Path, full_cache: Path, train: Command, stdpipe: Command, name: str
) -> None:
    """As named, full size. RBPN and EDVR-L are teachers, too large; DUF has no F^SR to teach."""
    ten_steps(tmp_path / name, tiny, full_cache, train, stdpipe)
