"""How a step is run changes its rounding and nothing else; tests/test_train.py has whole runs."""

import shutil
from collections.abc import Mapping
from functools import partial

import pytest
import torch
from torch import Tensor

from stdpipe.device import autocast
from stdpipe.distill.term import LossInputs
from stdpipe.distill.terms import build_helpers, scheme_loss
from stdpipe.models import zoo
from stdpipe.models.base import Network
from stdpipe.training import metrics_log, run_folder, speed
from stdpipe.training.config import StudentTraining

CPU = torch.device("cpu")
STUDENT = "fastdvdnet-quarter"
SMALL = "vdsr:num_feat=64,num_layer=3"


def losses(student: str, steps: int = 3, **settings: object) -> list[float]:
    """Of some steps of STD on a random clip of two frames."""
    options = StudentTraining(warmup_steps=0, **settings)  # type: ignore[arg-type]
    torch.manual_seed(0)
    net = zoo.parse(student).build().train()
    learners = build_helpers(options.terms, (net.f_sr_channels, 64))
    speed.prepare_student(net, learners, options)
    trained = [p for part in (net, *learners.values()) for p in part.parameters()]
    stepper = run_folder.Stepper(trained, options, CPU)
    batch = clips()
    found = []
    for step in range(steps):
        with autocast(CPU, options.amp):
            inputs = LossInputs(net.features_clip(batch["lr"]), batch, learners)
            parts, _ = scheme_loss(inputs, options.terms)
        stepper.backward(parts["loss"])
        stepper.step(step)
        found += metrics_log.to_floats([parts]).values()
    return found


def clips() -> Mapping[str, Tensor]:
    numbers = torch.Generator().manual_seed(1)
    sizes = {"lr": (3, 4, 4), "hr": (3, 16, 16), "f_sr": (64, 16, 16)}
    made = {name: torch.rand(1, 2, *size, generator=numbers) for name, size in sizes.items()}
    return {**made, "f_sr": made["f_sr"] * 0.1}


@pytest.fixture(scope="module")
def plain() -> list[float]:
    return losses(STUDENT, channels_last=False)


@pytest.mark.parametrize(
    "settings",
    [{"channels_last": True}, {"recompute": True}, {"recompute": True, "channels_last": True}],
    ids=str,
)
def test_losses_are_those_of_the_plain_step(plain: list[float], settings: dict[str, bool]) -> None:
    assert losses(STUDENT, **{"channels_last": False, **settings}) == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("recompute", [False, True])
def test_losses_in_bf16_are_near(plain: list[float], recompute: bool) -> None:
    assert losses(STUDENT, amp="bf16", recompute=recompute) == pytest.approx(plain, rel=0.03)


def test_losses_in_fp16_begin_near_and_fall(plain: list[float]) -> None:
    """Its loss is scaled; a step whose gradients overflow is left out, and the scale halved."""
    mixed = losses(STUDENT, steps=4, amp="fp16")
    one = len(plain) // 3
    assert mixed[:one] == pytest.approx(plain[:one], rel=0.03)
    assert mixed[-one] < mixed[0]


@pytest.mark.slow
def test_losses_traced_are_those_of_the_plain_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.compile sees of a step, run without a compiler; with recomputation around it."""
    expected = losses(STUDENT, steps=2)
    monkeypatch.setattr(speed, "_check_compiler", lambda device: None)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    found = losses(STUDENT, steps=2, compile=True, recompute=True)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow  # the compiler takes most of a minute
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("recompute", [False, True])
def test_losses_compiled_are_those_of_the_plain_step(recompute: bool) -> None:
    expected = losses(SMALL)
    assert losses(SMALL, compile=True, recompute=recompute) == pytest.approx(expected, rel=1e-4)


def prepared(student: str, **settings: bool) -> Network:
    net = zoo.parse(student).build()
    speed.prepare_student(net, {}, StudentTraining(**settings))  # type: ignore[arg-type]
    return net


def test_a_prepared_student_is_saved_and_looked_at_as_any() -> None:
    """Names and values stay, and some centres alone, or no gradient, take the plain way."""
    torch.manual_seed(0)
    plain = zoo.parse(STUDENT).build()
    torch.manual_seed(0)
    net = prepared(STUDENT, recompute=True)
    assert net.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in net.state_dict().items())
    clip = clips()["lr"]
    torch.testing.assert_close(net.features_clip(clip, [1]).sr, plain.features_clip(clip, [1]).sr)
    with torch.no_grad():
        assert net.features_clip(clip).sr.grad_fn is None


def test_recomputing_keeps_less_for_the_backward_pass() -> None:
    """Counted by what autograd packs away, apart from the weights themselves."""
    assert kept(recompute=True) < 0.1 * kept(recompute=False)


def kept(recompute: bool) -> int:
    net = prepared(STUDENT, recompute=recompute)
    packed: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        if not isinstance(x, torch.nn.Parameter):
            packed[x.data_ptr()] = x.nbytes
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        net.features_clip(clips()["lr"])
    return sum(packed.values())


def test_recomputing_batch_norm_is_refused() -> None:
    """Its running statistics would see every batch twice."""
    with pytest.raises(ValueError, match="batch norm count every batch twice"):
        prepared("fastdvdnet-quarter:norm=batch", recompute=True)


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"there is no no-such-compiler: install one"):
        prepared(STUDENT, compile=True)
