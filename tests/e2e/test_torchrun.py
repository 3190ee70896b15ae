"""Two real processes under torchrun (gloo on a CPU) against one with the same global batch."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stdpipe.models import zoo
from stdpipe.models.checkpoints import save_network
from stdpipe.training.metrics_log import read_metrics

Command = Callable[..., Any]
Torchrun = Callable[..., "subprocess.CompletedProcess[str]"]

OTHER_WIDTH = "d3dnet:num_feat=8,num_frame=3,num_deform_block=1,num_block=1"  # has an adapter
SIX_STEPS = {"steps": 6, "warmup_steps": 2, "batch": 2, "patch": 16, "save_every": 100}

# in every rank, before the command itself
MAIN = "from stdpipe.cli.main import main\nmain(prog_name='stdpipe')\n"
KILL_RANK_1_AT_A_CHECKPOINT = """
import os, signal
from stdpipe.training.student import StudentTrainer
write = StudentTrainer.write
def write_and_die(self, batch):
    shown = write(self, batch)
    if os.environ["RANK"] == "1" and self.done == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return shown
StudentTrainer.write = write_and_die
"""
# torchrun hands on to its ranks what it gets, and a scheduler may ask one rank alone
STOP_AT_STEP_2 = """
import os, signal, time
from stdpipe.training.run_folder import Stepper
step = Stepper.step
def asked(self, number):
    if os.environ["RANK"] == "1" and number == 1:
        os.kill({target}, signal.SIGTERM)
    time.sleep(0.5)
    step(self, number)
Stepper.step = asked
"""
# a collective waits for four seconds, an evaluation takes six
SLOW_EVALUATION = """
import time
from datetime import timedelta
import torch.distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout
from stdpipe import train
init, evaluate = dist.init_process_group, train.evaluate
def impatient(backend):
    init(backend)
    _set_pg_timeout(timedelta(seconds=4), dist.group.WORLD)
def slow(job):
    time.sleep(6 if job.out.name == "1" else 0)
    evaluate(job)
dist.init_process_group, train.evaluate = impatient, slow
"""


@pytest.fixture(scope="module")
def torchrun(tmp_path_factory: pytest.TempPathFactory) -> Torchrun:
    """torchrun(processes, arguments, before=""): the command under torchrun, after some Python."""
    script = tmp_path_factory.mktemp("torchrun") / "stdpipe_main.py"

    def run(
        processes: int, arguments: Sequence[object], before: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        script.write_text(before + MAIN)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        program = [script] if before else ["-m", "stdpipe.cli.main"]
        command = [*launcher, "--nproc-per-node", processes, *program, *arguments]
        return subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            start_new_session=True,
        )

    return run


def lines(run: Path) -> list[dict[str, float]]:
    return read_metrics(run / "metrics.jsonl")


def weights(run: Path) -> dict[str, Tensor]:
    return torch.load(run / "weights.pt", weights_only=True)["params"]


def same(a: Path, b: Path) -> bool:
    left, right = weights(a), weights(b)
    return all(torch.equal(left[key], right[key]) for key in right)


def assert_close(a: Path, b: Path) -> None:
    """Every loss part of every step within 1e-6."""
    for left, right in zip(lines(a), lines(b), strict=True):
        for part in left.keys() - {"steps_per_s", "wait"}:
            assert left[part] == pytest.approx(right[part], rel=1e-6, abs=1e-6), part


@pytest.mark.parametrize(
    ("student", "settings"),
    [
        pytest.param("fastdvdnet-quarter", {}, id="std"),
        pytest.param(
            OTHER_WIDTH,
            {"normalise": "true", "td_crop": 8, "max_grad_norm": 0.1},
            id="normalised",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            OTHER_WIDTH,
            {"share.sd": 0.1, "share.td": 0.1, "share_every": 2},
            id="shares",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_learn_what_one_does(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command,
    torchrun: Torchrun, student: str, settings: dict[str, object],
) -> None:  # fmt: skip
    """Warm-up, in which the ConvLSTM has no gradient, and distillation after it."""
    more = ("--cache", tiny_cache, "--student", student, "--json")
    settings = SIX_STEPS | settings
    ran = torchrun(2, train(tmp_path / "two", tiny, *more, **settings))
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["steps"] == 6  # the first rank's alone
    stdpipe(*train(tmp_path / "one", tiny, *more, **settings))
    assert len(lines(tmp_path / "two")) == 6
    assert_close(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_a_memory_that_collapses_is_frozen_on_all_ranks(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command,
    torchrun: Torchrun, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The guard, made to bite at the first step, leaves gradients that DDP must do without."""
    more = ("--cache", tiny_cache, "--scheme", "td")
    settings = {"steps": 4, "warmup_steps": 0, "patch": 16}
    bite = "import stdpipe.distill.time\nstdpipe.distill.time.COLLAPSE = 1e9\n"
    ran = torchrun(2, train(tmp_path / "two", tiny, *more, **settings), bite)
    assert ran.returncode == 0, ran.stderr
    monkeypatch.setattr("stdpipe.distill.time.COLLAPSE", 1e9)
    stdpipe(*train(tmp_path / "one", tiny, *more, **settings))
    assert_close(tmp_path / "two", tmp_path / "one")
    assert len({line["memory_norm"] for line in lines(tmp_path / "two")}) == 1


