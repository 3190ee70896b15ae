"""The RUN folder and what a training loop stands on, without a network worth the name."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from stdpipe.device import pick_device
from stdpipe.training import run_folder
from stdpipe.training.config import StudentTraining

FACTS = {"network": "n"}
OPTIONS = StudentTraining(steps=10, warmup_steps=2)


def test_open_run_writes_the_resolved_config(tmp_path: Path) -> None:
    with run_folder.open_run(tmp_path / "a" / "run", {"network": "n", "cache": None}, OPTIONS):
        pass
    held = yaml.safe_load((tmp_path / "a" / "run" / "config.yaml").read_text())
    assert held["network"] == "n"
    assert (held["steps"], held["lambda2"], held["cache"]) == (10, 100.0, None)
    found = sorted(path.name for path in (tmp_path / "a" / "run").iterdir())
    assert found == [".lock", "config.yaml"]


def test_open_run_refuses_another_config_and_says_what_differs(tmp_path: Path) -> None:
    with run_folder.open_run(tmp_path, {"network": "n"}, OPTIONS):
        pass
    (tmp_path / "checkpoint.pt").touch()  # a step is done
    before = (tmp_path / "config.yaml").read_bytes()
    other = StudentTraining(steps=12, warmup_steps=2)
    with (
        pytest.raises(ValueError, match=r"network 'n' there, 'm' now; steps 10 there, 12 now"),
        run_folder.open_run(tmp_path, {"network": "m"}, other),
    ):
        pass
    assert (tmp_path / "config.yaml").read_bytes() == before


def test_a_folder_without_steps_takes_other_options(tmp_path: Path) -> None:
    """A training that was refused, or stopped before its first checkpoint, leaves no run."""
    other = StudentTraining(steps=12, warmup_steps=2)
    for options in (OPTIONS, other):
        with run_folder.open_run(tmp_path, {"network": "n"}, options):
            pass
    assert run_folder.read_config(tmp_path / "config.yaml")["steps"] == 12


def test_open_run_lets_speed_differ(tmp_path: Path) -> None:
    free = {"workers": 2, "log_every": 3, "save_every": 4, "accumulate": 2, "evaluate_every": 1}
    for options in (OPTIONS, dataclasses.replace(OPTIONS, **free)):
        with run_folder.open_run(tmp_path, FACTS, options):
            pass


def test_a_run_begun_before_a_key_existed_goes_on(tmp_path: Path) -> None:
    with run_folder.open_run(tmp_path, {"network": "n"}, OPTIONS):
        pass
    (tmp_path / "checkpoint.pt").touch()  # a step is done
    file = tmp_path / "config.yaml"
    held = yaml.safe_load(file.read_text())
    del held["data_seed"], held["lambda1"]
    file.write_text(yaml.safe_dump(held))
    with run_folder.open_run(tmp_path, {"network": "n"}, OPTIONS):
        pass
    other = StudentTraining(steps=10, warmup_steps=2, lambda1=2.0)
    with (
        pytest.raises(ValueError, match=r"lambda1 1\.0 there, 2\.0 now"),
        run_folder.open_run(tmp_path, {"network": "n"}, other),
    ):
        pass


def test_data_may_move_but_not_change(tmp_path: Path) -> None:
    with run_folder.open_run(tmp_path, {**FACTS, "data": "/a", "clips": "1"}, OPTIONS):
        pass
    (tmp_path / "checkpoint.pt").touch()  # a step is done
    with run_folder.open_run(tmp_path, {**FACTS, "data": "/b", "clips": "1"}, OPTIONS):
        pass
    with (
        pytest.raises(ValueError, match="clips '1' there, '2' now"),
        run_folder.open_run(tmp_path, {**FACTS, "data": "/b", "clips": "2"}, OPTIONS),
    ):
        pass


def test_nobody_else_trains_in_the_same_folder(tmp_path: Path) -> None:
    with (
        run_folder.open_run(tmp_path, FACTS, OPTIONS),
        pytest.raises(ValueError, match="another process is training in"),
        run_folder.open_run(tmp_path, FACTS, OPTIONS),
    ):
        pass


def test_batches_are_numbered_from_the_first_step() -> None:
    assert list(run_folder.batches(0, 2, 3)) == [[0, 1, 2], [3, 4, 5]]
    assert list(run_folder.batches(1, 2, 3)) == [[3, 4, 5]]


def test_slices_of_a_batch_follow_each_other() -> None:
    batches = run_folder.batches(1, 3, 4, accumulate=2)
    assert list(batches) == [[4, 5], [6, 7], [8, 9], [10, 11]]


def test_learning_rate() -> None:
    halve = StudentTraining(lr=1e-4)
    rates = [run_folder.learning_rate(s, halve) for s in (0, 199_999, 200_000, 799_999)]
    assert rates == pytest.approx([1e-4, 1e-4, 5e-5, 1.25e-5])
    cosine = StudentTraining(steps=100, warmup_steps=1, lr=2.0, schedule="cosine")
    assert [run_folder.learning_rate(s, cosine) for s in (0, 50, 100)] == pytest.approx([2, 1, 0])


def test_pick_device() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="device 'gpu' is not to be had") as caught:
        pick_device("gpu")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_pick_device_without_cuda() -> None:
    with pytest.raises(ValueError, match="device 'cuda' is not to be had"):
        pick_device("cuda")


def test_stepper_clips_the_gradient() -> None:
    weight = nn.Parameter(torch.zeros(4))
    stepper = run_folder.Stepper([weight], StudentTraining(max_grad_norm=0.5), torch.device("cpu"))
    stepper.backward((weight * 100).sum())
    stepper.step(0)
    moment = stepper.optimiser.state[weight]["exp_avg"]  # a tenth of the first gradient
    assert moment.norm().item() == pytest.approx(0.05, rel=1e-4)
    assert weight.grad is None
    assert stepper.lr == 1e-4


def test_slices_make_one_step() -> None:
    """Two halves of a batch move the weight as the whole does."""
    clips = torch.tensor([[1.0, 2.0], [-4.0, 0.5]])
    moved = []
    for accumulate in (1, 2):
        weight = nn.Parameter(torch.zeros(2))
        options = StudentTraining(accumulate=accumulate)
        stepper = run_folder.Stepper([weight], options, torch.device("cpu"))
        for part in clips.chunk(accumulate):
            stepper.backward((part @ weight).mean())
        stepper.step(0)
        moved.append(stepper.optimiser.state[weight]["exp_avg"])
    assert torch.allclose(*moved)


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    net, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert run_folder.resume(tmp_path, net=other) == {"step": 0}
    run_folder.save_checkpoint(tmp_path, 7, net=net, frozen=True)
    saved = run_folder.resume(tmp_path, net=other)
    assert (saved["step"], saved["frozen"]) == (7, True)
    assert torch.equal(other.weight, net.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("keep", [0, 10, 500])
def test_a_damaged_checkpoint_is_told_in_one_line(tmp_path: Path, keep: int) -> None:
    run_folder.save_checkpoint(tmp_path, 7, net=nn.Linear(2, 2))
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged") as caught:
        run_folder.resume(tmp_path, net=nn.Linear(2, 2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        torch.AcceleratorError("CUDA error: unspecified launch failure"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
    ],
)
@pytest.mark.parametrize("function", ["torch.load", "torch.optim.Adam.load_state_dict"])
def test_a_device_that_fails_does_not_blame_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, error: Exception
) -> None:
    """With memory made free, the same file is read."""

    def failing(*_: object, **__: object) -> None:
        raise error

    parameters = [nn.Parameter(torch.zeros(2))]
    stepper = run_folder.Stepper(parameters, OPTIONS, torch.device("cpu"))
    run_folder.save_checkpoint(tmp_path, 7, stepper=stepper)
    with monkeypatch.context() as patch:
        patch.setattr(function, failing)
        with pytest.raises(type(error)) as caught:
            run_folder.resume(tmp_path, stepper=stepper)
    assert caught.value is error
    assert run_folder.resume(tmp_path, stepper=stepper)["step"] == 7


def test_stop_on_nan_saves_the_inputs(tmp_path: Path) -> None:
    batch = {"lr": torch.ones(2, 3)}
    run_folder.stop_on_nan(tmp_path, 4, {"loss": 1.0}, [batch])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"loss, td is not finite at step 5.*nan-step-5\.pt"):
        run_folder.stop_on_nan(
            tmp_path, 5, {"loss": math.nan, "rec": 1.0, "td": math.inf}, [batch] * 2
        )
    saved = torch.load(tmp_path / "nan-step-5.pt", weights_only=True)
    assert torch.equal(saved["lr"], torch.ones(4, 3))
