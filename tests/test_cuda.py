"""On a CUDA device everything does what it does on a CPU. Skipped where there is none."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stdpipe import cache
from stdpipe.device import pick_device
from stdpipe.distill.time import memory_cells, td_loss
from stdpipe.features.encoding import quantise
from stdpipe.models import zoo
from stdpipe.models.checkpoints import save_network
from stdpipe.models.convlstm import ConvLSTM

Command = Callable[..., Any]

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no CUDA device here"
)

EDVR = "num_feat=8,deformable_groups=2,num_frame=5,num_extract_block=1,num_reconstruct_block=1"
LEARN = {"steps": 4, "warmup_steps": 2, "patch": 32, "batch": 2}


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("recompute", [False, True])
def test_the_memory_agrees(recompute: bool) -> None:
    """L_TD and its gradients through the ConvLSTM's own backward pass."""
    torch.manual_seed(0)
    memory, teacher = ConvLSTM(64), noise(1, 5, 64, 8, 8)
    memory.recompute = recompute
    found = []
    for place in ("cpu", "cuda"):
        memory.to(pick_device(place))
        student = (teacher * 0.5).to(place).requires_grad_()
        loss = td_loss(*memory_cells(memory, teacher.to(place), student))
        gradients = torch.autograd.grad(loss, [student, *memory.parameters()])
        found.append([loss.detach().cpu(), *(g.cpu() for g in gradients)])
    for mine, true in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-3, atol=1e-4 * true.abs().max().item())


def test_codes_are_the_cpus_to_the_bit() -> None:
    """Encoding runs on the device, and a cache's bytes do not tell on which."""
    maps = torch.randn(3, 64, 8, 12, generator=torch.Generator().manual_seed(1))
    for mine, true in zip(quantise(maps.cuda()), quantise(maps), strict=True):
        assert torch.equal(mine.cpu(), true)


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.fixture(scope="module")
def caches(
    tiny: Path, extract: Command, stdpipe: Command, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The same teacher's features of whole frames, float32, made on either device."""
    folder = tmp_path_factory.mktemp("caches")
    paths = {device: folder / device for device in ("cpu", "cuda")}
    for device, path in paths.items():
        stdpipe(*extract(tiny, path, "--device", device))
    return paths


def test_extraction_agrees(caches: dict[str, Path]) -> None:
    """f_sr and attention of every clip, as a CPU makes them."""
    readers = {device: cache.open_reader(str(path)) for device, path in caches.items()}
    for key in readers["cpu"].entries:
        for name in ("f_sr", "attention"):
            mine, true = (torch.from_numpy(readers[d].read(key, name)) for d in ("cuda", "cpu"))
            scale = true.float().abs().max().item()
            torch.testing.assert_close(mine, true, rtol=1e-3, atol=1e-3 * scale)


def test_extraction_in_mixed_precision(
    tmp_path: Path, tiny: Path, extract: Command, stdpipe: Command
) -> None:
    """The trunk of a teacher in bf16, three clips at once, resumed and checked."""
    more = ("--device", "cuda", "--amp", "bf16", "--batch", 3, "--encoding", "trunk-int8")
    for _ in range(2):  # the last --encoding counts
        stdpipe(*extract(tiny, tmp_path / "c", *more))
    stdpipe("cache", "verify", tmp_path / "c")


@pytest.mark.parametrize("scheme", ["none", "std"])
def test_training_agrees(
    tmp_path: Path, tiny: Path, caches: dict[str, Path], train: Command, stdpipe: Command,
    scheme: str,
) -> None:  # fmt: skip
    """The first steps' losses, from the same cache."""
    for device in ("cpu", "cuda"):
        more = ("--cache", caches["cpu"], "--scheme", scheme, "--device", device)
        stdpipe(*train(tmp_path / device, tiny, *more, **LEARN))
    assert losses(tmp_path / "cuda") == pytest.approx(losses(tmp_path / "cpu"), rel=1e-3)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, in compiling
@pytest.mark.parametrize(
    "settings",
    [
        {"amp": "bf16"},
        {"amp": "fp16"},
        {"amp": "bf16", "recompute": "true"},
        {"amp": "bf16", "workers": 2},
        {"amp": "bf16", "compile": "true"},
    ],
    ids=lambda settings: ",".join(f"{k}={v}" for k, v in settings.items()),
)
def test_ways_to_train(
    tmp_path: Path, tiny: Path, caches: dict[str, Path], train: Command, stdpipe: Command,
    settings: dict[str, object],
) -> None:  # fmt: skip
    """Each begins as the plain one does, and the same command again finds it done."""
    more = ("--cache", caches["cuda"], "--device", "cuda")
    stdpipe(*train(tmp_path / "plain", tiny, *more, **LEARN))
    stdpipe(*train(tmp_path / "fast", tiny, *more, **LEARN, **settings))
    stdpipe(*train(tmp_path / "fast", tiny, *more, **LEARN, **settings))
    fast = losses(tmp_path / "fast")
    assert len(fast) == LEARN["steps"]
    assert fast[0] == pytest.approx(losses(tmp_path / "plain")[0], rel=0.02)
    assert all(map(math.isfinite, fast))


def test_the_live_teacher_agrees_with_baked_views(
    tmp_path: Path, tiny: Path, extract: Command, train: Command, stdpipe: Command
) -> None:
    """Loss for loss, as on the CPU."""
    weights = tmp_path / "teacher.pt"
    teacher = zoo.parse(f"edvr:{EDVR}").build()
    save_network(weights, teacher, f"edvr:{EDVR}", "bd")
    made = ["extract-teacher", "--data", tiny, "--cache", tmp_path / "c", "--weights", weights]
    stdpipe(*made, "--encoding", "float32", "--views", "baked", "--patch", 32, "--device", "cuda")
    more = ("--cache", tmp_path / "c", "--device", "cuda")
    stdpipe(*train(tmp_path / "cached", tiny, *more, **LEARN))
    stdpipe(*train(tmp_path / "live", tiny, *more, "--live-teacher", weights, **LEARN))
    assert losses(tmp_path / "live") == pytest.approx(losses(tmp_path / "cached"), rel=1e-4)


def test_evaluation_agrees(tiny: Path, stdpipe: Command) -> None:
    """Figures to a thousandth of a decibel."""
    found = []
    for device in ("cpu", "cuda"):
        more = ("--model", "fastdvdnet-quarter", "--weights", "random:0", "--json")
        result = stdpipe("evaluate", "--data", tiny, *more, "--device", device)
        found.append(json.loads(result.stdout)["average"])
    assert found[1] == pytest.approx(found[0], abs=1e-3)


def test_nccl(tmp_path: Path, tiny: Path, caches: dict[str, Path], train: Command) -> None:
    """torchrun's one process on its GPU, through DistributedDataParallel and nccl's start."""
    more = ("--cache", caches["cuda"], "--device", "cuda")
    arguments: Sequence[object] = train(tmp_path / "run", tiny, *more, **LEARN)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc-per-node", 1, "-m", "stdpipe.cli.main", *arguments]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(losses(tmp_path / "run")) == LEARN["steps"]
