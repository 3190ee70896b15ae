"""Writing: resumed equals unbroken, refusals, full disks, several processes."""

import contextlib
import errno
import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from stdpipe.cache import CacheError, Manifest, open_reader, open_writer, quantise, verify
from stdpipe.cache.local import LocalPlace


def write(writer, arrays, keys):
    for key in keys:
        writer.write(key, arrays(writer.manifest, key), {"source_crc32": len(key)})


def test_resumed_equals_unbroken_byte_for_byte(tmp_path, cache, manifest, arrays, files_of):
    root = tmp_path / "resumed.zarr"
    for count, key in enumerate(manifest.entries):
        with open_writer(root, manifest) as writer:
            assert set(writer.committed) == set(manifest.entries[:count])
            write(writer, arrays, [key])
            assert key in writer.committed
    with open_writer(root, manifest) as writer:
        writer.finalise()
    assert files_of(root) == files_of(cache)


def test_an_uncommitted_shard_is_written_anew(tmp_path, cache, manifest, build, files_of):
    """What a power cut may leave: shards torn or empty under their final name, no line."""
    whole = files_of(cache)
    journal = cache / "journal" / "0.000000.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    (cache / "f_sr" / "c.2.0.0.0.0").write_bytes(b"")
    (cache / "attention" / "c.3.0.0.0").write_bytes(b"torn" * 50)
    assert files_of(build(cache, manifest)) == whole


def test_refused_arrays(tmp_path, manifest, arrays):
    key, other = manifest.entries[:2]
    good = arrays(manifest, key)
    bad = [
        ("nobody", good, "not in the manifest"),
        (key, {"f_sr": good["f_sr"]}, r"got \['f_sr'\], give \['attention', 'f_sr'\]"),
        (
            key,
            good | {"f_sr": good["f_sr"][:, :, 1:]},
            r"f_sr: got float32 \(2, 3, 19, 132\), give",
        ),
        (key, good | {"f_sr": good["f_sr"].astype("f8")}, "got float64"),
        (key, good | {"attention": good["attention"] * np.nan}, "attention: holds .* not finite"),
    ]
    with open_writer(tmp_path / "c", manifest) as writer:
        for name, values, message in bad:
            with pytest.raises(CacheError, match=message):
                writer.write(name, values)
        assert not writer.committed
        write(writer, arrays, [key])
        with pytest.raises(CacheError, match="is committed already"):
            write(writer, arrays, [key])
        write(writer, arrays, [other])


def test_float16_overflow_names_the_entry(tmp_path, make_manifest, arrays):
    manifest = make_manifest(encoding="float16")
    key = manifest.entries[1]
    values = arrays(manifest, key)
    values["attention"][1, 2, 3] = 70000
    with (
        open_writer(tmp_path / "c", manifest) as writer,
        pytest.raises(CacheError, match=f"'{key}', attention: .*70000 overflows float16"),
    ):
        writer.write(key, values)


def test_finalise_counts_what_is_missing(tmp_path, manifest, arrays):
    with open_writer(tmp_path / "c", manifest) as writer:
        write(writer, arrays, manifest.entries[::2])
        with pytest.raises(CacheError, match=r"lacks 2 of 4 entries, the first is '00001/0001@1'"):
            writer.finalise()
    assert not (tmp_path / "c" / "complete.json").exists()


def test_the_same_writer_twice_is_refused(tmp_path, manifest):
    with open_writer(tmp_path / "c", manifest):
        with pytest.raises(CacheError, match="writer '0' is already at work"):
            open_writer(tmp_path / "c", manifest)
        open_writer(tmp_path / "c", manifest, writer="1").close()
    open_writer(tmp_path / "c", manifest).close()


@pytest.mark.parametrize("name", ["", "../x", "a b", "0.1", ".hidden"])
def test_writer_names(tmp_path, manifest, name):
    with pytest.raises(CacheError, match="writer name"):
        open_writer(tmp_path / "c", manifest, writer=name)


