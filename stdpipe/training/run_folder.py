"""A RUN folder: resolved config, metrics.jsonl, checkpoint, final weights. Same command, same run.

config.yaml      every option, and what it was run on
metrics.jsonl    one line every log_every steps
evaluations/     one folder every evaluate_every steps, named by the step
checkpoint.pt    weights of all that is trained, optimiser, scaler and step, for resuming
weights.pt       the finished network (stdpipe.models.checkpoints)
"""

import dataclasses
import hashlib
import math
import multiprocessing
import os
import pickle
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from stdpipe import distributed
from stdpipe.cache import schema
from stdpipe.cache.errors import UserError
from stdpipe.cache.files import locked, write_atomically
from stdpipe.models.checkpoints import save_torch
from stdpipe.training.config import Positive, Seed, Training


@dataclass
class RunConfig:
    """Says what readers of a run's config.yaml count on; it holds much more."""

    network: str
    steps: Positive
    batch: Positive
    data: str = ""
    degradation: str = ""
    scheme: str = ""
    seed: Seed = 0
    cache: str | None = None
    init: str | None = None


# may differ when a run is resumed, as may the number of processes
FREE = {
    *("data", "cache", "init", "workers", "accumulate"),
    *("log_every", "save_every", "evaluate_every"),
}


@contextmanager
def open_run(out: Path, facts: Mapping[str, Any], options: Training) -> Iterator[None]:
    """Create the folder, or check that it holds a run with the very same config; nobody else
    trains in it meanwhile. Of several ranks, the first one does it for all.

    Where things lie and how fast it runs (FREE) may differ: what was in them is in `clips`,
    `cache_id` and `init_sha256`.
    """
    busy = f"another process is training in {out}: wait for it, or choose another --out"
    with ExitStack() as held:

        def claim() -> None:
            held.enter_context(locked(out / ".lock", busy))
            _write_config(out, facts, options)

        distributed.from_first(claim)
        yield


def read_config(file: Path) -> dict[str, Any]:
    """Read a run's config.yaml: the facts and options by name, those of RunConfig checked.

    Raises UserError for the file of something else, OSError where it cannot be read.
    """
    content = schema.read_yaml(file)
    schema.check(RunConfig, content, f"{file} is no config of a training run", strict=None)
    config: dict[str, Any] = content
    return config


def digest(keys: Iterable[str]) -> str:
    """Return 16 digits that stand for a set of clips, wherever the data lie."""
    return hashlib.sha256("\n".join(sorted(set(keys))).encode()).hexdigest()[:16]


def _write_config(out: Path, facts: Mapping[str, Any], options: Training) -> None:
    config = {**facts, **dataclasses.asdict(options)}
    file = out / "config.yaml"
    if file.exists():  # keys that are newer than the run have their defaults there
        defaults = dataclasses.asdict(type(options)())
        _refuse_other_config(out, defaults | read_config(file), config)
    write_atomically(file, yaml.safe_dump(config, sort_keys=False))


def _refuse_other_config(out: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    differences = [
        f"{key} {old.get(key)!r} there, {new.get(key)!r} now"
        for key in dict.fromkeys([*new, *old])
        if key not in FREE and old.get(key) != new.get(key)
    ]
    if differences:
        raise UserError(
            f"{out} holds a run with another config ({'; '.join(differences)}); "
            "choose another --out, or the old options to resume"
        )


class Batches(Sampler[list[int]]):
    """Yields stream positions of steps start..stop: step s takes s*batch to (s+1)*batch, and this
    rank its slices of them, one after the other."""

    def __init__(self, start: int, stop: int, batch: int, accumulate: int = 1) -> None:
        self.steps = range(start, stop)
        self.batch = batch
        self.slices = distributed.slices(batch, accumulate)

    def __len__(self) -> int:
        return len(self.steps) * len(self.slices)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            for part in self.slices:
                yield [step * self.batch + i for i in part]


def loader(
    stream: Dataset[Any], start: int, stop: int, options: Training, device: torch.device
) -> DataLoader[Any]:
    """Return the stream's batches for steps start..stop, `accumulate` a step, prefetched by
    `workers` processes."""
    return DataLoader(
        stream,
        batch_sampler=Batches(start, stop, options.batch, options.accumulate),
        num_workers=options.workers,
        # fork is a hazard once zarr's threads or CUDA have started in this process
        multiprocessing_context="forkserver" if options.workers else None,
        worker_init_fn=end_with_parent,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else each start would draw from the networks' random state
    )


def end_with_parent(_worker: int = 0) -> None:
    """Let a worker end when the training process is killed.

    torch watches a worker's parent, which here is the fork server; that one lives as long as its
    workers do, so without this both would stay for ever.
    """
    threading.Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    training = multiprocessing.parent_process()
    assert training is not None
    training.join()
    os._exit(1)


def check_slices(net: nn.Module, name: str, options: Training) -> None:
    """Raise UserError where ranks and `accumulate` cannot share out a step of this network."""
    distributed.slices(options.batch, options.accumulate)
    normed = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in net.modules())
    if normed and distributed.size() * options.accumulate > 1:
        raise UserError(
            f"{name} normalises over the clips of a step, of which {distributed.size()} processes "
            f"and accumulate {options.accumulate} would show it a part each: another result; train "
            "it in one process with accumulate=1"
        )


