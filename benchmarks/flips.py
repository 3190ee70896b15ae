"""Is any file of stdpipe's used when a bit of it has flipped, or when it is cut?

python benchmarks/flips.py [--flips 200] [--cuts 50] [--json]
Writes one file of each kind, damages a copy again and again, at random, and reads it by the
function that the commands read it with. A read is refused in one line, harmless (the same content),
or served wrong. Of an unfinished evaluation, clips that are measured again are refused; so are
entries of a cache. Of a cut metrics.jsonl, the lines that are left are harmless: a stopped run has
the same. summary.json is for people and programs: no command reads it.
"""

import argparse
import copy
import importlib.util
import math
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as iio
import numpy as np
import torch
from timing import report

from stdpipe import bench
from stdpipe.cache import ENCODINGS, Manifest, open_reader, open_writer
from stdpipe.cache.errors import UserError
from stdpipe.cache.seal import read_sealed, seal
from stdpipe.data.packed import PackedFile
from stdpipe.data.packing import pack_clips
from stdpipe.evaluate import evaluate
from stdpipe.evaluation.frame_log import FrameLog, read_frames
from stdpipe.evaluation.job import Evaluation
from stdpipe.evaluation.results import read_result
from stdpipe.export import Export, export
from stdpipe.models.checkpoints import load_network, save_network
from stdpipe.models.table import Size
from stdpipe.training import run_folder
from stdpipe.training.config import StudentTraining
from stdpipe.training.metrics_log import Metrics, read_metrics

NETWORK = "vdsr:num_layer=3,num_feat=8"
OPTIONS = StudentTraining(steps=10, warmup_steps=2)
EXTRAS = ("onnx", "onnxscript", "onnxruntime")


class Kind(NamedTuple):
    """The files to damage, and what reads them: name of a part -> its content."""

    files: list[Path]
    read: Callable[[], dict[str, Any]]
    fewer: tuple[str, str] = ("served wrong", "served wrong")
    """What it is to read fewer parts, after a flip and after a cut."""


BY_PARTS = ("refused", "refused")


def kinds(root: Path, names: list[str] | None = None) -> Iterator[tuple[str, Kind]]:
    """Write the files of each kind into a folder; yield them by name."""
    data = _frames(root / "data")
    has_onnx = all(map(importlib.util.find_spec, EXTRAS))
    made = {
        "weights.pt": _weights,
        "checkpoint.pt": _checkpoint,
        "config.yaml": _config,
        "metrics.jsonl": _metrics,
        "result.json": _result,
        "frames.csv": _frames_csv,
        "unfinished evaluation": _unfinished,
        "summary.json": _summary,
        "data.h5": _packed,
        **({".onnx and its .json": _exported} if has_onnx else {}),
        **{f"cache, {name}": _cache(name) for name in ENCODINGS},
    }  # fmt: skip
    for name in names or made:
        folder = root / name.replace(" ", "-")
        folder.mkdir()
        yield name, made[name](folder, data)


