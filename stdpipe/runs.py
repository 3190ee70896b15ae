"""A RUN folder: resolved config, metrics.jsonl, checkpoint, final weights. Same command, same run.

config.yaml      every option, and what it was run on
metrics.jsonl    one line every log_every steps
checkpoint.pt    weights of all that is trained, optimiser, scaler and step, for resuming
weights.pt       the finished network (stdpipe.models.checkpoints)
"""

import dataclasses
import fcntl
import hashlib
import json
import math
import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from stdpipe.config import Training
from stdpipe.models.checkpoints import save_atomically


@contextmanager
def open_run(out: Path, facts: Mapping[str, Any], options: Training) -> Iterator[None]:
    """Create the folder, or check that it holds a run with the very same config; nobody else
    trains in it meanwhile.

    Where things lie and how fast it runs (data, cache, init, workers, log_every, save_every) may
    differ: what was in them is in `clips`, `cache_id` and `init_sha256`.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process is training in {out}: wait for it, or choose another --out"
            ) from None
        _write_config(out, facts, options)
        yield


def digest(keys: Iterable[str]) -> str:
    """Of a list of clips, in short: what a run was trained on, wherever it lies."""
    return hashlib.sha256("\n".join(sorted(set(keys))).encode()).hexdigest()[:16]


def _write_config(out: Path, facts: Mapping[str, Any], options: Training) -> None:
    config = {**facts, **dataclasses.asdict(options)}
    file = out / "config.yaml"
    if file.exists():
        _refuse_other_config(out, yaml.safe_load(file.read_text()), config)
    aside = out / "config.yaml.partial"  # a torn config would make the run impossible to resume
    aside.write_text(yaml.safe_dump(config, sort_keys=False))
    aside.replace(file)


def _refuse_other_config(out: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    free = {"data", "cache", "init", "workers", "log_every", "save_every"}
    differences = [
        f"{key} {old.get(key)!r} there, {new.get(key)!r} now"
        for key in dict.fromkeys([*old, *new])
        if key not in free and old.get(key) != new.get(key)
    ]
    if differences:
        raise ValueError(
            f"{out} holds a run with another config ({'; '.join(differences)}); "
            "choose another --out, or the old options to resume"
        )


class Batches(Sampler[list[int]]):
    """Stream positions of steps start..stop: step s takes positions s*batch to (s+1)*batch."""

    def __init__(self, start: int, stop: int, batch: int) -> None:
        self.steps = range(start, stop)
        self.batch = batch

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            yield list(range(step * self.batch, (step + 1) * self.batch))


def loader(stream: Dataset[Any], start: int, stop: int, options: Training) -> DataLoader[Any]:
    """Batches of the stream for steps start..stop, prefetched by `workers` processes."""
    return DataLoader(
        stream,
        batch_sampler=Batches(start, stop, options.batch),
        num_workers=options.workers,
        # fork is a hazard once zarr's threads or CUDA have started in this process
        multiprocessing_context="forkserver" if options.workers else None,
        worker_init_fn=end_with_parent,
        pin_memory=torch.cuda.is_available(),
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


def learning_rate(step: int, options: Training) -> float:
    """Of one step, by `schedule`."""
    if options.schedule == "cosine":
        return options.lr * 0.5 * (1 + math.cos(math.pi * step / options.steps))
    return options.lr * 0.5 ** (step // options.lr_halve_every)


def pick_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one, else CPU; ValueError where the named one is missing."""
    # float32 means float32 in every stage: TF32 would round a convolution's inputs to 10 bits
    torch.backends.cudnn.allow_tf32 = False
    if name == "auto":
        rank = os.environ.get("LOCAL_RANK", "0")  # torchrun's, one GPU each
        return torch.device(f"cuda:{rank}" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {name!r} is not to be had: {str(error).splitlines()[0]}"
        ) from None
    return device


