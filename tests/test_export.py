"""Exported files against the network, in onnxruntime and torch, at sizes export never saw."""

import errno
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stdpipe import export
from stdpipe.cache.errors import UserError
from stdpipe.deploy.formats import use_beside
from stdpipe.deploy.graph import Graph, Run, example
from stdpipe.models.base import Network
from stdpipe.models.checkpoints import load_network, save_network
from stdpipe.models.zoo import ZOO

Command = Callable[..., Any]
EDVR = "edvr:num_feat=8,deformable_groups=2,num_frame=3,num_extract_block=1,num_reconstruct_block=1"
RBPN = "rbpn:num_frame=3,num_feat=8,num_base=8,num_resblock=1"
TEACHERS_AND_BASELINES = ("bicubic", "edvr", "edvr-m", "edvr-l", "rbpn", "pisr", "toflow", "duf")
STUDENTS = [name for name in ZOO if name not in TEACHERS_AND_BASELINES]
SMALL = "vespcn:channels=1"
SIZES = [(1, 8, 8), (2, 24, 36), (1, 17, 30), (3, 9, 41), (1, 5, 5)]  # batch, height, width
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxscript", "onnxruntime")),
    reason="pip install 'stdpipe[export]'",
)

# A user's own networks: a small one with stride and padding, and some that cannot be exported.
OWN = """
import torch
from torch import nn
from torch.nn import functional as F
from stdpipe.deploy.formats import use_beside
from stdpipe.deploy.graph import Graph, Run, example
from stdpipe.models.base import Network
from stdpipe.models.layers import bilinear_base

class Small(Network):
    num_frame, multiple, f_sr_channels = 3, 4, 4

    def __init__(self, phase=0.0):
        super().__init__()
        self.phase = phase
        self.entry = nn.Conv2d(9, 8, 3, 2, 1)
        self.down = nn.Conv2d(8, 8, 3, 2, 1)
        self.up = nn.Conv2d(8, 64, 3, padding=1)
        self.last = nn.Conv2d(4, 3, 3, padding=1)

    def fuse(self, window):
        x = self.entry(window.flatten(1, 2)).relu()
        return F.interpolate(self.down(x), scale_factor=4.0) + F.interpolate(x, scale_factor=2.0)

    def reconstruct(self, f_lr):
        return f_lr

    def upsample(self, trunk):
        return F.pixel_shuffle(self.up(trunk), 4)

    def to_rgb(self, f_sr, centre):
        return self.last(f_sr) + bilinear_base(centre, self.phase)

class Undecided(Small):
    def reconstruct(self, f_lr):
        return f_lr if f_lr.sum() > 0 else -f_lr

class Noisy(Small):
    def reconstruct(self, f_lr):
        return f_lr + torch.rand_like(f_lr)

class Rare(Small):
    def reconstruct(self, f_lr):
        return torch.linalg.qr(f_lr)[0] @ torch.linalg.qr(f_lr)[1]
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    Path("own_export.py").write_text(OWN)
    yield
    sys.modules.pop("own_export", None)


def onnx_session(file: Path) -> Run:
    """As a user opens it: the names of inputs, outputs and their free axes are promised."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    given, (sr, *_) = session.get_inputs(), session.get_outputs()
    use = json.loads(session.get_modelmeta().custom_metadata_map["stdpipe"])
    frames = [f"frame_{offset}" for offset in use["frames"]]
    states = [f"state_{i}" for i in range(len(use["state"]))]
    assert [x.name for x in given] == frames + states
    assert all(x.type == "tensor(float)" for x in given)
    assert given[0].shape == ["batch", 3, "height", "width"]
    assert (sr.name, sr.shape[:2]) == ("sr", ["batch", 3])

    def run(*inputs: Tensor) -> list[Tensor]:
        feeds = {x.name: tensor.numpy() for x, tensor in zip(given, inputs, strict=True)}
        return [torch.from_numpy(x) for x in session.run(None, feeds)]

    return run


def torch_program(file: Path) -> Run:
    run: Run = torch.export.load(file).module()
    return run


@torch.no_grad()
def differences(net: Network, run: Run) -> float:
    """Of the image and, where there is one, the next state."""
    found, graph = [], Graph(net)
    for batch, height, width in SIZES:
        inputs = example(graph, height, width, batch)
        pairs = list(zip(run(*inputs), graph(*inputs), strict=True))
        assert pairs[0][0].shape == (batch, 3, 4 * height, 4 * width)
        found += [float((one - other).abs().max()) for one, other in pairs]
    return max(found)


@torch.no_grad()
def trained(name: str, path: Path) -> Network:
    """Weights in a file, every offset and residual far from where training begins."""
    net, _ = load_network(name, "random:0")
    torch.manual_seed(1)
    for parameter in net.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.3 / max(parameter[0].numel(), 9) ** 0.5)
    save_network(path, net, name, "bd")
    return net.eval()