def test_what_another_writer_committed_before_its_lock_was_had_stays(
    tmp_path, manifest, arrays, monkeypatch
):
    """It resumed, mended its own journal, committed and left after `finalise` had read it."""
    root, journal = tmp_path / "c", tmp_path / "c" / "journal" / "other.000000.jsonl"
    first, second, *rest = manifest.entries
    with open_writer(root, manifest, "other") as other:
        write(other, arrays, [first, second])
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    with open_writer(root, manifest) as writer:
        write(writer, arrays, rest)
        journal.write_bytes(lines[0] + lines[1][:20])
        lock = LocalPlace.lock

        def late(self, path):
            journal.write_bytes(whole)
            return lock(self, path)

        monkeypatch.setattr(LocalPlace, "lock", late)
        writer.finalise()
    assert journal.read_bytes() == whole
    assert verify(root).ok == 4


def test_a_damaged_line_of_another_writer_is_healed(tmp_path, manifest, arrays, build):
    root = tmp_path / "c"
    with open_writer(root, manifest, writer="1") as writer:
        write(writer, arrays, manifest.entries[:3])
    path = root / "journal" / "1.000000.jsonl"
    path.write_bytes(path.read_bytes().replace(b"0001@1", b"0001@5"))
    assert verify(root).broken[0].reason == "journal/1.000000.jsonl line 2 is damaged"
    assert verify(build(root, manifest)).broken == []


WRITE_SOME = """
import json, sys
import numpy as np
from stdpipe.cache import Manifest, open_writer

manifest = Manifest.from_json(json.load(sys.stdin))
root, part = sys.argv[1], int(sys.argv[2])
with open_writer(root, manifest, writer=str(part)) as writer:
    for key in manifest.entries[part::2]:
        rng = np.random.default_rng(manifest.index[key])
        shapes = {name: spec.shape[1:] for name, spec in manifest.arrays.items()}
        arrays = {name: rng.standard_normal(s, dtype=np.float32) for name, s in shapes.items()}
        writer.write(key, arrays)
"""


def test_two_processes_write_disjoint_entries(tmp_path, manifest, cache, files_of):
    root = tmp_path / "both.zarr"
    commands = [[sys.executable, "-c", WRITE_SOME, str(root), part] for part in "01"]
    jobs = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for command in commands]
    for job in jobs:
        job.stdin.write(json.dumps(manifest.to_json()))
        job.stdin.close()
    assert [job.wait(60) for job in jobs] == [0, 0]
    with open_writer(root, manifest) as writer:
        writer.finalise()
    ours, theirs = files_of(root), files_of(cache)
    shards = [name for name in theirs if "/c." in name]
    assert [ours[name] for name in shards] == [theirs[name] for name in shards]
    assert verify(root).ok == 4


def check_recovery(root, manifest: Manifest, build, cache, files_of, count):
    """The cache has exactly `count` good entries, and is finished as if nothing had happened."""
    report = verify(root)
    assert (report.ok, len(report.uncommitted), report.broken) == (count, 4 - count, [])
    with pytest.raises(CacheError, match=rf"incomplete \({count} of 4"):
        open_reader(root)
    assert files_of(build(root, manifest)) == files_of(cache)


