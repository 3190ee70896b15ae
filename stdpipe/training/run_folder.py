"""A RUN folder: config, metrics, checkpoint and weights. The same command resumes the run.

config.yaml      every option, and the data, cache and network of the run
metrics.jsonl    one line every log_every steps
evaluations/     one folder every evaluate_every steps, named by the step
checkpoint.pt    weights of all trained modules, optimiser, scaler and step, for resuming
weights.pt       the finished network (stdpipe.models.checkpoints)
"""

import hashlib
import json
import logging
import math
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NotRequired

import torch
import yaml
from pydantic import ConfigDict, with_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12 on only

from stdpipe import cache, distributed, faults
from stdpipe.cache import schema
from stdpipe.cache.errors import UserError
from stdpipe.cache.files import locked, without_secrets, write_atomically
from stdpipe.cache.seal import read_text_sealed, seal_text
from stdpipe.models.checkpoints import save_torch
from stdpipe.models.layers import has_batch_norm
from stdpipe.models.reading import damaged_part, read_file
from stdpipe.models.stated import MOST_BYTES, refuse_large
from stdpipe.training.config import Positive, Seed, Training, to_mapping

LOG = logging.getLogger(__name__)


class CachePart(TypedDict):
    """The part of a cache that a run uses; the cache may grow beyond it."""

    entries: Positive
    targets: list[str]
    encoding: str | None  # None where the part is of images alone


@with_config(ConfigDict(extra="allow"))
class RunConfig(TypedDict):
    """The keys of a run's config.yaml that its readers count on; it holds many more."""

    network: str
    steps: Positive
    batch: Positive
    data: NotRequired[str]
    degradation: NotRequired[str]
    scheme: NotRequired[str]
    seed: NotRequired[Seed]
    cache: NotRequired[str | None]
    other_caches: NotRequired[list[str]]
    cache_parts: NotRequired[list[CachePart]]
    cache_sources: NotRequired[list[str]]
    cache_weight: NotRequired[list[float]]
    init: NotRequired[str | None]
    exclude: NotRequired[list[str]]
    run_id: NotRequired[str]


# may differ when a run is resumed, as may the number of processes
FREE = {"data", "cache", "other_caches", "init", "live_teacher_file", "workers", "accumulate",
        "log_every", "save_every", "evaluate_every", "run_id"}  # fmt: skip
LATER = ("cache_parts", "cache_sources")  # not said by runs of older versions


@contextmanager
def open_run(out: Path, facts: Mapping[str, Any], options: Training) -> Iterator[None]:
    """Create the folder, or check that it holds a run with the same config, and lock it meanwhile.

    The first rank does it for all. Paths and speed (FREE) may differ: `clips`, `cache_id` and
    `init_sha256` say what the paths held.
    """
    busy = f"another process is training in {out}: wait for it, or choose another --out"
    with ExitStack() as held:

        def claim() -> None:
            if out.is_file():
                raise UserError(f"{out} is a file: --out names the folder of a run")
            held.enter_context(locked(out / ".lock", busy))
            _write_config(out, facts, options)

        distributed.from_first(claim)
        yield


def read_config(file: Path) -> dict[str, Any]:
    """Read a run's config.yaml: facts and options by name, those of RunConfig checked.

    Raises UserError for another kind of file, DamagedError for a damaged one, OSError where it
    cannot be read.
    """
    told = f"{file} is no config of a training run"
    content = schema.parse_yaml(read_text_sealed(file), str(file))
    config = schema.check(RunConfig, content, told)
    if url := config.get("cache"):  # older versions wrote addresses as they were given
        config["cache"] = without_secrets(url)
    if others := config.get("other_caches"):
        config["other_caches"] = [*map(without_secrets, others)]
    return dict(config)


def parts_of_caches(outs: Iterable[Path]) -> list[cache.Part]:
    """Return the parts of its caches that the first of these runs to resume began with; the caches
    may have grown meanwhile. Empty where no run says it."""
    for file in (out / "config.yaml" for out in outs):
        if parts := read_config(file).get("cache_parts") if file.exists() else None:
            return [cache.Part(part["entries"], tuple(part["targets"])) for part in parts]
    return []


def digest(keys: Iterable[str]) -> str:
    """Return 16 hex digits that stand for a set of clips, wherever the data lie."""
    return _sha256("\n".join(sorted(set(keys))))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write_config(out: Path, facts: Mapping[str, Any], options: Training) -> None:
    config = {**facts, **to_mapping(options)}
    fixed = {name: value for name, value in config.items() if name not in FREE}
    config["run_id"] = _sha256(json.dumps(fixed, sort_keys=True, default=str))
    file = out / "config.yaml"
    # a folder without steps, of a training that was refused or stopped at once, holds no run yet
    if file.exists() and any((out / name).exists() for name in ("checkpoint.pt", "weights.pt")):
        # a run from before a key was added has its default
        unsaid = {key: config[key] for key in LATER if key in config}
        old = to_mapping(type(options)()) | unsaid | read_config(file)
        differences = [
            f"{key} {old.get(key)!r} there, {config.get(key)!r} now"
            for key in dict.fromkeys([*config, *old])
            if key not in FREE and old.get(key) != config.get(key)
        ]
        if differences:
            raise UserError(
                f"{out} holds a run with another config ({'; '.join(differences)}); "
                "choose another --out, or the old options to resume"
            )
        config["run_id"] = old.get("run_id", config["run_id"])  # of the version that began it
    text = yaml.safe_dump(config, sort_keys=False)
    if len(text) > schema.MOST_YAML:
        raise UserError(
            f"the config of {out} would have {len(text):,} bytes, more than is read again: exclude "
            "fewer clips by name, and leave the others out of the data set's list"
        )
    write_atomically(file, seal_text(text))