RUNNERS: dict[str, tuple[str, Callable[[Path], Run]]] = {
    "onnx": ("net.onnx", onnx_session),
    "torch": ("net.pt2", torch_program),
}
FORMATS = [pytest.param("onnx", marks=needs_onnx), pytest.param("torch", marks=pytest.mark.slow)]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("kind", FORMATS)
def test_a_small_network(stdpipe: Command, kind: str) -> None:
    name = "own_export:Small"
    file, runner = RUNNERS[kind]
    arguments = ("--model", name, "--weights", "random:3", "--out", file, "--format", kind)
    result = stdpipe("export", *arguments, "--json")
    found = json.loads(result.stdout)
    assert result.stderr == ""
    assert differences(load_network(name, "random:3")[0].eval(), runner(Path(file))) < 1e-5
    assert found["bytes"] == Path(file).stat().st_size
    assert found["parameters"] == 9 * 8 * 9 + 8 + 8 * 8 * 9 + 8 + 8 * 64 * 9 + 64 + 4 * 3 * 9 + 3
    assert (found["format"], found["frames"]) == (kind, [-1, 0, 1])
    assert found["state"] == []
    assert (found["opset"] is None) == (kind == "torch")
    checked = found["checked"]
    assert checked["largest_difference"] < 1e-5
    assert len({tuple(size) for size in checked["sizes"]}) == 3
    assert checked["by"].startswith("onnxruntime " if kind == "onnx" else "torch ")
    assert {path.name for path in Path().iterdir()} <= {
        "own_export.py", "__pycache__", file, use_beside(Path(file)).name
    }  # fmt: skip


@needs_onnx
@pytest.mark.parametrize(
    ("name", "frames", "state"),
    [
        ("swrn:num_feat=4", [-1, 0, 1], [[4, None, None]] * 2),
        ("fastdvdnet-eighth", [0, 1, 2, 3], [[3, None, None]] * 4),
    ],
)
def test_the_loop_of_the_page(
    tmp_path: Path,
    stdpipe: Command,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    frames: list[int],
    state: list[list[int | None]],
) -> None:
    """What docs/networks.md runs over an exported step, of states and frames ahead."""
    monkeypatch.chdir(tmp_path)
    arguments = ("--model", name, "--weights", "random:0", "--out", "student.onnx", "--json")
    found = json.loads(stdpipe("export", *arguments).stdout)
    assert (found["frames"], found["state"]) == (frames, state)
    page = Path(__file__).parents[1] / "docs" / "networks.md"
    shown = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    (loop,) = (code for code in shown if "onnxruntime" in code)
    clip = torch.rand(5, 3, 9, 13)
    told: dict[str, Any] = {"frames": clip.numpy()}
    exec(loop, told)
    assert told["use"] == {key: found[key] for key in told["use"]}
    net, _ = load_network(name, "random:0")
    with torch.no_grad():
        whole = net.eval().features_clip(clip[None]).sr[0]
    made = torch.stack([torch.from_numpy(image) for image in told["images"]])
    assert (whole - made).abs().max() < 1e-5
    with pytest.raises(UserError, match="is an ONNX file"):
        load_network(name, "student.onnx")


@pytest.mark.slow
@needs_onnx
def test_what_is_printed(stdpipe: Command, tmp_path: Path) -> None:
    """Of bicubic, whose border is mirrored by look-ups; the smallest frames fold twice."""
    out = tmp_path / "deep" / "net.onnx"
    first, second = stdpipe("export", "--model", "bicubic", "--out", out).stdout.splitlines()
    assert re.fullmatch(
        rf"bicubic, 0 parameters, as {out}: 0\.\d\d MB, opset \d\d; "
        "a call takes frames 0 of any size",
        first,
    )
    assert re.fullmatch(
        r"onnxruntime [\d.]+ differs by at most \d\.\de-\d\d over clips of 24x16, 19x13, 19x30",
        second,
    )
    assert differences(load_network("bicubic", None)[0], onnx_session(out)) < 1e-5


def equals_its_file(folder: Path, stdpipe: Command, name: str, kind: str) -> None:
    """The file names the network; its export gives the network's images."""
    net = trained(name, folder / "weights.pt")
    file, runner = RUNNERS[kind]
    out = folder / file
    arguments = ("--weights", folder / "weights.pt", "--out", out, "--format", kind)
    found = json.loads(stdpipe("export", *arguments, "--json").stdout)
    assert found["degradation"] == "bd"
    assert found["bytes"] == out.stat().st_size > 4 * found["parameters"]
    assert found["opset"] is None if kind == "torch" else found["opset"] >= 18
    clip = torch.rand(1, 3, 3, 12, 12)
    with torch.no_grad():
        made = net.forward_clip(clip)
    assert (made - clip.mean()).abs().max() > 0.5  # it does something
    assert differences(net, runner(out)) < 1e-4


