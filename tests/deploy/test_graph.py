"""The graph of one frame a call against the clip, and through every format that is installed."""

import importlib.util
import json
import tempfile
import zipfile
from collections.abc import Callable
from importlib.resources import files as files_at
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

import stdpipe as api
from stdpipe.deploy import onnx_file
from stdpipe.deploy.formats import FORMATS, files_of, load, runs_here, use_beside
from stdpipe.deploy.graph import Graph, InHalf, Run, example, play, trace
from stdpipe.deploy.quiet import quiet
from stdpipe.export import HOLDS
from stdpipe.models.fold import folded
from stdpipe.models.macs import count_macs

Command = Callable[..., Any]
CAUSAL = ("rrn", "rrn:head=f_sr,wide=2", "rlsp", "swrn")
STREAMED = ("fastdvdnet-eighth", "fastdvdnet-quarter:light=true")
RUNNING = [name for name in FORMATS if runs_here(name)]
WINDOWS = ("vespcn", "vdsr:num_feat=8,num_layer=3")


def graph(name: str) -> Graph:
    return Graph(folded(api.load_network("random:0", name, degradation="bi"))).eval()


@pytest.mark.parametrize("name", [*CAUSAL, *STREAMED, *WINDOWS])
@given(
    frames=st.integers(1, 8),
    height=st.integers(9, 14),
    width=st.integers(9, 14),
)
@settings(max_examples=3, deadline=None)
def test_it_plays_what_the_clip_is(name: str, frames: int, height: int, width: int) -> None:
    """For any number of frames, shorter than a window too, and any size."""
    made = graph(name)
    clip = torch.rand(frames, 3, height, width)
    with torch.no_grad():
        found = torch.cat(list(play(made, made, clip[None])))
        expected = made.net.features_clip(clip[None]).sr[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [*CAUSAL, *STREAMED])
def test_no_map_has_five_dimensions(name: str) -> None:
    program = trace(graph(name), 16, 20)
    values = [node.meta.get("val") for node in program.graph.nodes]
    assert {x.ndim for x in values if isinstance(x, torch.Tensor)} <= {1, 4}  # biases, maps
    mine, theirs = program.module()(*example(graph(name), 16, 20)), graph(name)
    for one, two in zip(mine, theirs(*example(theirs, 16, 20)), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", STREAMED)
def test_a_stream_runs_each_stage_once(name: str) -> None:
    """It costs at most 0.7 of a window's multiply-accumulates."""
    from torch.utils.flop_counter import FlopCounterMode

    made = graph(name)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        made(*example(made, 120, 180))
    assert counter.get_total_flops() / 2 <= 0.7 * count_macs(made.net).total


def skip_without(name: str) -> None:
    if missing := [x for x in module_of_needs(name) if importlib.util.find_spec(x) is None]:
        pytest.skip(f"{name} needs {', '.join(missing)}")


def module_of_needs(name: str) -> tuple[str, ...]:
    module = importlib.import_module(f"stdpipe.deploy.{FORMATS[name].module}")
    needs: tuple[str, ...] = module.NEEDS
    return needs


@pytest.mark.parametrize("name", RUNNING)
@pytest.mark.parametrize("network", ["rrn-8", "fastdvdnet-eighth"])
def test_a_file_of_one_size(tmp_path: Path, stdpipe: Command, name: str, network: str) -> None:
    """Written by the command, told how to use beside it, and played in its own runtime."""
    skip_without(name)
    out = tmp_path / f"student{FORMATS[name].suffix}"
    done = stdpipe("export", "--model", network, "--weights", "random:0", "--size", "36x24",
                   "--format", name, "--out", out, "--json")  # fmt: skip
    told = json.loads(done.stdout)
    assert told["checked"]["largest_difference"] <= 1e-4
    files = files_of(name, out)
    assert told["bytes"] == sum(file.stat().st_size for file in files)
    assert {path.name for path in tmp_path.iterdir()} == {
        *(file.name for file in files), use_beside(out).name
    }  # fmt: skip
    use = json.loads(use_beside(out).read_text())
    assert use["size"] == [36, 24]
    made = Graph(folded(api.load_network("random:0", network, degradation="bi")))
    assert use["frames"] == list(made.offsets)
    assert [shape[0] for shape in use["state"]] == list(made.state)
    assert names_in(name, out) == [
        [tensor["name"] for tensor in use[side]] for side in ("inputs", "outputs")
    ]
    assert [tensor["is"] for tensor in use["inputs"]][: len(made.offsets)] == [
        f"frame_{offset}" for offset in made.offsets
    ]
    image = dict(zip(use["axes"], use["outputs"][0]["shape"], strict=True))
    assert (image["C"], image["H"], image["W"]) == (3, 96, 144)
    clip = torch.rand(5, 3, 24, 36)
    with torch.no_grad():
        expected = made.net.features_clip(clip[None]).sr[0]
        found = torch.cat(list(play(made, load(name, files), clip[None])))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def names_in(name: str, out: Path) -> list[list[str]]:
    """What a file itself calls its inputs and outputs; those beside it where it names none."""
    if name == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(out))
        return [[x.name for x in session.get_inputs()], [x.name for x in session.get_outputs()]]
    if name == "litert":
        from ai_edge_litert.interpreter import Interpreter

        runner = Interpreter(str(out)).get_signature_runner()
        return [sorted(runner.get_input_details()), sorted(runner.get_output_details())]
    if name == "ncnn":
        import ncnn

        net = ncnn.Net()
        net.load_param(str(out))
        return [sorted(net.input_names()), sorted(net.output_names())]
    use = json.loads(use_beside(out).read_text())
    return [[tensor["name"] for tensor in use[side]] for side in ("inputs", "outputs")]


