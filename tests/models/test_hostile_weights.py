"""Whatever a weights file or a network's name holds, the end is a network, UserError or OSError."""

import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from stdpipe.cache.errors import UserError
from stdpipe.models import zoo
from stdpipe.models.base import count_parameters
from stdpipe.models.checkpoints import load_network, save_network

SMALL = "vdsr:num_feat=4,num_layer=2"
HEADER = {"revision": 1, "degradation": "bd"}  # with a network and params, a file of ours
FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
OPTIONS = sorted({option for cls, _ in zoo.ZOO.values() for option in zoo._parameters(cls)})
ABSURD = ["1000000000", "10000", "-1", "nan", "1e400", "[1]", "[[[[", "{a: 1}", "x", "null", ""]
VALUES = st.sampled_from([*ABSURD, "65", "3", "2", "1", "0", "true"]) | st.integers().map(str)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
ANYTHING = PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(st.text(max_size=4), PLAIN)


@st.composite
def names(draw: st.DrawFn) -> str:
    """A network of the zoo with up to three options, as a rule absurd ones; or any text."""
    name = draw(st.sampled_from([*zoo.ZOO, "pisr:student=edvr", "os:system", "", "..:x"]))
    known = sorted(zoo._parameters(zoo.ZOO[name][0])) if name in zoo.ZOO else OPTIONS
    keys = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
    options = ",".join(f"{key}={draw(VALUES)}" for key in keys)
    return draw(st.sampled_from([f"{name}:{options}", draw(st.text(max_size=12))]))


@pytest.fixture(autouse=True)
def _few_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the fuzz quick: what is built has a hundred thousand parameters at most."""
    monkeypatch.setattr(zoo, "MOST_PARAMETERS", 10**5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    save_network(path, zoo.parse(SMALL).build(), SMALL, "bd")
    return path.read_bytes()


def load(name: str | None, weights: str) -> None:
    """Load it, or be told why not, in one line and by an error meant for the user."""
    try:
        net, facts = load_network(name, weights)
    except (UserError, OSError) as told:
        lines = str(told).splitlines()
        assert len(lines) == 1
    else:
        assert isinstance(facts["network"], str)
        assert facts["degradation"] is None or isinstance(facts["degradation"], str)
        if ":" in facts["network"]:
            assert count_parameters(net) <= 10**5


@FUZZ
@given(name=names())
def test_names(name: str) -> None:
    load(name, "random:0")


@FUZZ
@given(
    header=st.fixed_dictionaries(
        {},
        optional={
            "network": names() | st.just(SMALL) | ANYTHING,
            "revision": st.just(1) | ANYTHING,
            "degradation": st.just("bd") | ANYTHING,
            "params": st.just("ours") | ANYTHING,
        },
    ),
    extra=st.dictionaries(st.text(max_size=4) | st.integers(), ANYTHING, max_size=2),
)
def test_headers(tmp_path: Path, header: dict[str, Any], extra: dict[Any, Any]) -> None:
    if header.get("params") == "ours":
        header["params"] = zoo.parse(SMALL).build().state_dict()
    torch.save({**header, **extra}, tmp_path / "weights.pt")
    load(None, str(tmp_path / "weights.pt"))


@FUZZ
@given(data=st.data())
def test_damaged_files(tmp_path: Path, whole: bytes, data: st.DataObject) -> None:
    """Cut short, overwritten in places, or not of torch at all."""
    content = bytearray(whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            at = data.draw(st.integers(0, len(content) - 1))
            content[at] = data.draw(st.integers(0, 255))
    other = data.draw(ANYTHING.map(pickle.dumps) | st.binary(max_size=40))
    path = tmp_path / "weights.pt"
    path.write_bytes(data.draw(st.sampled_from([bytes(content), other])))
    load(None, str(path))


def odd_tensors() -> Iterator[Any]:
    state = zoo.parse(SMALL).build().state_dict()
    key = next(iter(state))
    weight = state[key]
    for odd in (
        weight.to("meta"),
        weight.to(torch.complex64),
        weight.flatten(1).to_sparse(),
        torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
    ):
        yield {**state, key: odd}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_tensors_that_hold_no_plain_numbers(tmp_path: Path) -> None:
    for state in odd_tensors():
        torch.save({**HEADER, "network": SMALL, "params": state}, tmp_path / "weights.pt")
        with pytest.raises(UserError, match="form"):
            load_network(None, str(tmp_path / "weights.pt"))


@pytest.mark.parametrize(
    "name",
    [
        "edvr:num_feat=1000000000",
        "edvr:num_feat=512,num_reconstruct_block=512",
        "edvr:num_reconstruct_block=10000",
        "rbpn:num_frame=511,num_base=512,num_feat=512",
        "pisr:student=vdsr:num_feat=512;num_layer=512",
        "edvr:num_feat=-8",
        "vdsr:num_feat=0",
    ],
)
def test_absurd_options_are_refused_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the limit that users have, on the command line and in a file; nothing is allocated."""
    monkeypatch.undo()
    path = tmp_path / "weights.pt"
    torch.save({**HEADER, "network": name, "params": {"w": torch.zeros(1)}}, path)
    began = time.process_time()
    for arguments in ((name, "random:0"), (None, str(path))):
        with pytest.raises(UserError, match=r"parameters|less than|greater than|cannot be built"):
            load_network(*arguments)
    assert time.process_time() - began < 5  # a second on a quiet machine