@needs_onnx
@pytest.mark.slow
def test_a_small_student(tmp_path: Path, stdpipe: Command) -> None:
    """At five sizes that export never saw; it samples, and is slow to trace in full."""
    equals_its_file(tmp_path, stdpipe, SMALL, "onnx")


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", STUDENTS)
def test_every_student_in_full(tmp_path: Path, stdpipe: Command, name: str) -> None:
    """At its full size: what onnxruntime shows is torch's, to 1e-4."""
    equals_its_file(tmp_path, stdpipe, name, "onnx")


OTHERS = [
    (EDVR, "onnx"),
    (EDVR, "torch"),
    ("fastdvdnet:waist=16,phase=0.0", "torch"),
    (f"{RBPN},flow=none", "onnx"),
    (RBPN, "torch"),
    ("toflow:num_frame=3,num_feat=8,num_flow_feat=4", "onnx"),
    ("duf:num_layer=16,num_feat=8", "onnx"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [pytest.param(*x, marks=needs_onnx) if x[1] == "onnx" else x for x in OTHERS],
)
def test_teachers_and_baselines(tmp_path: Path, stdpipe: Command, name: str, kind: str) -> None:
    """And torch's format, of a student. RBPN's optical flow has no ONNX form."""
    equals_its_file(tmp_path, stdpipe, name, kind)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("cls", "kind", "told"),
    [
        ("Undecided", "torch", r"own_export:Undecided cannot be traced for all frame sizes: "),
        pytest.param(
            "Noisy",
            "torch",
            "the exported network differs from torch's by ",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "Rare",
            "onnx",
            "has no form in onnx (try --format torch): ",
            marks=(needs_onnx, pytest.mark.slow),
        ),
    ],
)
def test_networks_that_cannot(refused: Command, cls: str, kind: str, told: str) -> None:
    """One line that says which step failed; an older file stays, and nothing lies beside it."""
    file, _ = RUNNERS[kind]
    Path(file).write_text("older")
    network = ("--model", f"own_export:{cls}", "--weights", "random:0")
    assert told in refused("export", *network, "--out", file, "--format", kind)
    assert Path(file).read_text() == "older"
    assert {path.name for path in Path().iterdir()} <= {"own_export.py", "__pycache__", file}


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_file_that_is_wrong_for_one_batch(batch: int) -> None:
    """Its batch is promised to be free, and so each is looked at."""
    graph = Graph(load_network("bicubic", None)[0])

    def run(frame: Tensor) -> list[Tensor]:
        return [sr + (len(frame) == batch) for sr in graph(frame)]

    with pytest.raises(ValueError, match="the exported network differs"):
        export.compare(graph, run, None, 1e-4)


def without(*missing: str) -> Callable[..., Any]:
    find_spec = importlib.util.find_spec
    return lambda name, *more: None if name in missing else find_spec(name, *more)


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_without_onnx(
    tmp_path: Path, refused: Command, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """Without its runtime a file could not be checked, and so is not written."""
    monkeypatch.setattr(importlib.util, "find_spec", without(missing))
    told = refused("export", "--model", "bicubic", "--out", tmp_path / "b.onnx")
    assert f"needs {missing}: pip install 'stdpipe[export]'" in told
    assert list(tmp_path.iterdir()) == []


def test_wrong_files(tmp_path: Path, refused: Command) -> None:
    out = ("--out", tmp_path / "n.pt2", "--format", "torch")
    (tmp_path / "weights.pt").write_bytes(b"no weights")
    weights = ("--weights", tmp_path / "weights.pt")
    assert "is no checkpoint" in refused("export", "--model", "fastdvdnet", *weights, *out)
    assert "no weights file" in refused("export", "--weights", tmp_path / "none.pt", *out)
    assert "needs weights" in refused("export", "--model", "fastdvdnet", *out)
    assert not (tmp_path / "n.pt2").exists()


@needs_onnx
def test_a_full_disk_is_not_blamed_on_the_network(
    tmp_path: Path, refused: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("stdpipe.deploy.onnx_file.write", full)
    told = refused("export", "--model", "bicubic", "--out", tmp_path / "b.onnx")
    assert "make space" in told
    assert "bicubic" not in told


def test_a_file_that_does_not_run(
    tmp_path: Path, refused: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the network's fault, told in one line, and not written."""

    def broken(_: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr("torch.export.load", broken)
    arguments = ("--model", "bicubic", "--out", tmp_path / "b.pt2", "--format", "torch")
    assert "no such operator" in refused("export", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_interrupted(refused: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "compare", interrupt)
    arguments = ("--model", "bicubic", "--out", tmp_path / "b.pt2", "--format", "torch")
    assert refused("export", *arguments, code=130) == "stdpipe: interrupted; nothing was written"
    assert list(tmp_path.iterdir()) == []
