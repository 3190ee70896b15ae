"""Random flipped bits and cuts anywhere in a cache: verify reports each, and none is served."""

import random
from pathlib import Path

import numpy as np
import pytest

from stdpipe.cache import CacheError, Manifest, open_reader, open_writer, verify

TAIL = {
    "upconv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "upconv1.bias": np.ones(2, np.float32),
}
KINDS = [("float16", "none"), ("int8", "zstd"), ("trunk-int8", "none")]


@pytest.fixture(params=KINDS, ids=["-".join(kind) for kind in KINDS])
def root(request, tmp_path):
    """A complete cache of two writers, five entries."""
    encoding, compression = request.param
    keys = tuple(f"clip/{n}@0" for n in range(5))
    sizes = {"frames": 2, "channels": 3, "height": 12, "width": 136}
    manifest = Manifest(
        made_by={"teacher": "t"}, entries=keys, **sizes, encoding=encoding, compression=compression
    )
    tail = TAIL if manifest.stored == "trunk" else None
    rng = np.random.default_rng(0)
    for part in range(2):
        with open_writer(tmp_path, manifest, f"{part}-of-2", tail) as writer:
            for key in keys[part::2]:
                shapes = {name: manifest.arrays[name].shape[1:] for name in manifest.given}
                writer.write(key, {n: rng.random(s, dtype=np.float32) for n, s in shapes.items()})
            if not writer.missing():
                writer.finalise()
    return tmp_path


def served(root):
    """Everything that a reader gives: (key, array) -> bytes, or None where it raises."""
    try:
        reader = open_reader(root)
    except CacheError:
        return {}
    found = {}
    for key in reader.entries:
        found[key, "extra"] = str(reader.extra(key)).encode()
        for name in reader.manifest.arrays:
            found[key, name] = _bytes_of(reader, key, name)
    if reader.manifest.stored == "trunk":
        found["", "tail"] = _tail_of(reader)
    return found


def _bytes_of(reader, key, name):
    try:
        if name.endswith("_scale"):
            return reader.scale(key, name.removesuffix("_scale")).tobytes()
        return reader.read(key, name).tobytes()
    except CacheError:
        return None


def _tail_of(reader):
    try:
        return b"".join(name.encode() + v.tobytes() for name, v in sorted(reader.tail().items()))
    except CacheError:
        return None


def flip(rng, data):
    bit = rng.randrange(len(data) * 8)
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def cut(rng, data):
    return data[: rng.randrange(len(data))]


def keys_of(root, file, before, after):
    """Whose damage it is: of an entry's file, or of journal lines; none where it is nobody's."""
    path = file.relative_to(root)
    if path.suffix == ".jsonl":
        whole = set(after.split(b"\n"))
        torn = [line for line in before.split(b"\n")[:-1] if line not in whole]
        return {line.partition(b'"key":"')[2].partition(b'"')[0].decode() for line in torn}
    if file.name.startswith("c.") and path.parts[0] != "tail":
        return {f"clip/{file.name.split('.')[1]}@0"}
    return set()


@pytest.mark.parametrize(
    ("damage", "times"),
    [(flip, 40), (cut, 30), pytest.param(flip, 200, marks=pytest.mark.slow)],
    ids=["flips", "cuts", "many-flips"],
)
def test_any_damage_is_reported_and_none_is_served(root: Path, damage, times):
    rng = random.Random(7)
    files = [f for f in sorted(root.rglob("*")) if f.is_file() and f.suffix != ".lock"]
    truth = served(root)
    assert None not in truth.values()
    for turn in range(times):
        file = files[turn] if turn < len(files) else rng.choice(files)
        before = file.read_bytes()
        after = damage(rng, before)
        file.write_bytes(after)
        broken = verify(root).broken
        assert broken, file
        assert keys_of(root, file, before, after) <= {one.key for one in broken}, file
        for what, value in served(root).items():
            assert value in (truth[what], None), (file, what)
        file.write_bytes(before)
    assert verify(root).broken == []