def batches(start: int, stop: int, batch: int, accumulate: int = 1) -> Iterator[list[int]]:
    """Yield this rank's stream positions, slice by slice; step s has s*batch to (s+1)*batch."""
    slices = distributed.slices(batch, accumulate)
    for step in range(start, stop):
        for part in slices:
            yield [step * batch + i for i in part]


def loader(
    stream: Dataset[Any], start: int, stop: int, options: Training, device: torch.device
) -> DataLoader[Any]:
    """Return the stream's batches for steps start..stop, `accumulate` to a step."""
    return DataLoader(
        stream,
        batch_sampler=batches(start, stop, options.batch, options.accumulate),
        num_workers=options.workers,
        # fork is a hazard once zarr's threads or CUDA have started in this process
        multiprocessing_context="forkserver" if options.workers else None,
        worker_init_fn=_begin_worker,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # leaves the networks' random state as it is
    )


def _begin_worker(_worker: int) -> None:
    """Leave Ctrl-C and SIGTERM, which reach the whole group, to the training: it needs this
    worker's batch to finish its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """End a worker when the training process is killed: torch watches its parent alone, which is
    the fork server, and that lives as long as its workers."""
    training = multiprocessing.parent_process()
    assert training is not None

    def wait_and_end() -> None:
        training.join()
        os._exit(1)

    threading.Thread(target=wait_and_end, daemon=True).start()


def check_trainable(net: nn.Module, name: str, options: Training) -> None:
    """Raise UserError for a network that has nothing to train, or whose steps cannot be shared."""
    if not any(p.requires_grad for p in net.parameters()):
        raise UserError(f"{name} has nothing to train")
    distributed.slices(options.batch, options.accumulate)
    if has_batch_norm(net) and distributed.size() * options.accumulate > 1:
        raise UserError(
            f"{name} normalises over all clips of a step, but {distributed.size()} processes with "
            f"accumulate {options.accumulate} would each see some; train it in one process with "
            "accumulate=1"
        )


def learning_rate(step: int, options: Training) -> float:
    """Return the learning rate of one step."""
    if options.schedule == "cosine":
        return options.lr * 0.5 * (1 + math.cos(math.pi * step / options.steps))
    return options.lr * 0.5 ** (step // options.lr_halve_every)


class Stepper:
    """Takes a step of Adam: `backward` for each slice of the batch, then `step`."""

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
    """Write checkpoint.pt: `step` finished steps and each part's state_dict (or plain value), among
    them `run_id`."""
    states = {k: v.state_dict() if hasattr(v, "state_dict") else v for k, v in parts.items()}
    rng = torch.get_rng_state()  # for networks with dropout
    save_torch(out / "checkpoint.pt", {"step": step, "rng": rng, **states})


def resume(out: Path, **parts: Any) -> dict[str, Any]:
    """Load the run's last checkpoint into the parts, and return it; {"step": 0} without one.

    The first rank reads it, and sends it to the others. Raises UserError for a damaged one, and for
    one of another run.
    """
    path = out / "checkpoint.pt"
    saved = distributed.from_first(lambda: _read(path))
    if saved is None:
        return {"step": 0}
    with _telling_damage(path):
        torch.set_rng_state(saved["rng"])
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        return {**saved, "step": int(saved["step"])}


def run_id(out: Path) -> str | None:
    """Return the id that config.yaml gives the run; None where there is no config."""
    file = out / "config.yaml"
    return read_config(file).get("run_id") if file.exists() else None


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    refuse_large(schema.read_bytes(path, MOST_BYTES), path)
    with _telling_damage(path):
        if part := damaged_part(path):
            raise ValueError(f"the checksum of {part!r} does not fit")
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        there = content.get("run_id")
    own = run_id(path.parent)
    if there not in (None, own):  # older versions do not say it
        raise UserError(
            f"{path} is of another run (run_id {there} there, {own} in config.yaml): restore it, "
            "or remove it to begin this run anew"
        )
    return content


@contextmanager
def _telling_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (ArithmeticError, AttributeError, EOFError, LookupError, RuntimeError, TypeError,
            ValueError, pickle.UnpicklingError) as error:  # fmt: skip
        if isinstance(error, torch.AcceleratorError) or faults.says(error, faults.OUT_OF_MEMORY):
            raise  # the file is not to blame
        told = f"{path} is damaged; restore it, or remove it to begin this run anew"
        raise UserError(told) from error


def settle(file: Path, steps: int, save: Callable[[Path], object] | None) -> None:
    """Tell that a run has all its steps; write its weights again where they are damaged or gone.

    save: writes them; None where they are not those of the last step. Raises UserError then.
    """
    LOG.info(f"stdpipe: {file.parent} has all of its {steps} steps already")
    with suppress(UserError, FileNotFoundError):
        read_file(file)
        return
    if save is None:
        raise UserError(f"{file} is damaged or gone: restore it, or begin the run anew")
    LOG.warning("stdpipe: %s was damaged or gone: written again, from the checkpoint", file)
    save(file)


class NotFiniteError(UserError):
    """A loss is infinite or no number."""


def stop_on_nan(
    out: Path, step: int, values: Mapping[str, float], inputs: Sequence[Mapping[str, Tensor]]
) -> None:
    """Raise NotFiniteError where a loss part is not finite, and save the step's inputs.

    inputs: this rank's slices of the batch. All ranks have the same values, so all stop here, each
    with its clips in a file of its own.
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
