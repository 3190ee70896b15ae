"""Builds a network from its name: one of a dict, or a user's own `package.module:Class`.

A name may carry options: `edvr:num_feat=32,num_frame=5`. A Spec's text is the canonical form of
such a name, which checkpoints and caches hold.
"""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, get_origin

import torch
import yaml
from pydantic import ConfigDict, Strict
from torch import Tensor
from torch.overrides import TorchFunctionMode
from typing_extensions import TypedDict

from stdpipe.assets import EMBEDDED
from stdpipe.cache.errors import UserError
from stdpipe.cache.schema import check, parse_yaml
from stdpipe.models.base import Kind, Network, count_parameters
from stdpipe.models.bicubic import Bicubic
from stdpipe.models.causal import CausalNetwork
from stdpipe.models.d3dnet import D3DNet
from stdpipe.models.duf import DUF
from stdpipe.models.edvr import EDVR
from stdpipe.models.fastdvdnet import FastDVDnet
from stdpipe.models.options import Count
from stdpipe.models.pisr import PISR
from stdpipe.models.rbpn import RBPN
from stdpipe.models.rlsp import RLSP
from stdpipe.models.rrn import MobileRRN
from stdpipe.models.sofvsr import SOFVSR
from stdpipe.models.swrn import SWRN
from stdpipe.models.toflow import TOFlow
from stdpipe.models.vdsr import VDSR
from stdpipe.models.vespcn import VESPCN
from stdpipe.models.vsrnet import VSRNet
from stdpipe.resample import SCALE, centre
from stdpipe.suggest import nearest

ZOO: dict[str, tuple[type[Network], dict[str, Any]]] = {
    "bicubic": (Bicubic, {}),
    "edvr": (EDVR, {}),
    "edvr-m": (EDVR, {"num_frame": 7}),
    "edvr-l": (EDVR, {"num_frame": 7, "num_feat": 128, "num_reconstruct_block": 40}),
    "fastdvdnet": (FastDVDnet, {}),
    "fastdvdnet-half": (FastDVDnet, {"width": 0.5}),
    "fastdvdnet-quarter": (FastDVDnet, {"width": 0.25}),
    "fastdvdnet-eighth": (FastDVDnet, {"width": 0.125, "light": True}),
    "rlsp": (RLSP, {}),
    "rlsp-64": (RLSP, {"num_feat": 64}),
    "rlsp-128": (RLSP, {"num_feat": 128}),
    "rrn": (MobileRRN, {}),
    "rrn-8": (MobileRRN, {"num_feat": 8}),
    "rrn-32": (MobileRRN, {"num_feat": 32}),
    "rrn-64": (MobileRRN, {"num_feat": 64}),
    "swrn": (SWRN, {}),
    "vdsr": (VDSR, {}),
    "vsrnet": (VSRNet, {}),
    "vsrnet-deep": (VSRNet, {"form": "deep"}),
    "vespcn": (VESPCN, {}),
    "vespcn-deep": (VESPCN, {"form": "deep"}),
    "sofvsr": (SOFVSR, {}),
    "d3dnet": (D3DNet, {}),
    "rbpn": (RBPN, {}),
    "toflow": (TOFlow, {}),
    "duf": (DUF, {}),
    "pisr": (PISR, {}),
}


_OWN = re.compile(r"([^\W\d]\w*\.)*[^\W\d]\w*:[^\W\d]\w*")  # package.module:Class
WRITES: dict[Kind, tuple[tuple[str, ...], ...]] = {  # methods of a kind; one of each group
    "window": (("fuse", "fuse_clip"), ("upsample",), ("to_rgb",)),
    "clip": (("features_clip", "fuse_clip"),),
    "causal": (("begin",), ("step",)),
}
MOST_PARAMETERS = 2**28  # 1 GB in float32; EDVR-L has 2**24.3
ALLOWED: set[str] = set()  # modules that a file may name: those of --allow-module


