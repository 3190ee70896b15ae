"""Small files that ask for gigabytes, and files of absurd size: each is refused by what it states.

One process runs all commands, under a limit of 1 GB beyond what importing takes, so that whatever
is allocated in earnest fails there as being out of memory.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from stdpipe.cache import manifest
from stdpipe.cache.manifest import Manifest
from stdpipe.cache.seal import seal, unseal
from stdpipe.models import zoo
from stdpipe.models.checkpoints import save_network

Command = Callable[..., Any]
GB = 2**30
SMALL = "vdsr:num_feat=4,num_layer=3"
RUN = """
import json, resource, sys
from pathlib import Path
from click.testing import CliRunner
from stdpipe.cli.main import main
import stdpipe.train, stdpipe.evaluate, stdpipe.experiment, stdpipe.upscale, stdpipe.report
import stdpipe.training.run_list, stdpipe.check, torch._dynamo
told = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
now = {words[0]: int(words[1]) * 1024 for words in told if words[2:] == ["kB"]}
most = now["VmSize:"] + 2**30
resource.setrlimit(resource.RLIMIT_AS, (most, most))
found = []
for words in json.loads(sys.stdin.read()):
    result = CliRunner().invoke(main, words, prog_name="stdpipe")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found.append([result.exit_code, result.stderr, peak - now["VmRSS:"]])
