"""Names of networks: options, suggestions, canonical text, and a user's own class."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from stdpipe.models import zoo
from stdpipe.models.edvr import EDVR
from stdpipe.models.fastdvdnet import FastDVDnet

OWN = """
from stdpipe.models.base import Network
from stdpipe.models.causal import CausalNetwork

class Mine(Network):
    def __init__(self, width: int = 4, slope: float = 0.1, name: str | None = None) -> None:
        super().__init__()
        self.width, self.slope, self.name = width, slope, name

    def fuse(self, window):
        return window[:, 0]

    def upsample(self, trunk):
        return trunk

    def to_rgb(self, f_sr, centre):
        return f_sr

class NoFusion(Network):
    pass

class NoImage(Network):
    fuse = upsample = Mine.fuse

class Carries(Mine):
    kind = "causal"

class OneStage(Network):
    kind = "clip"
    fuse = Mine.fuse

class NoStep(CausalNetwork):
    def begin(self, frame):
        return ()

class Odd(NoStep):
    kind, step = "window", NoStep.begin

class NoKind(Mine):
    kind = "windows"

class NoNetwork:
    pass
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module and a package in the current folder, which is not on the path beforehand."""
    (tmp_path / "own_net.py").write_text(OWN)
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "nets.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("own_net", "own_package", "own_package.nets"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("edvr", "edvr"),
        ("edvr-m", "edvr:num_frame=7"),
        ("edvr-l", "edvr:num_feat=128,num_frame=7,num_reconstruct_block=40"),
        ("edvr-l:num_frame=5,with_tsa=no", "edvr:num_feat=128,num_reconstruct_block=40,"
         "with_tsa=false"),
        ("edvr: num_feat=32", "edvr:num_feat=32"),
        ("edvr:num_feat=64", "edvr"),  # the default
        ("edvr:phase=0", "edvr:phase=0.0"),
        ("edvr:phase=1e-1", "edvr:phase=0.1"),
        ("fastdvdnet-quarter", "fastdvdnet:width=0.25"),
        ("fastdvdnet-quarter:norm=batch", "fastdvdnet:norm=batch,width=0.25"),
        ("bicubic:phase=0.0", "bicubic:phase=0.0"),
    ],
)  # fmt: skip
def test_canonical_text(text: str, canonical: str) -> None:
    """One network has one text, however it was asked for; the text reads back as itself."""
    assert str(zoo.parse(text)) == canonical
    assert str(zoo.parse(canonical)) == canonical


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "num_feat": st.integers(1, 512),
            "with_tsa": st.booleans(),
            "phase": st.floats(allow_nan=False, allow_infinity=False),
        },
    )
)
def test_text_round_trip(options: dict[str, object]) -> None:
    """Any option's value survives the way through text, 1e-05 and -0.5e-300 included."""
    given = zoo.Spec(EDVR, "edvr", options)
    spec = given._replace(asked=given.options)
    again = zoo.parse(str(spec))
    assert again == spec
    assert str(again) == str(spec)


def test_builds_what_it_says() -> None:
    """Options arrive at the class with their types."""
    net = zoo.parse("fastdvdnet-half:phase=0").build()
    assert isinstance(net, FastDVDnet)
    assert net.upconv1.in_channels == 32
    assert net.phase == 0.0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("edvrl", r"unknown network 'edvrl'; did you mean 'edvr-l'\? \(known: bicubic, edvr,"),
        ("zzz", r"unknown network 'zzz' \(known: "),
        ("edvrl:num_feat=32", r"unknown network 'edvrl'; did you mean"),
        ("edvr:num_feet=3", r"edvr has no option 'num_feet'; did you mean 'num_feat'\?"),
        ("edvr:num_feat", r"option 'num_feat' of .* should read key=value"),
        ("edvr:num_feat=32,5", r"option '5' of .* should read key=value"),
        ("edvr:num_feat=big", r"edvr: num_feat: .* integer, got 'big'"),
        ("edvr:num_feat=32.5", r"edvr: num_feat: .* integer, got 32.5"),
        ("edvr:num_feat=true", r"edvr: num_feat: .* integer, got True"),
        ("edvr:num_feat=0", r"edvr: num_feat: .* 1, got 0"),
        ("rrn:num_feat=0", r"rrn: num_feat: .* 1, got 0"),
        ("rlsp:head=f_sr,f_sr_channels=0", r"rlsp: f_sr_channels: .* 1, got 0"),
        ("edvr:num_feat=", r"edvr: num_feat: .* integer, got None"),
        ("edvr:with_tsa=1", r"edvr: with_tsa: .* boolean, got 1"),
        ("edvr:num_feat=[", r"option 'num_feat=\[' of .* is no YAML"),
        ("no.such.module:Net", r"cannot import network no.such.module:Net: No module named 'no'"),
    ],
)
def test_mistakes(text: str, told: str) -> None:
    """One line, with the nearest name or the type that is wanted; before anything is built."""
    with pytest.raises(ValueError, match=told) as error:
        zoo.parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["rrn", "rlsp", "swrn"])
def test_channels_of_an_f_sr_that_is_not_there(name: str) -> None:
    assert zoo.parse(f"{name}:head=f_sr,f_sr_channels=4").build().f_sr_channels == 4
    with pytest.raises(ValueError, match="head=f_sr"):
        zoo.parse(f"{name}:f_sr_channels=4").build()


def test_with_phase() -> None:
    """A degradation's phase is taken where the name says nothing; 1.5, the default, is not said."""
    assert str(zoo.parse("edvr").with_phase(0.0)) == "edvr:phase=0.0"
    assert str(zoo.parse("edvr").with_phase(1.5)) == "edvr"
    assert str(zoo.parse("edvr:phase=1.0").with_phase(0.0)) == "edvr:phase=1.0"


@pytest.mark.usefixtures("own")
def test_a_users_own_class() -> None:
    """From the folder where the command runs: a module, or a package's; options like any other."""
    spec = zoo.parse("own_net:Mine:width=8,slope=1e-5")
    net = spec.build()
    assert (net.width, net.slope) == (8, 1e-5)  # type: ignore[comparison-overlap]
    assert str(spec) == "own_net:Mine:slope=1.0e-05,width=8"
    assert zoo.parse(str(spec)) == spec
    assert str(zoo.parse("own_package.nets:Mine")) == "own_package.nets:Mine"
    assert spec.with_phase(0.0) is spec  # it has no such option


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("own_net:NoNetwork", "is no network: derive it"),
        ("own_net:NoFusion", "window network writes .* has no fuse or fuse_clip"),
        ("own_net:NoImage", "has no to_rgb"),
        ("own_net:Carries", "derive it from stdpipe.models.causal's CausalNetwork"),
        ("own_net:OneStage", "has no features_clip or fuse_clip"),
        ("own_net:NoStep", "causal network writes begin, step, and it has no step"),
        ("own_net:Odd", "leave its kind"),
        ("own_net:NoKind", "'windows': choose one of window, clip, causal"),
        ("own_net:Absent", "cannot import network own_net:Absent: .* no attribute"),
        ("own_net:Mine:widht=3", "has no option 'widht'; did you mean 'width'"),
    ],
)
def test_a_class_that_does_not_do(text: str, told: str) -> None:
    """What is wrong with it, and how to put it right."""
    with pytest.raises(ValueError, match=told):
        zoo.parse(text)


def test_a_name_of_weights_is_told(refused: Callable[..., str]) -> None:
    assert "--weights embedded-small" in refused("models", "embedded-small", code=2)
