"""Every scheme and every student through the front door: ten steps from a cache."""

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stdpipe.distill.names import SCHEMES
from stdpipe.distill.schemes import parse_scheme
from stdpipe.distill.terms import TERMS
from stdpipe.models import zoo
from stdpipe.models.zoo import ZOO
from stdpipe.training.metrics_log import read_metrics

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
    return read_metrics(run / "metrics.jsonl")


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
    """Stopped and resumed, every helper comes back: bit for bit the unbroken run's. So do TD's crop
    and the target on its way to HR, which depend on the step."""
    scheme = ",".join(f"{name}=0.5" for name in TERMS)
    more = ("--cache", full_cache, "--student", TINY, "--scheme", scheme)
    settings = {**TEN, "steps": 4, "save_every": 1, "td_crop": 8, "output_to_hr": 0.75}
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
    roles = {"student", "memory", "adapter", "adapter_lr", "memory_lr", "pisr", "pisr_sr"}
    assert whole.keys() == roles | {
        "step", "rng", "run_id", "stepper", "metrics", "clip_sums", "term_weights", "average",
        "best", "frozen", "frozen_lr",
    }  # fmt: skip
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
    assert told.endswith("extract again with --targets sr,f_sr,attention,f_lr")


@pytest.mark.parametrize("scheme", ["std-lr", "kd-mean2", "pisr", "affinity"])
@pytest.mark.parametrize("student", ["vdsr", "vsrnet", "vsrnet-deep"])
def test_an_f_lr_that_is_the_input_learns_nothing(
    tmp_path: Path, tiny: Path, full_cache: Path, train: Command, refused: Command, student: str,
    scheme: str,
) -> None:  # fmt: skip
    more = ("--cache", full_cache, "--student", student, "--scheme", scheme)
    told = refused(*train(tmp_path, tiny, *more))
    full_name = zoo.parse(student).with_phase(0.0)
    assert f"scheme '{scheme}' teaches F^LR" in told
    assert str(full_name) in told


def test_a_teacher_without_a_head_gives_no_image(
    tmp_path: Path, tiny: Path, train: Command, stdpipe: Command, refused: Command
) -> None:
    """VDSR's base is bicubic: two LR pixels beyond a crop belong to its image."""
    stdpipe(
        "extract-teacher", "--data", tiny, "--cache", tmp_path / "c", "--teacher",
        "vdsr:num_layer=3", "--weights", "random:0", "--targets", "f_sr",
    )  # fmt: skip
    told = refused(*train(tmp_path / "run", tiny, "--cache", tmp_path / "c", "--scheme", "output"))
    assert "which the last layers of vdsr:num_layer=3,phase=0.0 do not allow" in told


@pytest.mark.parametrize("scheme", ["none", "sd"])
def test_luma_counts_twice(
    tmp_path: Path, tiny: Path, full_cache: Path, train: Command, stdpipe: Command, scheme: str
) -> None:
    """In the warm-up too, and without a teacher."""
    more = ("--cache", full_cache, "--student", TINY, "--scheme", scheme)
    stdpipe(*train(tmp_path, tiny, *more, luma=0.5, steps=3))
    for line in lines(tmp_path):
        total = line["rec"] + 0.5 * line["luma"] + line.get("sd", 0)
        assert line["loss"] == pytest.approx(total, rel=1e-5)


def test_td_on_crops_that_change_with_the_step(
    tmp_path: Path, tiny: Path, full_cache: Path, train: Command, stdpipe: Command
) -> None:
    """Slices of a step share the place, whatever their number: its L_TD is the same."""
    more = ("--cache", full_cache, "--student", TINY, "--scheme", "td")
    settings = {"td_crop": 8, "steps": 2, "warmup_steps": 0}
    for passes in (1, 2):
        stdpipe(*train(tmp_path / f"{passes}", tiny, *more, accumulate=passes, **settings))
    stdpipe(*train(tmp_path / "whole", tiny, *more, **settings | {"td_crop": 0}))
    one, two, whole = ([x["td"] for x in lines(tmp_path / n)] for n in ("1", "2", "whole"))
    assert one == pytest.approx(two, rel=1e-4)
    assert one[0] != pytest.approx(whole[0], rel=1e-4)