def learning_rate(step: int, options: Training) -> float:
    """Return the learning rate of one step."""
    if options.schedule == "cosine":
        return options.lr * 0.5 * (1 + math.cos(math.pi * step / options.steps))
    return options.lr * 0.5 ** (step // options.lr_halve_every)


class Stepper:
    """Backward, scaling, clipping and the optimiser's step, with their state for a checkpoint.

    A step is `backward` for each slice of the batch, then `step`.
    """

    def __init__(self, parameters: list[nn.Parameter], options: Training, device: torch.device):
        self.parameters = parameters
        self.options = options
        self.lr = options.lr
        self.optimiser = torch.optim.Adam(parameters, lr=options.lr, betas=(0.9, 0.999))
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "fp16")

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one slice's loss, a mean over its clips, to the step's."""
        self.scaler.scale(loss / self.options.accumulate).backward()

    def step(self, step: int) -> None:
        """Update once at this step's learning rate, and clear the gradients."""
        self.lr = learning_rate(step, self.options)
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr
        if self.options.max_grad_norm:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.parameters, self.options.max_grad_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {"optimiser": self.optimiser.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])


def save_checkpoint(out: Path, step: int, **parts: Any) -> None:
    """Write checkpoint.pt: `step` finished steps and each part's state_dict (or plain value)."""
    states = {k: v.state_dict() if hasattr(v, "state_dict") else v for k, v in parts.items()}
    rng = torch.get_rng_state()  # for networks with dropout
    save_torch(out / "checkpoint.pt", {"step": step, "rng": rng, **states})


def load_checkpoint(out: Path) -> dict[str, Any] | None:
    """Return the run's last checkpoint, None where it has none yet; UserError for a damaged one.

    The first rank alone reads it, and sends it to the others.
    """
    content = distributed.from_first(lambda: _read_checkpoint(out / "checkpoint.pt"))
    if content is not None:
        with restoring(out):
            torch.set_rng_state(content["rng"])
    return content


@contextmanager
def restoring(out: Path) -> Iterator[None]:
    """Raise UserError where the body, which puts a checkpoint's parts in place, fails."""
    try:
        yield
    except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise _damaged(out / "checkpoint.pt") from error


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged; restore it, or remove it to begin this run anew")


def _read_checkpoint(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        raise _damaged(path) from None
    return content


class NotFiniteError(UserError):
    """A loss is infinite or no number."""


def stop_on_nan(
    out: Path, step: int, values: Mapping[str, float], inputs: Sequence[Mapping[str, Tensor]]
) -> None:
    """Stop early and clearly: save the step's inputs, name the part that is not finite.

    inputs: this rank's slices of the batch. values are the same on all ranks, so all stop here,
    each with its clips in a file of its own.
    """
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        of_rank = f"-rank-{distributed.rank()}" if distributed.size() > 1 else ""
        file = out / f"nan-step-{step}{of_rank}.pt"
        save_torch(file, {k: torch.cat([x[k] for x in inputs]).cpu() for k in inputs[0]})
        raise NotFiniteError(
            f"{', '.join(bad)} is not finite at step {step}; its inputs are in {file}; "
            "lower lr, set max_grad_norm, or leave fp16 for bf16"
        )