@contextlib.contextmanager
def largest_file(num_bytes):
    """Let no file grow beyond this: the kernel refuses the write, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_shard_the_disk_refuses(tmp_path, manifest, arrays, build, cache, files_of):
    root = tmp_path / "c"
    with open_writer(root, manifest) as writer:
        write(writer, arrays, manifest.entries[:2])
        with largest_file(9000), pytest.raises(CacheError) as caught:
            write(writer, arrays, manifest.entries[2:])
    assert str(caught.value).startswith(f"no space left for cache {root}: make space")
    assert "make space and run the same command again, it resumes" in str(caught.value)
    check_recovery(root, manifest, build, cache, files_of, 2)


@pytest.mark.parametrize("call", range(5))
@pytest.mark.parametrize("before", [0, 1])
def test_no_space_at_any_fsync(
    tmp_path, manifest, arrays, build, cache, files_of, monkeypatch, call, before
):
    """fsync of a shard and its folder, twice, then of the journal: a new one, or one with lines."""
    root, real, calls = tmp_path / "c", os.fsync, []

    def fsync(fd):
        calls.append(fd)
        if len(calls) == call + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(fd)

    with open_writer(root, manifest) as writer:
        write(writer, arrays, manifest.entries[:before])
        monkeypatch.setattr("os.fsync", fsync)
        with pytest.raises(CacheError, match="no space left for cache"):
            write(writer, arrays, manifest.entries[before:])
        monkeypatch.undo()
    check_recovery(root, manifest, build, cache, files_of, before)


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 640 KiB; skips where mounting is not allowed."""
    path = tmp_path / "tiny"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=640k", "tmpfs", str(path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a tmpfs cannot be mounted here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_file_system(tiny_disk, manifest, arrays, build, cache, files_of):
    ballast = tiny_disk / "ballast"
    root = tiny_disk / "c"
    with open_writer(root, manifest) as writer:
        write(writer, arrays, manifest.entries[:1])
        _fill(ballast)
        with pytest.raises(CacheError, match="make space and run the same command"):
            write(writer, arrays, manifest.entries[1:])
    ballast.unlink()
    check_recovery(root, manifest, build, cache, files_of, 1)


def _fill(path):
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for _ in range(1000):
            file.write(bytes(4096))
    assert path.stat().st_size < 640 * 1024


def test_other_errors_are_not_called_a_full_disk(tmp_path, manifest, arrays, monkeypatch):
    def broken(fd):
        raise OSError(errno.EIO, "Input/output error")

    with open_writer(tmp_path / "c", manifest) as writer, monkeypatch.context() as patch:
        patch.setattr("os.fsync", broken)
        with pytest.raises(OSError, match="Input/output error"):
            write(writer, arrays, manifest.entries)
        assert not writer.committed


def test_shares_of_another_number_are_refused_while_one_is_at_work(tmp_path, manifest, arrays):
    """0 of 2 and 0 of 3 overlap: both would write the same entries."""
    with (
        open_writer(tmp_path / "c", manifest, "0-of-2"),
        open_writer(tmp_path / "c", manifest, "1-of-2"),
        pytest.raises(CacheError, match=r"'.-of-2' is at work .* overlaps that of '0-of-3'"),
    ):
        open_writer(tmp_path / "c", manifest, "0-of-3")
    with open_writer(tmp_path / "c", manifest, "0-of-3"):
        pass


@pytest.mark.parametrize("encoding", ["float32", "float16", "int8", "trunk-int8"])
def test_stored_form_makes_the_same_bytes(tmp_path, make_manifest, arrays, files_of, encoding):
    """What a device has encoded already is written as it is."""
    manifest = make_manifest(encoding=encoding)
    tail = {"w": np.zeros(1, np.float32)} if manifest.stored == "trunk" else None
    key = manifest.entries[0]
    given, stored = arrays(manifest, key), {}
    for name, values in given.items():
        dtype = manifest.arrays[name].dtype
        if dtype == "int8":
            stored[name], stored[name + "_scale"] = quantise(values)
        else:
            stored[name] = values.astype(dtype)
    for folder, entry in (("given", given), ("stored", stored)):
        with open_writer(tmp_path / folder, manifest, tail=tail) as writer:
            writer.write(key, entry)
    assert files_of(tmp_path / "given") == files_of(tmp_path / "stored")


def test_codes_without_their_scale_are_refused(tmp_path, make_manifest, arrays):
    manifest = make_manifest(encoding="int8")
    given = arrays(manifest, manifest.entries[0])
    codes, _ = quantise(given["f_sr"])
    with (
        open_writer(tmp_path / "c", manifest) as writer,
        pytest.raises(CacheError, match="f_sr: int8 codes need a float32 scale"),
    ):
        writer.write(manifest.entries[0], given | {"f_sr": codes})