FAST = ("fastdvdnet-quarter", "vespcn")
STUDENTS = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
    for name in ZOO
    if name not in ("bicubic", "pisr", "rbpn", "duf", "edvr-l")
]


def fitting(student: str) -> list[str]:
    """Every term; without those on F^LR for VDSR and VSRNet, whose F^LR is their input."""
    learns_f_lr = not student.startswith(("vdsr", "vsrnet"))
    return [name for name, term in TERMS.items() if learns_f_lr or term.needs != "f_lr"]


@pytest.mark.parametrize("student", STUDENTS)
def test_every_student_learns_all_that_fits(
    tmp_path: Path, tiny: Path, full_cache: Path, train: Command, stdpipe: Command, student: str
) -> None:
    """At full size, ten steps of a sum of terms: each is told after warm-up, and finite; every
    weight moves. RBPN and EDVR-L are teachers, too large; DUF has no F^SR to teach.

    That each term by itself reaches what it should: tests/distill/test_terms.py."""
    terms = fitting(student)
    more = ("--cache", full_cache, "--student", student, "--scheme", ",".join(terms))
    stdpipe(*train(tmp_path, tiny, *more, **TEN))
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 11))
    for line in lines(tmp_path)[2:]:
        assert TERMS.keys() & line.keys() == set(terms)
        assert all(math.isfinite(line[name]) for name in (*terms, "loss"))
    torch.manual_seed(0)  # of the run, which draws its student first
    begun = zoo.parse(student).with_phase(0.0).build()
    after = exported(tmp_path)
    assert not [k for k, p in begun.named_parameters() if torch.equal(p, after[k])]


def graph(file: Path) -> list[Any]:
    """Every operation and the size of every constant of an ONNX file, in order."""
    onnx = importlib.import_module("onnx")  # it has no types
    of = onnx.load(file).graph
    return [(node.op_type, list(node.input), list(node.output)) for node in of.node] + [
        (constant.name, list(constant.dims)) for constant in of.initializer
    ]


def test_the_adapter_stays_behind(
    tmp_path: Path, tiny: Path, full_cache: Path, train: Command, stdpipe: Command
) -> None:
    """An F^SR of other channels is taught through a 1x1 convolution, which is in the checkpoint
    alone: the weights are, but for their values, those of a student without a teacher."""
    more = ("--cache", full_cache, "--student", TINY, "--scheme", "std")
    stdpipe(*train(tmp_path, tiny, *more))
    assert checkpoint(tmp_path)["adapter"]["weight"].shape == (64, 4, 1, 1)
    own = zoo.parse(TINY).build().state_dict()
    taught = exported(tmp_path)
    assert {k: v.shape for k, v in taught.items()} == {k: v.shape for k, v in own.items()}


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("onnxscript") is None, reason="pip install 'stdpipe[export]'"
)
def test_the_adapter_stays_out_of_the_onnx_file(
    tmp_path: Path, tiny: Path, full_cache: Path, train: Command, stdpipe: Command
) -> None:
    """Its graph is, but for values, that of a student without a teacher."""
    student = "vsrnet:num_frame=3"
    graphs = []
    for scheme in ("std", "none"):
        more = ("--cache", full_cache, "--student", student, "--scheme", scheme)
        stdpipe(*train(tmp_path / scheme, tiny, *more))
        onnx = tmp_path / f"{scheme}.onnx"
        stdpipe("export", "--weights", tmp_path / scheme / "weights.pt", "--out", onnx)
        graphs.append(graph(onnx))
    assert graphs[0] == graphs[1]