def torchrun_rank() -> tuple[int, int]:
    """This process's rank, and of how many; (0, 1) without torchrun."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def autocast(device: torch.device, amp: str):  # type: ignore[no-untyped-def]
    """Mixed precision as a context; "none" leaves float32."""
    if amp == "none":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if amp == "bf16" else torch.float16)


class Stepper:
    """Backward, scaling, clipping and the optimiser's step, with their state for a checkpoint."""

    def __init__(self, parameters: list[nn.Parameter], options: Training, device: torch.device):
        self.parameters = parameters
        self.options = options
        self.lr = options.lr
        self.optimiser = torch.optim.Adam(parameters, lr=options.lr, betas=(0.9, 0.999))
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "fp16")

    def step(self, loss: Tensor, step: int) -> None:
        """One update at this step's learning rate."""
        self.lr = learning_rate(step, self.options)
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.options.max_grad_norm:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.parameters, self.options.max_grad_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {"optimiser": self.optimiser.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])


class Metrics:
    """metrics.jsonl, and TensorBoard events beside it where tensorboard is installed.

    A line holds the means since the last one, steps per second and the share of time spent
    waiting for data.
    """

    def __init__(self, out: Path, resume_step: int) -> None:
        self.path = out / "metrics.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in lines if _step_of(line) <= resume_step]
        aside = out / "metrics.jsonl.partial"
        aside.write_text("".join(line + "\n" for line in kept))  # later steps are run again
        aside.replace(self.path)
        self.board = _tensorboard(out)
        self.last: dict[str, float] = {}
        self._begin()

    def _begin(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._waited, self._since = 0.0, time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for data."""
        asked = time.perf_counter()
        yield
        self._waited += time.perf_counter() - asked

    def add(self, values: Mapping[str, float]) -> None:
        """One step's loss parts."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def log(self, step: int, **others: float) -> dict[str, str]:
        """Write one line; `step` counts finished steps. Returns what a progress bar shows."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        elapsed = time.perf_counter() - self._since
        speed = max(self._counts.values()) / elapsed
        self.last = means
        line = {**means, **others, "steps_per_s": speed, "wait": self._waited / elapsed}
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **line}) + "\n")
        if self.board:
            for name, value in line.items():
                self.board.add_scalar(name, value, step)
        self._begin()
        shown = {name: f"{value:.4g}" for name, value in means.items() if name != "loss"}
        return {**shown, "wait": f"{line['wait']:.0%}"}


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # a line torn by a crash


def _tensorboard(out: Path):  # type: ignore[no-untyped-def]
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out))


def save_checkpoint(out: Path, step: int, **parts: Any) -> None:
    """checkpoint.pt: `step` finished steps and each part's state_dict (or plain value)."""
    states = {k: v.state_dict() if hasattr(v, "state_dict") else v for k, v in parts.items()}
    rng = torch.get_rng_state()  # for networks with dropout
    save_atomically(out / "checkpoint.pt", {"step": step, "rng": rng, **states})


def load_checkpoint(out: Path) -> dict[str, Any] | None:
    """The run's last checkpoint, or None where it has none yet; ValueError for a damaged one."""
    path = out / "checkpoint.pt"
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        raise ValueError(
            f"{path} is damaged; restore it, or remove it to begin this run anew"
        ) from None
    torch.set_rng_state(content["rng"])
    return content


def to_floats(parts: Mapping[str, Tensor]) -> dict[str, float]:
    """Loss parts on the host, with one synchronisation for all of them."""
    values = torch.stack([part.detach().float() for part in parts.values()]).tolist()
    return dict(zip(parts, values, strict=True))


def stop_on_nan(
    out: Path, step: int, values: Mapping[str, float], batch: Mapping[str, Tensor]
) -> None:
    """Stop early and clearly: save the step's inputs, name the part that is not finite."""
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        file = out / f"nan-step-{step}.pt"
        save_atomically(file, {k: v.cpu() for k, v in batch.items()})
        raise ValueError(
            f"{', '.join(bad)} is not finite at step {step}; its inputs are in {file}; "
            "lower lr, set max_grad_norm, or leave fp16 for bf16"
        )


def progress(name: str, start: int, steps: int) -> "tqdm[Any]":
    """A progress bar, quiet where stderr is no terminal."""
    return tqdm(total=steps, initial=start, unit="step", desc=name, disable=None)