class Spec(NamedTuple):
    """A network's class and the options that its name gives."""

    cls: type[Network]
    name: str  # of the class itself: "edvr" or "package.module:Class"
    asked: dict[str, Any]

    @property
    def options(self) -> dict[str, Any]:
        """The options that differ from the class's defaults."""
        return {k: v for k, v in self.asked.items() if v != self._default(k)}

    @property
    def scale(self) -> int:
        """HR size / LR size, of a class that says it by an option or by its attribute."""
        if self.cls is PISR:
            return _student_of_pisr(self.option("student")).scale
        scale = int(self.option("scale") if self.has("scale") else self.cls.scale)
        return SCALE if scale == 1 else scale

    def _default(self, option: str) -> Any:
        """Return the class's own value: of the phase, that of the scale."""
        default = _parameters(self.cls)[option].default
        return centre(self.scale) if option == "phase" and default is None else default

    def __str__(self) -> str:
        options = ",".join(f"{k}={_to_yaml(v)}" for k, v in sorted(self.options.items()))
        return f"{self.name}:{options}" if options else self.name

    def has(self, option: str) -> bool:
        """Tell whether the class has an option."""
        return option in _parameters(self.cls)

    def option(self, name: str) -> Any:
        """Return an option's value, by default the class's."""
        return self.asked.get(name, self._default(name))

    def build(self) -> Network:
        """Return a new network. Raises UserError, before anything is allocated, for options of the
        zoo's networks that do not go together or ask for more than MOST_PARAMETERS."""
        if self.options and self.name in ZOO:
            self._try_options()
        return _builder(self.cls)(**self.options)

    def _try_options(self) -> None:
        """Build the network without memory, in milliseconds; raise UserError where that fails."""
        try:
            count = count_parameters(self._build_unfilled())
        except UserError:
            raise
        except Exception as error:  # layers raise anything for sizes that do not go together
            told = str(error).partition("\n")[0]
            raise UserError(f"{self} cannot be built: {told}; change its options") from None
        if count > MOST_PARAMETERS:
            most = f"more than the {MOST_PARAMETERS:,} that stdpipe builds"
            raise UserError(f"{self} has {count:,} parameters, {most}: choose smaller options")

    def shapes(self) -> dict[str, torch.Size]:
        """Return the parameters' and buffers' shapes by name, without memory for them."""
        state = self._build_unfilled().state_dict()
        return {name: values.shape for name, values in state.items()}

    def _build_unfilled(self) -> Network:
        with torch.device("meta"), _Unfilled():
            return _builder(self.cls)(**self.options)

    def with_phase(self, phase: float) -> "Spec":
        """Return this with the option `phase`, where the class has it and the name does not."""
        if not self.has("phase"):
            return self
        return self._replace(asked={"phase": phase, **self.asked})


class _Unfilled(TorchFunctionMode):
    """Skips torch's initialisers, which take seconds even on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        fills = getattr(func, "__module__", "") == "torch.nn.init"
        if fills or func in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def parse(text: str) -> Spec:
    """Parse a network's name. Raises UserError, with the nearest name or option."""
    name, _, rest = text.partition(":")
    if name in ZOO:
        cls, options = ZOO[name]
        canonical = next(n for n, (c, _) in ZOO.items() if c is cls)
    elif _OWN.fullmatch(":".join(text.split(":")[:2])):
        class_name, _, rest = rest.partition(":")
        cls, options = _import(name, class_name), {}
        canonical = f"{name}:{class_name}"
    else:
        how = "options follow a colon, as in rrn:num_feat=8"
        if name in EMBEDDED:
            how = f"--weights {name} takes the weights of that name"
        raise UserError(f"unknown network {name!r}{nearest(name, ZOO)}; {how}")
    given = {**options, **_options(text, rest)}
    known = _parameters(cls)
    for option in given:
        if option not in known:
            scaled = [
                n for n, (c, preset) in ZOO.items() if not preset and "scale" in _parameters(c)
            ]
            hint = f"; {', '.join(scaled)} have it" * (option == "scale")
            raise UserError(f"{name} has no option {option!r}{nearest(option, known)}{hint}")
    typed = check(_types(cls), given, name, strict=None)  # type: ignore[arg-type]
    return Spec(cls, canonical, typed)


