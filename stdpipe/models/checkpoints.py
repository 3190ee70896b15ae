"""Weights on disk: our own files, and published ones, whose names foreign.py translates.

reading.py opens them: a checkpoint that would run code is refused.
stdpipe's own files hold the fields of Header and "params", a state dict.
"""

import hashlib
import logging
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from stdpipe.cache.errors import UserError
from stdpipe.cache.files import atomic_file
from stdpipe.cache.schema import check
from stdpipe.models import zoo
from stdpipe.models.base import Network
from stdpipe.models.foreign import State, published_phase, to_ours, whose
from stdpipe.models.reading import Unneeded, read_file
from stdpipe.resample import SCALE

Name = Annotated[str, Field(max_length=2000)]
# where training scripts put parameters, averaged ones first
CONTAINERS = (
    "params_ema",
    "params-ema",
    "params",
    "state_dict",
    "model_state_dict",
    "net_g",
    "model",
)
OURS = ("network", "degradation", "params")  # what all files have that stdpipe wrote

LOG = logging.getLogger(__name__)


class Header(BaseModel):
    """The facts that stdpipe's own weights files hold beside their parameters."""

    network: Name | None = None
    """The network's name with options; None in foreign files."""
    revision: int = 1
    """The class's revision when the network was trained."""
    degradation: Name | None = None
    """The degradation that it was trained for."""


def load_network(
    name: str | None, weights: str | None, phase: float | None = None
) -> tuple[Network, dict[str, Any]]:
    """Build a network and fill it; return it with facts: network, weights, sha256, degradation.

    name: a network's name, or None where the file says it. weights: a file, "random:SEED", or None
    for a network without parameters. phase: the degradation's, for random weights whose name does
    not give one. Raises UserError or OSError in one line.
    """
    header = Header()
    if weights is None or weights.startswith("random:"):
        spec, net = _without_file(name, weights, phase)
        sha256 = weights
    else:
        state, header = _read(Path(weights))
        spec = _agree(name, header.network, weights)
        if (published := published_phase(state)) is not None:
            spec = spec.with_phase(published)
        net = spec.build()
        load_state(net, _in_our_names(state, header, net, spec, weights), header, weights)
        sha256 = file_sha256(Path(weights))
    told = {"network": str(spec), "weights": weights, "sha256": sha256}
    net.facts = facts = {**told, "degradation": header.degradation}
    return net, facts


def trained_for(
    facts: Mapping[str, Any],
    asked: str | None,
    default: str = "bd",
    fits: Callable[[str, str], bool] = operator.eq,
) -> str:
    """Return the degradation to use with a network: the one asked for, that of its weights, or for
    weights that were made here the default.

    fits: tells whether one that is asked for may stand for that of the weights. Raises UserError
    where it may not, or where neither is known: published EDVR checkpoints do not say that they
    are for `bi`, and the wrong degradation costs about 7 dB.
    """
    known = facts["degradation"]
    if asked and known and asked != known and not fits(asked, known):
        both = f"degradation {known!r}, but --degradation {asked!r} was asked for"
        raise UserError(f"{facts['weights']} was trained for {both}; change one of them")
    made_here = facts["weights"] is None or str(facts["weights"]).startswith("random:")
    if not (asked or known or made_here):
        how = "give --degradation (bd:sigma=1.5 for published RLSP, bi for most others)"
        raise UserError(
            f"{facts['weights']} does not say which degradation it was trained for: {how}"
        )
    return asked or known or default


def _without_file(
    name: str | None, weights: str | None, phase: float | None
) -> tuple[zoo.Spec, Network]:
    """Build a network of weights "random:SEED", or None for one without parameters."""
    if name is None:
        raise UserError("name a network, or give --weights that stdpipe wrote (or embedded)")
    spec = zoo.parse(name)
    if weights is None:
        net = spec.build()
        if any(True for _ in net.parameters()):
            raise UserError(f"{name} needs weights: give a checkpoint file, or random:SEED")
        return spec, net
    seed = weights.removeprefix("random:")
    if not seed.isdigit():
        raise UserError(f"weights {weights!r} should read random:SEED with a whole number")
    spec = spec if phase is None else spec.with_phase(phase)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed))
        return spec, spec.build()


def _agree(name: str | None, in_file: str | None, weights: str) -> zoo.Spec:
    if in_file is None:
        if name is None:
            raise UserError(f"{weights} does not say which network it is for: name it (--model)")
        return zoo.parse(name)
    if name is None:
        return zoo.parse_trusted(in_file, weights)
    mine = zoo.parse(name)
    if f"{in_file}:".startswith(f"{mine.name}:"):  # else a module that is not to be imported
        theirs = zoo.parse(in_file)
        if theirs.name == mine.name and all(theirs.option(k) == v for k, v in mine.asked.items()):
            return theirs
    raise UserError(f"{weights} holds {in_file}, but {mine} was asked for; change one of them")


def read_checkpoint(
    path: Path, net: nn.Module | None = None, spec: zoo.Spec | None = None
) -> tuple[State, Header]:
    """Read a file's parameters and header; a foreign file's header is empty.

    Names of foreign parameters are translated to ours, unless they are the network's already.
    Raises FileNotFoundError, or UserError for a file that is damaged, is no file of weights, would
    run code, or holds published weights for other options than the spec's.
    """
    state, header = _read(path)
    return _in_our_names(state, header, net, spec, str(path)), header