def test_core_ml_is_written_unchecked(
    tmp_path: Path, tiny: Path, stdpipe: Command, refused: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it does not run: a zipped package, a warning, and no measuring."""
    skip_without("coreml")
    monkeypatch.setattr("sys.platform", "linux")
    out = tmp_path / "s.zip"
    given = ("export", "--model", "rrn-8", "--weights", "random:0", "--size", "36x24")
    done = stdpipe(*given, "--format", "coreml", "--out", out, "--json")
    assert json.loads(done.stdout)["checked"] is None
    assert "macOS" in refused("bench", out)
    assert any(name.endswith("Manifest.json") for name in zipfile.ZipFile(out).namelist())
    assert {path.name for path in tmp_path.iterdir()} == {out.name, use_beside(out).name}
    measured = (*given, "--format", "coreml", "--measure", tiny, "--out", tmp_path / "t.zip")
    assert "--measure" in refused(*measured, code=2)


@pytest.mark.parametrize("name", RUNNING)
def test_a_hundred_frames(tmp_path: Path, stdpipe: Command, name: str) -> None:
    """The state carries no error on: as near after a hundred frames as after one."""
    skip_without(name)
    out = tmp_path / f"s{FORMATS[name].suffix}"
    given = ("--model", "rrn-8", "--weights", "random:0", "--size", "24x16", "--format", name)
    stdpipe("export", *given, "--out", out)
    made = graph("rrn-8")
    clip = torch.rand(100, 3, 16, 24)
    with torch.no_grad():
        found = torch.cat(list(play(made, load(name, files_of(name, out)), clip[None])))
        expected = made.net.features_clip(clip[None]).sr[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_bad_input(tmp_path: Path, refused: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line each, and nothing is left behind."""

    def export(*more: object, code: int = 1) -> str:
        given = ("--model", "rrn-8", "--weights", "random:0", "--out")
        told: str = refused("export", *given, *more, code=code)
        assert list(tmp_path.iterdir()) == []
        return told

    assert "--size" in export(tmp_path / "s.pte", "--format", "executorch", code=2)
    assert ".pte" in export(tmp_path / "s.onnx", "--format", "executorch", code=2)
    assert "320x180" in export(tmp_path / "s.onnx", "--size", "320", code=2)
    monkeypatch.setattr("stdpipe.deploy.formats.importlib.util.find_spec", lambda _name: None)
    assert "stdpipe[ncnn]" in export(tmp_path / "s.param", "--format", "ncnn", "--size", "32x32")
    monkeypatch.undo()

    def fail(*_: object) -> None:
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr("stdpipe.deploy.torch_program.write", fail)
    told = export(tmp_path / "s.pt2", "--format", "torch", "--size", "32x32")
    assert "no such operator" in told


@pytest.mark.parametrize("name", [name for name in HOLDS["fp16"] if name in RUNNING])
def test_half_precision_and_what_it_costs(
    tmp_path: Path, tiny: Path, stdpipe: Command, name: str
) -> None:
    """Smaller files, measured in dB on clips smaller than the file's size."""
    skip_without(name)
    sizes = {}
    for precision in ("fp32", "fp16"):
        out = tmp_path / f"{precision}{FORMATS[name].suffix}"
        done = stdpipe("export", "--model", "fastdvdnet-eighth", "--weights", "random:0",
                       "--size", "16x8", "--format", name, "--precision", precision,
                       "--measure", tiny, "--out", out, "--json")  # fmt: skip
        told = json.loads(done.stdout)
        sizes[precision] = told["bytes"]
        assert told["precision"] == precision
        (cost,) = told["cost"]
        assert abs(cost["lost"]) <= (0.01 if precision == "fp16" else 1e-3)
        assert cost["network"] > 10
        assert not cost["calibrated"]
    # XNNPACK keeps a file's weights in float32
    assert sizes["fp16"] < sizes["fp32"] * (1.05 if name == "executorch" else 1)


@pytest.mark.parametrize("model", ["rrn", "rlsp:num_feat=8"])
@pytest.mark.parametrize("name", HOLDS["int8"])
def test_eight_bits(
    tmp_path: Path, make_data: Command, stdpipe: Command, name: str, model: str
) -> None:
    """Calibrated on clips; a smaller file, whose cost is told there and on clips held out. RLSP
    gives back a convolution's own output, which quantisers lose."""
    skip_without(name)
    data = tmp_path / "data"
    make_data(data, clips=2, height=48, width=64)
    (data / "sep_trainlist.txt").write_text("00001/0001\n")
    (data / "sep_testlist.txt").write_text("00001/0002\n")
    sizes = {}
    for more in ([], ["--precision", "int8", "--calibrate", data]):
        out = tmp_path / f"s{len(more)}{FORMATS[name].suffix}"
        done = stdpipe("export", "--model", model, "--weights", "random:0", "--size", "16x12",
                       "--format", name, *more, "--out", out, "--json")  # fmt: skip
        told = json.loads(done.stdout)
        sizes[told["precision"]] = told["bytes"]
    assert [cost["calibrated"] for cost in told["cost"]] == [True, False]
    assert all(1e-6 < abs(cost["lost"]) <= 0.3 for cost in told["cost"])
    assert sizes["int8"] < 0.7 * sizes["fp32"]


@pytest.mark.parametrize("name", HOLDS["int8"])
def test_eight_bits_of_a_trained_student(tmp_path: Path, stdpipe: Command, name: str) -> None:
    """Whose maps fill the range that eight bits have, as random ones do not: sums that overflow on
    this CPU cost 0.6 dB."""
    skip_without(name)
    sample = Path(str(files_at("stdpipe.assets"))) / "sample"
    out = tmp_path / f"s{FORMATS[name].suffix}"
    given = ("--precision", "int8", "--calibrate", sample, "--size", "112x64", "--out", out)
    done = stdpipe("export", "--weights", "embedded-small", "--format", name, *given, "--json")
    assert all(cost["lost"] < 0.1 for cost in json.loads(done.stdout)["cost"])


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("network", ["rrn-8", "rlsp:num_feat=8"])
def test_rounding_over_a_thousand_frames(precision: str, network: str) -> None:
    """The state carries its rounding on, and what is lost does not grow: moving, then still."""
    made = graph(network)
    moving = torch.rand(60, 3, 12, 12)
    run: Run = InHalf(made).eval()
    if precision == "int8":
        skip_without("onnx")
        run = in_eight_bits(made, moving)
    with torch.no_grad():
        to_and_fro = torch.cat([moving, moving.flip(0)]).repeat(9, 1, 1, 1)[:1000]
        for clip in (to_and_fro, moving[:1].expand(1000, -1, -1, -1)):
            pairs = zip(play(made, made, clip[None]), play(made, run, clip[None]), strict=True)
            errors = [float((one - two).square().mean()) for one, two in pairs]
            assert max(errors[-10:]) <= 2 * max(errors[:10]) + 1e-8


def in_eight_bits(made: Graph, clip: torch.Tensor) -> Run:
    """As export does, calibrated on a clip's calls."""
    calls: list[list[torch.Tensor]] = []

    def record(*given: torch.Tensor) -> Any:
        calls.append(list(given))
        return made(*given)

    with torch.no_grad(), tempfile.TemporaryDirectory() as folder, quiet():
        list(play(made, record, clip[None]))
        out = Path(folder) / "s.onnx"
        use = {"kind": "stream", "size": [12, 12], "frames": made.offsets, "state": made.state}
        onnx_file.write_int8(trace(made, 12, 12), calls, [out], use)
        return onnx_file.load([out])


def test_bad_precision(tmp_path: Path, tiny: Path, refused: Command) -> None:
    given = ("export", "--model", "rrn-8", "--weights", "random:0", "--precision")
    assert "--size" in refused(*given, "fp16", "--out", tmp_path / "s.onnx", code=2)
    lite = ("--format", "litert", "--size", "32x32", "--out", tmp_path / "s.tflite")
    assert "--calibrate" in refused(*given, "int8", *lite, code=2)
    torch_file = ("--format", "torch", "--size", "8x8", "--out", tmp_path / "s.pt2")
    assert "litert" in refused(*given, "int8", *torch_file, "--calibrate", tiny, code=2)
    told = refused(*given, "fp16", *torch_file, "--measure", tiny)
    assert "12x8" in told
    assert "8x8" in told
    onnx_file = ("--size", "32x32", "--out", tmp_path / "s.onnx")
    nowhere = tmp_path / "nowhere"
    assert "nowhere" in refused(*given, "int8", *onnx_file, "--calibrate", nowhere)
    assert list(tmp_path.iterdir()) == []
