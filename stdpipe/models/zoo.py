"""From a name on the command line to a network: a dict, or a user's own `package.module:Class`.

A name may carry options: `edvr:num_feat=32,num_frame=5`. `describe` turns them back into one
canonical text, which checkpoints and caches carry.
"""

import importlib
import inspect
import os
import sys
from typing import Any, NamedTuple

import yaml

from stdpipe.models.base import Network
from stdpipe.models.bicubic import Bicubic
from stdpipe.models.edvr import EDVR
from stdpipe.models.fastdvdnet import FastDVDnet
from stdpipe.suggest import nearest

ZOO: dict[str, tuple[type[Network], dict[str, Any]]] = {
    "bicubic": (Bicubic, {}),
    "edvr": (EDVR, {}),
    "edvr-m": (EDVR, {"num_frame": 7}),
    "edvr-l": (EDVR, {"num_frame": 7, "num_feat": 128, "num_reconstruct_block": 40}),
    "fastdvdnet": (FastDVDnet, {}),
    "fastdvdnet-half": (FastDVDnet, {"num_feat": 32}),
    "fastdvdnet-quarter": (FastDVDnet, {"num_feat": 16}),
}


class Spec(NamedTuple):
    """A network's class and every option that differs from the class's default."""

    cls: type[Network]
    name: str  # "edvr" or "package.module:Class": what names the class itself
    options: dict[str, Any]

    def __str__(self) -> str:
        options = ",".join(f"{k}={_text(v)}" for k, v in sorted(self.options.items()))
        return f"{self.name}:{options}" if options else self.name

    def build(self) -> Network:
        """A new network, freshly initialised."""
        return self.cls(**self.options)

    def with_phase(self, phase: float) -> "Spec":
        """The same, its residual's base sampled at `phase` unless the name says otherwise."""
        if "phase" in self.options or "phase" not in inspect.signature(self.cls).parameters:
            return self
        options = _without_defaults(self.cls, {**self.options, "phase": phase})
        return Spec(self.cls, self.name, options)


def parse(text: str) -> Spec:
    """Understand a network's name; ValueError, with the nearest name or option, where it fails."""
    name, _, rest = text.partition(":")
    if name in ZOO:
        cls, options = ZOO[name]
        canonical = next(n for n, (c, _) in ZOO.items() if c is cls)
    elif "." in name and rest:
        class_name, _, rest = rest.partition(":")
        cls, options = _import(name, class_name), {}
        canonical = f"{name}:{class_name}"
    else:
        raise ValueError(f"unknown network {name!r}{nearest(name, ZOO)}")
    given = {**options, **_options(text, rest)}
    known = inspect.signature(cls).parameters
    for option in given:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}{nearest(option, known)}")
    return Spec(cls, canonical, _without_defaults(cls, given))


def _options(text: str, rest: str) -> dict[str, Any]:
    options = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"option {item!r} of {text!r} should read key=value")
        options[key.strip()] = yaml.safe_load(value)
    return options


def _without_defaults(cls: type[Network], options: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(cls).parameters
    return {k: v for k, v in options.items() if v != parameters[k].default}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _import(module: str, class_name: str) -> type[Network]:
    if os.getcwd() not in sys.path:  # noqa: PTH109 - a user's module lies where the command is run
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        cls = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot import network {module}:{class_name}: {error}") from error
    missing = [m for m in ("features_clip", "forward_clip") if not hasattr(cls, m)]
    if missing:
        raise ValueError(
            f"{module}:{class_name} is no network: it lacks {', '.join(missing)}; "
            "derive it from stdpipe.models.base.Network"
        )
    return cls  # type: ignore[no-any-return]