def _read(path: Path) -> tuple[State, Header]:
    content = read_file(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    if "stepper" in content:
        raise UserError(f"{path} is a training checkpoint: take the weights.pt beside it")
    nested = [content[k] for k in CONTAINERS if isinstance(content.get(k), dict)]
    inner = next((x for x in (*nested, content) if _holds(x, Tensor)), None)
    if inner is None:
        numpy = any(_holds(x, Unneeded) for x in (*nested, content))
        how = ": if they are NumPy's, write them as an .npz file, with numpy.savez" * numpy
        raise UserError(f"{path} holds no weights as tensors{how}")
    state = {str(k): v for k, v in inner.items() if isinstance(v, Tensor)}
    for name, x in state.items():  # sparse and complex ones fit nowhere
        sparse = x.layout != torch.strided or x.is_quantized
        if sparse or x.device.type != "cpu" or x.is_complex():
            raise UserError(f"{path} holds {name!r} in a form that no network here has")
    if inner is not content.get("params") or not content.keys() >= set(OURS):
        return state, Header()
    told = {name: content[name] for name in Header.model_fields if name in content}
    return state, check(Header, told, str(path))


def _holds(values: Mapping[Any, Any], kind: type) -> bool:
    return any(isinstance(value, kind) for value in values.values())


def _in_our_names(
    state: State, header: Header, net: nn.Module | None, spec: zoo.Spec | None, path: str
) -> State:
    own = net.state_dict().keys() if net is not None else set()
    return state if header.model_fields_set else to_ours(state, path, spec, own)


def save_network(path: Path, net: nn.Module, network: str, degradation: str | None) -> None:
    """Write stdpipe's own format. `network` is the name with options."""
    state = {k: v.detach().cpu() for k, v in net.state_dict().items()}
    header = Header(network=network, revision=_revision(net), degradation=degradation)
    save_torch(path, {**header.model_dump(), "params": state})


def save_torch(path: Path, content: object) -> None:
    """Write a file with torch.save; a crash leaves the old file or the new one, whole."""
    with atomic_file(path) as aside, aside.open("wb") as file:
        torch.save(content, file)  # given a path, it would write the name into the file


def revised(net: nn.Module) -> dict[str, int]:
    """Return what a run or a cache records of a network's revision: {} for the first one."""
    return {"revision": _revision(net)} if _revision(net) > 1 else {}


def _revision(net: nn.Module) -> int:
    return int(getattr(net, "revision", 1))  # a user's own class need not have one


def warn_of_phase(
    name: str, net: nn.Module, facts: Mapping[str, Any], degradation: str, phase: float
) -> None:
    """Warn of weights of others, which say no degradation, in a network of another phase."""
    own, scale = getattr(net, "phase", phase), getattr(net, "factor", SCALE)
    of_a_file = facts["weights"] and not str(facts["weights"]).startswith("random:")
    if of_a_file and not facts["degradation"] and own != phase:
        LOG.warning(
            f"stdpipe: {name} expects LR pixel j at HR pixel {scale}j + {own:g}, and "
            f"{degradation} has it at {scale}j + {phase:g}: its images will lie "
            f"{abs(own - phase):g} HR pixels off"
        )


def load_state(net: nn.Module, state: State, header: Header, source: str) -> None:
    """Fill a network. Raises UserError, in one line, where the file is of another network or
    revision, or names the keys that differ."""
    known = zoo.ZOO.get(str(header.network).partition(":")[0])
    if known and not isinstance(net, known[0]):
        raise UserError(f"{source} holds {header.network}, and {type(net).__name__} was asked for")
    now = _revision(net)
    if header.network is not None and header.revision != now:
        raise UserError(
            f"{source} was trained for revision {header.revision} of {header.network}, which is "
            f"revision {now} here and would make other images of it: train it again"
        )
    own = net.state_dict()
    problems = [
        ("lacks", sorted(own.keys() - state.keys())),
        ("has unknown", sorted(state.keys() - own.keys())),
        ("has other shapes for", [k for k in own if k in state and own[k].shape != state[k].shape]),
    ]
    told = [f"{what} {len(keys)} ({', '.join(keys[:3])}{', ...' * (len(keys) > 3)})"
            for what, keys in problems if keys]  # fmt: skip
    if not told:
        net.load_state_dict(state)
        return
    parts = {key.split(".")[0] for _, keys in problems for key in keys}
    if len(parts) == 1 and parts < {key.split(".")[0] for key in own}:  # RBPN's new head, say
        part = parts.pop()
        told.append(f"only `{part}` differs: train-teacher --init {source} --set train_only={part}")
    elif (fits := whose(state)) is not None:
        told.append(f"its names and shapes are those of {fits}")
    raise UserError(f"{source} does not fit this network: it {'; '.join(told)}")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def init_facts(init: Path | None) -> dict[str, str | None]:
    """Return what a run records of the weights that it starts from."""
    sha256 = file_sha256(init) if init else None
    return {"init": str(init) if init else None, "init_sha256": sha256}