print(json.dumps(found))
"""


def sparse(path: Path, size: int = 2**40) -> None:
    """A file of a terabyte that takes no room; what it held comes first."""
    path.touch()
    os.truncate(path, size)


def write(content: bytes | str) -> Callable[[Path], object]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda path: path.write_bytes(data)


@cache
def png(side: int) -> bytes:
    """A square of black and white, its pixels all there."""
    size = side.to_bytes(4) * 2 + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(bytes(side * (side // 8 + 1)), 1)
    chunks = [(b"IHDR", size), (b"IDAT", rows), (b"IEND", b"")]
    body = b"".join(
        len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def video(path: Path) -> None:
    """Frames of 16,000 x 16,000, the most that FFmpeg decodes; the header says 64 x 64."""
    with av.open(str(path), "w", format="nut") as file:
        stream = file.add_stream("png", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "rgb24"
        packet = av.Packet(png(16000))
        packet.pts = packet.dts = 0
        packet.stream = stream
        file.mux(packet)


def jpeg(path: Path) -> None:
    """A small one whose header says 65,500 x 65,500."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "jpeg")
    data = bytearray(file.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = (65500).to_bytes(2) * 2
    write(bytes(data))(path)


def packed_array(path: Path) -> None:
    """Half a gigabyte of zeros in half a megabyte; each number is to become one of eight bytes."""
    count = 2**29
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "|i1", "fortran_order": False, "shape": (count,)}
    )
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("w.npy", "w") as stream,
    ):
        stream.write(head.getvalue())
        for _ in range(count // 2**24):
            stream.write(bytes(2**24))


def stated_array(path: Path) -> None:
    """An array of a terabyte by its header alone."""
    head = io.BytesIO()
    of = {"descr": "<f4", "fortran_order": False, "shape": (2**38,)}
    np.lib.format.write_array_header_1_0(head, of)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("w.npy", head.getvalue() + bytes(64))


def weights(path: Path) -> None:
    save_network(path, zoo.parse(SMALL).build(), SMALL, "bd")


def stated_weights(path: Path) -> None:
    """Weights whose zip file says that a tensor takes three gigabytes."""
    weights(path)
    with zipfile.ZipFile(path, "a") as file:
        file.infolist()[2].file_size = 3 * GB
        file.writestr("archive/more", b"")


class _Zeros:
    def __reduce__(self) -> tuple[type[bytearray], tuple[int]]:
        return bytearray, (10**10,)


def pickled(value: Any, zipped: bool = True) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        torch.save(value, path, _use_new_zipfile_serialization=zipped)

    return make


def many_lists(path: Path) -> None:
    """A pickle of ten million empty lists."""
    weights(path)
    with zipfile.ZipFile(path) as old:
        content = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in content.items():
            is_pickle = name.endswith("data.pkl")
            new.writestr(name, b"\x80\x02(" + b"]" * 10**7 + b"l." if is_pickle else data)


def safetensors(path: Path) -> None:
    head = {"a": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}}
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def hdf5(shape: tuple[int, int, int], size: int, keys: Any = None) -> Callable[[Path], object]:
    """A packed file of one clip of that shape; it is as long as it would have to be."""

    def make(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.attrs.update({"format": "stdpipe-clips", "version": 1, "source": "d"})
            file["shapes"] = np.array([shape])
            keys_of = np.array([b"a"]) if keys is None else keys
            file.create_dataset("keys", data=keys_of)
            file["lists/test"] = np.array([b"a"])
            file["crc32"] = np.zeros(shape[0], "u4")
            file["source_bytes"] = np.ones(1, "i8")
            file.create_dataset("clips/a", (*shape, 3), "u1")
        sparse(path, size)

    return make


def copied(path: Path) -> None:
    """A manifest and its copy, a terabyte each."""
    sparse(path)
    sparse(path.parent / "journal" / path.name)


def laughs(merge: str) -> str:
    """Anchors that stand for nine times as much, line by line."""
    lines = ["a0: &a0 {k: 1}"]
    lines += [f"a{i + 1}: &a{i + 1} {{{merge}: [{', '.join([f'*a{i}'] * 9)}]}}" for i in range(20)]
    return "\n".join(lines)


def absurd_manifest(frames: int, channels: int) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        whole = Manifest.from_json(unseal((path.parent / "manifest.json").read_bytes()))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(manifest, "MOST_VALUES", 2**99)
            patch.setattr(manifest, "MOST_CHUNKS", 2**99, raising=False)
            text = seal(replace(whole, frames=frames, channels=channels).to_json(), indent=1)
        for folder in ("", "journal"):
            (path.parent / folder / "manifest.json").write_bytes(text)

    return make


EVALUATE = "evaluate --data DATA --pictures 0"
TRAIN = f"train-student --data DATA --student {SMALL} --scheme none --out"
LOAD = f"{EVALUATE} --model {SMALL} --weights"
FRAMES = "evaluate --model bicubic --pictures 0 --data"
LISTS = "[" + "[]," * 6_000_000 + "[]]"
TEXTS = np.array(["a"], h5py.string_dtype())  # each may point to one text of a megabyte
MERGES = write(laughs("<<"))
# file -> how it is made, and the command that reads it
BOMBS: dict[str, tuple[Callable[[Path], object], str]] = {
    "png/a/1.png": (write(png(40000)), f"{FRAMES} png"),
    "up/1.png": (write(png(40000)), "upscale up new"),
    "jpg/a/1.jpg": (jpeg, f"{FRAMES} jpg"),
    "bmp/a/1.bmp": (sparse, f"{FRAMES} bmp"),
    "v.mkv": (video, "upscale v.mkv new"),
    "zeros.npz": (packed_array, f"{LOAD} zeros.npz"),
    "header.npz": (stated_array, f"{LOAD} header.npz"),
    "zip.pt": (stated_weights, f"{LOAD} zip.pt"),
    "t/checkpoint.pt": (stated_weights, f"{TRAIN} t"),
    "bytearray.pt": (pickled({"a": _Zeros()}), f"{LOAD} bytearray.pt"),
    "old.pt": (pickled(_Zeros(), False), f"{LOAD} old.pt"),
    "lists.pt": (many_lists, f"{LOAD} lists.pt"),
    "long.pt": (sparse, f"{LOAD} long.pt"),
    "data.safetensors": (safetensors, f"{LOAD} data.safetensors"),
    "head.safetensors": (write(b"\xff" * 7 + b"\x00{}"), f"{LOAD} head.safetensors"),
    "frame.h5": (hdf5((7, 2**20, 2**17), 2**42), f"{FRAMES} frame.h5"),
    "table.h5": (hdf5((2**30, 1, 1), 2**40), f"{FRAMES} table.h5"),
    "texts.h5": (hdf5((7, 8, 8), 2**20, TEXTS), f"{FRAMES} texts.h5"),
    "laughs.yaml": (write(laughs("x")), "experiment laughs.yaml --out e"),
    "merges.yaml": (MERGES, "experiment merges.yaml --out e"),
    "config.yaml": (MERGES, f"{TRAIN} e --config config.yaml"),
    "students.yaml": (MERGES, f"{TRAIN} e --students students.yaml"),
    "nested.yaml": (write("[" * 10**5), "experiment nested.yaml --out e"),
    "list.yaml": (write("a: [" + "a," * 10**7 + "]"), "experiment list.yaml --out e"),
    "long.yaml": (sparse, "experiment long.yaml --out e"),
    "run/config.yaml": (MERGES, "report run --out page"),
    "lists/result.json": (write(LISTS), "report lists --out page"),
    "long/result.json": (sparse, "report long --out page"),
    "r1/frames.csv": (sparse, "report r1 --out page"),
    "r2/frames.csv": (
        write("network,clip,frame,psnr_y\n" + "a,b,1,1\n" * 7_000_000),
        "report r2 --out page",
    ),
    "d/sep_testlist.txt": (sparse, f"{FRAMES} d"),
    "c1/manifest.json": (copied, "cache info c1"),
    "c2/manifest.json": (absurd_manifest(2**30, 64), "cache verify c2"),
    "c3/manifest.json": (absurd_manifest(7, 2**20), "cache info c3"),
    "c4/journal/x.000000.jsonl": (sparse, "cache info c4"),
    "m/metrics.jsonl": (write(b"\n" * 3_000_000), "runs m"),
}


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory, tiny: Path, tiny_cache: Path, stdpipe: Command
) -> dict[str, list[Any]]:
    """Each file -> the exit code, the stderr and the growth in bytes of the command that reads it,
    all of them one after the other in one process."""
    root = tmp_path_factory.mktemp("bombs")
    settings = ("--set", "steps=1", "--set", "batch=1", "--set", "patch=32", "--set", "workers=0")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        stdpipe(*TRAIN.replace("DATA", str(tiny)).split(), "t", *settings)
        stdpipe(*f"{EVALUATE} --model bicubic --out r1".replace("DATA", str(tiny)).split())
    shutil.copytree(root / "t", root / "m")
    shutil.copytree(root / "r1", root / "r2")
    shutil.copytree(tiny, root / "d")
    for number in range(1, 5):
        shutil.copytree(tiny_cache, root / f"c{number}")
    calls = []
    for file, (make, words) in BOMBS.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        make(root / file)
        calls.append(words.replace("DATA", str(tiny)).split())
        if words.startswith(TRAIN):
            calls[-1] += settings
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=root, input=json.dumps(calls), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(BOMBS, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("file", BOMBS)
def test_refused_by_what_it_states(found: dict[str, list[Any]], file: str) -> None:
    """In one line that names it, without the memory that it asks for; a list of runs goes on."""
    code, told, grown = found[file]
    assert code in (1, 2) or told.startswith("stdpipe: warning: "), told
    assert len(told.splitlines()) == 1
    assert file.split("/")[0] in told
    assert "memory" not in told
    assert "allocate" not in told
    assert grown < GB