def parse_trusted(text: str, source: str) -> Spec:
    """Parse a name that a file gives. Raises UserError for a module that is not in ALLOWED, since
    its import runs code."""
    if needs_word(text):
        module = text.partition(":")[0]
        how = "name the network yourself on the command line, or trust that module by "
        told = f"which a file alone does not import: {how}--allow-module {module}"
        raise UserError(f"{source} names the network {text!r}, {told}")
    return parse(text)


def needs_word(text: str) -> bool:
    """Tell whether a name is of a module that is imported on the user's own word alone."""
    module = text.partition(":")[0]
    return module not in ZOO and module not in ALLOWED and bool(_OWN.match(text))


def _options(text: str, rest: str) -> dict[str, Any]:
    options = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"option {item!r} of {text!r} should read key=value")
        options[key.strip()] = parse_yaml(value, f"option {item!r} of {text!r}")
    return options


@cache
def _types(cls: type[Network]) -> Any:
    """Return a class's options as a TypedDict for pydantic."""
    types = {name: _type(option) for name, option in _parameters(cls).items()}
    form: Any = TypedDict(cls.__name__, types, total=False)  # type: ignore[misc]
    form.__pydantic_config__ = ConfigDict(strict=True)  # type: ignore[attr-defined]
    return form


def _type(option: inspect.Parameter) -> Any:
    """Return an option's annotation where it says what is allowed, else its default's type."""
    if get_origin(option.annotation) in (Annotated, Literal):
        return option.annotation
    kind = type(option.default)
    if kind is float or option.name == "phase":
        return Annotated[float, Strict(False)]  # YAML 1.1 reads 1e-4 as text
    return {int: Count, bool: bool, str: str}.get(kind, Any)


def _parameters(cls: type[Network]) -> Mapping[str, inspect.Parameter]:
    """Return a class's options: name -> annotation and default."""
    return inspect.signature(_builder(cls)).parameters


def _builder(cls: type[Network]) -> Callable[..., Network]:
    """Return the function that takes a class's options: the class itself, except for PISR."""
    return _build_pisr if cls is PISR else cls


def _build_pisr(student: str = "fastdvdnet", phase: float | None = None) -> PISR:
    """Build a PISR around a student of the zoo, which has ";" between its options.

    phase is the student's, unless its name gives one. Raises UserError for a pisr as student.
    """
    spec = _student_of_pisr(student)
    if spec.cls is PISR:
        raise UserError(f"pisr's student={student} would see HR itself; choose another")
    return PISR((spec if phase is None else spec.with_phase(phase)).build())


def _student_of_pisr(student: str) -> Spec:
    return parse_trusted(student.replace(";", ","), f"pisr's student={student}")


def _to_yaml(value: object) -> str:
    """Return one line that safe_load reads as the same value; it reads str(1e-5) as text."""
    return str(yaml.safe_dump(value, default_flow_style=True, width=float("inf"))).splitlines()[0]


def _import(module: str, class_name: str) -> type[Network]:
    if os.getcwd() not in sys.path:  # noqa: PTH109 - a user's module lies where the command is run
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        cls = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UserError(f"cannot import network {module}:{class_name}: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Network)):
        derive = "derive it from stdpipe.models.base.Network"
        raise UserError(f"{module}:{class_name} is no network: {derive}")
    _refuse_unwritten(cls, f"{module}:{class_name}")
    return cls


def _refuse_unwritten(cls: type[Network], name: str) -> None:
    """Raise UserError where a user's class does not write what its kind asks of it."""
    if cls.kind not in WRITES:
        raise UserError(f"{name} has kind = {cls.kind!r}: choose one of {', '.join(WRITES)}")
    causal = issubclass(cls, CausalNetwork)
    if causal != (cls.kind == "causal"):
        instead = "leave its kind to" if causal else "derive it from stdpipe.models.causal's"
        raise UserError(f"{name} has kind = {cls.kind!r}: {instead} CausalNetwork")
    base = CausalNetwork if causal else Network
    for group in WRITES[cls.kind]:
        if all(getattr(cls, method) is getattr(base, method) for method in group):
            asked = ", ".join(" or ".join(each) for each in WRITES[cls.kind])
            told = f"a {cls.kind} network writes {asked}, and it has no {' or '.join(group)} yet"
            raise UserError(f"{name}: {told}")