@pytest.mark.slow
def test_a_killed_rank_and_other_numbers_of_processes(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command,
    torchrun: Torchrun,
) -> None:  # fmt: skip
    """kill -9 of one of two: the same command goes on to the very weights of an unbroken run, and
    one process alone goes on to nearly those."""
    more = ("--cache", tiny_cache)
    settings = {"steps": 4, "warmup_steps": 1, "patch": 16}

    def command(run: str) -> list[Any]:
        return train(tmp_path / run, tiny, *more, **settings)

    assert torchrun(2, command("whole")).returncode == 0
    for run in ("parts", "alone"):
        died = torchrun(2, command(run), KILL_RANK_1_AT_A_CHECKPOINT)
        assert died.returncode != 0
        assert "SIGKILL" in died.stderr or "-9" in died.stderr
        assert not same(tmp_path / run, tmp_path / "whole")
    assert torchrun(2, command("parts")).returncode == 0
    assert same(tmp_path / "parts", tmp_path / "whole")
    stdpipe(*command("alone"))
    assert_close(tmp_path / "alone", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["os.getppid()", "os.getpid()"])
def test_sigterm_ends_all_ranks_after_the_same_step(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, torchrun: Torchrun, target: str
) -> None:
    """Its checkpoint is written, and the same command goes on to the weights of an unbroken run."""
    settings = {"steps": 12, "warmup_steps": 1, "patch": 16, "save_every": 99}

    def command(run: str) -> list[Any]:
        return train(tmp_path / run, tiny, "--cache", tiny_cache, **settings)

    stopped = torchrun(2, command("parts"), STOP_AT_STEP_2.format(target=target))
    assert stopped.returncode != 0
    saved = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)
    assert 2 <= saved["step"] < 12
    for run in ("parts", "whole"):
        assert torchrun(2, command(run)).returncode == 0
    assert same(tmp_path / "parts", tmp_path / "whole")
    assert len(lines(tmp_path / "parts")) == 12


@pytest.mark.slow
def test_ranks_wait_for_an_evaluation_longer_than_for_a_step(
    tmp_path: Path, apart: Path, train: Command, torchrun: Torchrun
) -> None:
    """The first rank evaluates at step 1; the other waits, and step 2 is taken by both."""
    settings = {"steps": 2, "warmup_steps": 0, "patch": 16, "evaluate_every": 1, "save_every": 9}
    out = tmp_path / "run"
    ran = torchrun(2, train(out, apart, "--scheme", "none", **settings), SLOW_EVALUATION)
    assert ran.returncode == 0, ran.stderr
    assert [line["step"] for line in lines(out)] == [1, 2]
    assert (out / "evaluations" / "1" / "result.json").exists()


def test_slices_of_a_batch_learn_what_the_whole_does(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command
) -> None:
    more = ("--cache", tiny_cache)
    stdpipe(*train(tmp_path / "whole", tiny, *more, **SIX_STEPS))
    stdpipe(*train(tmp_path / "parts", tiny, *more, **SIX_STEPS, accumulate=2))
    whole, parts = lines(tmp_path / "whole"), lines(tmp_path / "parts")
    for left, right in zip(whole, parts, strict=True):
        assert left.keys() == right.keys()
        for part in left.keys() & {"loss", "rec", "sd", "td"}:
            assert left[part] == pytest.approx(right[part], rel=1e-6, abs=1e-6), part


@pytest.mark.slow
def test_what_cannot_be_shared_out_is_refused(
    tmp_path: Path, tiny: Path, train: Command, refused: Command, torchrun: Torchrun
) -> None:
    refusal = torchrun(2, train(tmp_path / "three", tiny, "--scheme", "none", batch=3))
    assert refusal.returncode == 1
    assert "batch (3)" in refusal.stderr
    assert "Traceback" not in refusal.stderr.partition("stdpipe: ")[0]
    assert not (tmp_path / "three").exists()


def test_batch_norm_cannot_be_shared_out(
    tmp_path: Path, tiny: Path, train: Command, refused: Command
) -> None:
    normed = ("--scheme", "none", "--student", "fastdvdnet-quarter:norm=batch")
    told = refused(*train(tmp_path / "normed", tiny, *normed, accumulate=2))
    assert "normalises over all clips of a step" in told


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_all_ranks(
    tmp_path: Path, tiny: Path, train: Command, torchrun: Torchrun
) -> None:
    stopped = torchrun(2, train(tmp_path, tiny, "--scheme", "none", lr=1e30))
    assert stopped.returncode == 1
    assert "loss, rec is not finite at step 1" in stopped.stderr
    for rank in (0, 1):
        saved = torch.load(tmp_path / f"nan-step-1-rank-{rank}.pt", weights_only=True)
        assert saved["hr"].shape == (1, 7, 3, 16, 16)


@pytest.mark.slow
def test_a_teacher_is_trained_by_two_as_by_one(
    tmp_path: Path, tiny: Path, stdpipe: Command, torchrun: Torchrun
) -> None:
    """In tsa_steps, where most of the network has no gradient, and after them."""
    net = "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1,"
    settings = ["tsa_steps=1", "steps=3", "batch=2", "patch=32", "workers=0", "log_every=1"]
    assigned = [word for setting in settings for word in ("--set", setting)]
    net += "num_reconstruct_block=1"
    save_network(tmp_path / "init.pt", zoo.parse(net).build(), net, "bd")
    command = ["train-teacher", "--data", tiny, "--teacher", net, "--init", tmp_path / "init.pt"]
    ran = torchrun(2, [*command, *assigned, "--out", tmp_path / "two"])
    assert ran.returncode == 0, ran.stderr
    stdpipe(*command, *assigned, "--out", tmp_path / "one")
    assert_close(tmp_path / "two", tmp_path / "one")