def _frames(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for clip in "abc":
        (folder / clip).mkdir(parents=True)
        for frame in range(3):
            iio.imwrite(
                folder / clip / f"{frame}.png", rng.integers(256, size=(32, 48, 3), dtype="u1")
            )
    return folder


def _weights(folder: Path, _: Path) -> Kind:
    file = folder / "weights.pt"
    save_network(file, load_network(NETWORK, "random:0")[0], NETWORK, "bd")

    def read() -> dict[str, Any]:
        net, facts = load_network(None, str(file))
        facts.pop("sha256")
        return {**net.state_dict(), "facts": facts}

    return Kind([file], read)


def _checkpoint(folder: Path, _: Path) -> Kind:
    net = load_network(NETWORK, "random:0")[0]
    stepper = run_folder.Stepper(list(net.parameters()), OPTIONS, torch.device("cpu"))
    stepper.backward(net(torch.rand(1, 1, 3, 8, 8)).mean())
    stepper.step(0)
    run_folder.save_checkpoint(folder, 1, net=net, stepper=stepper)
    return Kind([folder / "checkpoint.pt"], lambda: run_folder.resume(folder, net=net))


def _config(folder: Path, _: Path) -> Kind:
    with run_folder.open_run(folder, {"network": NETWORK, "data": "d", "cache": None}, OPTIONS):
        pass
    file = folder / "config.yaml"
    return Kind([file], lambda: run_folder.read_config(file))


def _metrics(folder: Path, _: Path) -> Kind:
    metrics, file = Metrics(folder, 0), folder / "metrics.jsonl"
    for step in range(1, 31):
        metrics.add({"loss": 1 / step, "sd": math.pi / step}, waited=0.01)
        metrics.log(step, lr=1e-4)
    return Kind(
        [file],
        lambda: {str(n): line for n, line in enumerate(read_metrics(file))},
        ("served wrong", "harmless"),
    )


def _result(folder: Path, data: Path) -> Kind:
    evaluate(Evaluation(data, "bicubic", out=folder, device="cpu"))
    file = folder / "result.json"
    return Kind([file], lambda: {"": read_result(file)})


def _frames_csv(folder: Path, data: Path) -> Kind:
    found = evaluate(Evaluation(data, "bicubic", out=folder, device="cpu"))
    file = folder / "frames.csv"
    return Kind([file], lambda: {"": read_frames(file, found["files"]["frames.csv"])})


def _unfinished(folder: Path, _: Path) -> Kind:
    lengths, rng = dict.fromkeys("abc", 4), random.Random(0)
    rest = (["net"], lengths, ("psnr_y", "ssim_y"), lambda _, there: there)
    log = FrameLog(folder, {"protocol": "vid4"}, *rest)
    for clip in lengths:
        rows = [{"frame": t, "psnr_y": 40 * rng.random(), "ssim_y": rng.random()} for t in range(4)]
        log.add(clip, {"net": rows}, {"start": 0, "stop": 4, "crc32": [rng.getrandbits(32)]})
    kept = folder / "unfinished"
    shutil.copytree(kept, folder / "kept")

    def read() -> dict[str, Any]:
        """What goes on; the log is then as it was, since it drops damaged lines for good."""
        again = FrameLog(folder, {"protocol": "vid4"}, *rest)
        found = {clip: (again.networks["net"][clip], again.origins[clip]) for clip in again.done}
        shutil.copytree(folder / "kept", kept, dirs_exist_ok=True)
        return found

    return Kind([kept / "frames.csv", kept / "clips.jsonl"], read, BY_PARTS)


def _summary(folder: Path, _: Path) -> Kind:
    file, rows = (
        folder / "summary.json",
        {f"student/{n}": {"mean": math.sqrt(n)} for n in range(20)},
    )
    file.write_bytes(seal({"name": "experiment", "rows": rows}, indent=2))
    return Kind([file], lambda: dict(read_sealed(file)))


def _packed(folder: Path, data: Path) -> Kind:
    file = folder / "data.h5"
    pack_clips(data, file)

    def read() -> dict[str, Any]:
        packed = PackedFile(file)
        with packed.file:
            tables = (packed.keys, packed.lists, packed.source, packed.source_bytes.tolist())
            clips = enumerate(zip(packed.keys, packed.shapes[:, 0].tolist(), strict=True))
            pixels = {key: packed.read(key, n, range(length)) for n, (key, length) in clips}
            return {"tables": tables, **pixels}

    return Kind([file], read)


def _exported(folder: Path, _: Path) -> Kind:
    file = folder / "net.onnx"
    export(Export(file, "rrn-8", "random:0", size=Size(32, 24)))

    def read() -> dict[str, Any]:
        return {"use": bench.read_use(file), "graph": file.read_bytes()}

    return Kind([file, folder / "net.onnx.json"], read)


def _cache(encoding: str) -> Callable[[Path, Path], Kind]:
    def make(folder: Path, _: Path) -> Kind:
        sizes = {"frames": 2, "channels": 3, "height": 12, "width": 136}
        keys = tuple(f"clip/{n}@0" for n in range(5))
        manifest = Manifest(made_by={"teacher": "t"}, entries=keys, **sizes, encoding=encoding)
        tail = {"conv.weight": np.ones((2, 3), np.float32)} if manifest.stored == "trunk" else None
        rng = np.random.default_rng(0)
        with open_writer(folder, manifest, "0-of-1", tail) as writer:
            for key in keys:
                shapes = {name: manifest.arrays[name].shape[1:] for name in manifest.given}
                writer.write(key, {n: rng.random(s, dtype=np.float32) for n, s in shapes.items()})
            writer.finalise()
        files = [f for f in sorted(folder.rglob("*")) if f.is_file() and f.suffix != ".lock"]
        return Kind(files, lambda: dict(_served(folder)), BY_PARTS)

    return make


def _served(folder: Path) -> Iterator[tuple[str, Any]]:
    """What a reader gives, but for the entries that it refuses."""
    reader = open_reader(folder)
    reads: dict[str, Callable[[], Any]] = {}
    for key in reader.entries:
        reads[f"{key} extra"] = lambda key=key: str(reader.extra(key))
        for name in reader.manifest.arrays:
            if name.endswith("_scale"):
                array = name.removesuffix("_scale")
                reads[f"{key} {name}"] = lambda key=key, array=array: reader.scale(key, array)
            else:
                reads[f"{key} {name}"] = lambda key=key, name=name: reader.read(key, name)
    if reader.manifest.stored == "trunk":
        reads["tail"] = reader.tail
    for name, read in reads.items():
        with suppress(UserError):
            yield name, read()


def equal(one: Any, other: Any) -> bool:
    """Tell whether two contents are the same."""
    if isinstance(one, torch.Tensor | np.ndarray):
        return type(one) is type(other) and one.shape == other.shape and bool((one == other).all())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def flipped(rng: random.Random, data: bytes) -> bytes:
    bit = rng.randrange(len(data) * 8)
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def damaged(kind: Kind, damage: Callable[..., bytes], times: int, seed: int = 7) -> dict[str, int]:
    """Count what comes of so many damages: refused, harmless, served wrong."""
    rng, counts = random.Random(seed), {"refused": 0, "harmless": 0, "served wrong": 0}
    truth = copy.deepcopy(kind.read())
    sizes = [file.stat().st_size for file in kind.files]
    for turn in range(times):  # each file once, as far as they go, then by size
        file = kind.files[turn] if turn < len(sizes) else rng.choices(kind.files, sizes)[0]
        before = file.read_bytes()
        file.write_bytes(damage(rng, before))
        counts[_outcome(kind, truth, is_cut=damage is cut)] += 1
        file.write_bytes(before)
    assert equal(kind.read(), truth)
    return counts


def _outcome(kind: Kind, truth: dict[str, Any], *, is_cut: bool) -> str:
    try:
        found = kind.read()
    except (UserError, OSError) as error:
        told = str(error)
    else:
        if not (found.keys() <= truth.keys() and all(equal(found[k], truth[k]) for k in found)):
            return "served wrong"
        return "harmless" if len(found) == len(truth) else kind.fewer[is_cut]
    assert "\n" not in told, told
    return "refused"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in kinds(Path(folder)):
            found[f"{name}, flips"] = damaged(kind, flipped, arguments.flips)
            found[f"{name}, cuts"] = damaged(kind, cut, arguments.cuts)
    wrong = sum(counts["served wrong"] for counts in found.values())
    if not arguments.json:
        for name, counts in found.items():
            print(f"{name:30}", *(f"{what} {count:3}" for what, count in counts.items()))
    settings = {"flips": arguments.flips, "cuts": arguments.cuts}
    report("flips", settings, {"served wrong": wrong}, arguments.json, found)


if __name__ == "__main__":
    main()
