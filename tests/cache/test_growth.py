"""A cache grows by entries and by targets: what was there stays, to the byte, and is served on."""

import os
import shutil
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import zarr

from stdpipe.cache import (
    CacheError,
    Part,
    open_reader,
    open_writer,
    repair,
    verify,
)
from stdpipe.cache.seal import seal

FIRST = ("a", "b", "c")
MORE = ("z", "a", "b", "y", "c")  # new clips lie anywhere in a data set's list
ALL = (*FIRST, "z", "y")


@pytest.fixture
def images(make_manifest):
    """images(entries, targets): of 20 x 132 pixels."""

    def make(entries=FIRST, targets=("sr",), **changes):
        return make_manifest(entries=entries, targets=targets, **changes)

    return make


def values(manifest, key, names):
    """What an entry holds: of its key alone, wherever it lies."""
    rng = np.random.default_rng(ord(key))
    whole = {"sr": rng.integers(0, 256, (2, 3, 20, 132), dtype=np.uint8)}
    for name, shape in (("f_sr", (2, 3, 20, 132)), ("attention", (2, 20, 132))):
        whole[name] = rng.standard_normal(shape, dtype=np.float32)
    return {name: whole[name].astype(manifest.arrays[name].dtype) for name in names}


def fill(root, manifest, stop_after=99):
    """Commit what is missing, as many entries as asked; mark the end where nothing is left."""
    with open_writer(root, manifest) as writer:
        for key in [key for key in writer.manifest.entries if writer.lacks(key)][:stop_after]:
            writer.write(key, values(writer.manifest, key, writer.lacks(key)), {"crc": ord(key)})
        if not writer.missing():
            writer.finalise()
    return root


def served(reader, key):
    wanted = values(reader.manifest, key, reader.manifest.given)
    return all((reader.read(key, name) == wanted[name]).all() for name in wanted)


def data_of(files):
    return {name: data for name, data in files.items() if "/c." in name}


def test_clips_and_targets_are_added_and_the_first_stay(tmp_path, images, files_of):
    root = fill(tmp_path / "c", images())
    before, made = files_of(root), open_reader(root)
    fill(root, images(MORE))
    fill(root, images(MORE, ("f_sr", "attention")))
    reader = open_reader(root)
    assert list(reader.entries) == list(ALL)
    assert reader.manifest.targets == ("sr", "f_sr", "attention")
    assert all(served(reader, key) for key in ALL)
    assert reader.manifest.cache_id == made.manifest.cache_id
    after = files_of(root)
    assert all(after[name] == data for name, data in data_of(before).items())
    assert after["manifest.json"] == before["manifest.json"]
    report = verify(root)
    assert (report.ok, report.broken, report.uncommitted) == (5, [], [])
    part = open_reader(root, part=made.manifest.part)
    assert (list(part.entries), part.manifest.given) == (list(FIRST), ("sr",))
    assert part.is_complete()  # by the mark of its time
    assert served(made, "a")  # a reader that was open meanwhile


def test_asking_for_what_is_there_changes_nothing(tmp_path, images, files_of):
    root = fill(tmp_path / "c", images(MORE, ("sr", "f_sr")))
    before = files_of(root)
    for less in (("f_sr",), ("sr",), ("sr", "f_sr")):
        fill(root, images(MORE, less))
        assert files_of(root) == before


def test_plain_zarr_sees_the_new_entries(tmp_path, images):
    root = fill(fill(tmp_path / "c", images()), images(MORE))
    assert zarr.open_group(str(root), mode="r")["sr"].shape[0] == 5


def test_other_identities_and_other_clips_are_refused(tmp_path, images, files_of):
    root = fill(tmp_path / "c", images(targets=("sr", "f_sr")))
    before = files_of(root)
    for wanted, told in (
        (images(("a", "b", "d")), "entries_digest"),
        (images(MORE, ("f_sr",), encoding="float16"), "encoding 'float32', but 'float16'"),
        (images(MORE, compression="zstd"), "compression"),
        (images(MORE, made_by={"teacher": "edvr-m"}), "teacher"),
        (images(MORE, width=136), "width"),
    ):
        with pytest.raises(CacheError, match=told):
            open_writer(root, wanted)
    assert files_of(root) == before


def test_an_image_alone_has_no_encoding_yet(tmp_path, images):
    root = fill(tmp_path / "c", images(encoding="int8"))
    fill(root, images(targets=("f_sr",), encoding="float16"))
    assert open_reader(root).manifest.encoding == "float16"


def test_changed_frames_are_refused(tmp_path, images):
    root = fill(tmp_path / "c", images())
    wanted = images(targets=("f_sr",))
    with open_writer(root, wanted) as writer:
        arrays = values(writer.manifest, "a", writer.lacks("a"))
        with pytest.raises(CacheError, match=r"was made from .*97.*now from .*1"):
            writer.write("a", arrays, {"crc": 1})


@pytest.mark.parametrize("stop_after", [1, 4])
@pytest.mark.parametrize("targets", [("sr",), ("sr", "f_sr")])
def test_while_it_grows_the_finished_part_is_served(
    tmp_path, images, files_of, stop_after, targets
):
    """Stopped anywhere; the same command again ends as an unbroken one."""
    old, new = images(), images(MORE, targets)
    whole = files_of(fill(fill(tmp_path / "whole", old), new))
    root = fill(fill(tmp_path / "c", old), new, stop_after)
    if targets == ("sr",) and stop_after == 4:  # two were missing
        assert files_of(root) == whole
        return
    reader = open_reader(root)
    assert (list(reader.entries), reader.manifest.targets) == (list(FIRST), ("sr",))
    assert all(served(reader, key) for key in FIRST)
    assert verify(root).broken == []
    assert not open_reader(root, allow_incomplete=True).is_complete()
    fill(root, new)
    assert files_of(root) == whole


def test_killed_at_any_step_of_growing(tmp_path, images, files_of, monkeypatch):
    """Dies at each fsync of a growth in turn: what was finished is served, and nothing is lost."""
    old, new = images(), images(MORE, ("sr", "f_sr"))
    start = fill(tmp_path / "start", old)
    whole = files_of(fill(shutil.copytree(start, tmp_path / "whole"), new))
    real = os.fsync
    for step in range(0, 200, 5):
        root, calls = shutil.copytree(start, tmp_path / str(step)), []

        def fsync(fd, calls=calls, step=step):
            calls.append(fd)
            if len(calls) > step:
                raise KeyboardInterrupt
            real(fd)

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", fsync)
            with suppress(KeyboardInterrupt):
                fill(root, new)
        assert all(served(open_reader(root), key) for key in FIRST)
        fill(root, new)
        assert files_of(root) == whole
        if len(calls) <= step:
            return
    pytest.fail("growing has more steps than this test tries")


@pytest.mark.parametrize("lost", ["manifest.1.json", "journal/manifest.1.json"])
def test_a_grown_manifest_is_restored_from_its_copy(tmp_path, images, files_of, lost):
    root = fill(fill(tmp_path / "c", images()), images(MORE))
    whole = files_of(root)
    (root / lost).write_bytes(b"{}")
    assert list(open_reader(root).entries) == list(ALL)
    assert [(b.path, b.is_restorable) for b in verify(root).broken] == [(lost, True)]
    repair(root)
    assert files_of(root) == whole


def test_a_grown_manifest_that_is_lost_takes_nothing_along(tmp_path, images, files_of):
    """Both copies: the first part is served as before, and the same command adds the rest."""
    root = fill(fill(tmp_path / "c", images()), images(MORE))
    whole = files_of(root)
    for name in ("manifest.1.json", "journal/manifest.1.json"):
        (root / name).unlink()
    assert list(open_reader(root).entries) == list(FIRST)
    fill(root, images(MORE))
    assert files_of(root) == whole


def test_a_broken_clip_of_a_grown_cache(tmp_path, images, files_of):
    root = fill(fill(tmp_path / "c", images()), images(MORE, ("sr", "f_sr")))
    whole = data_of(files_of(root))
    (root / "f_sr/c.1.0.0.0.0").unlink()
    assert [one.key for one in verify(root).broken] == ["b"]
    repair(root)
    with pytest.raises(CacheError, match="incomplete"):
        open_reader(root)
    fill(root, images(MORE, ("sr", "f_sr")))
    assert data_of(files_of(root)) == whole
    assert verify(root).broken == []


@pytest.mark.parametrize("version", [2, 3])
def test_swaps_are_found_when_they_are_read(tmp_path, images, version):
    """Whole in themselves: another entry's shard, and two chunks of one shard."""
    made = images(targets=("f_sr", "attention"), format_version=version)
    root = fill(tmp_path / "c", made)
    one, other = (root / f"f_sr/c.{n}.0.0.0.0" for n in (0, 1))
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    with pytest.raises(CacheError, match=r"'a'.*not the file that the journal names"):
        open_reader(root).read("a", "f_sr")
    index = np.frombuffer(kept[-(16 * 4 + 4) : -4], np.uint64).reshape(4, 2).astype(int)
    first, last = (slice(at, at + size) for at, size in (index[0], index[3]))
    swapped = bytearray(kept)
    swapped[first], swapped[last] = kept[last], kept[first]
    one.write_bytes(swapped)
    told = {2: "not the file", 3: "belongs elsewhere"}[version]
    with pytest.raises(CacheError, match=rf"'a'.*{told}"):
        open_reader(root).read("a", "f_sr")
    one.write_bytes(kept)
    assert served(open_reader(root), "a")


def test_a_chunk_that_is_exchanged_between_two_reads(tmp_path, images):
    root = fill(tmp_path / "c", images(targets=("f_sr", "attention"), format_version=2))
    reader = open_reader(root)
    assert served(reader, "a")
    one, other = (root / f"f_sr/c.{n}.0.0.0.0" for n in (0, 1))
    one.write_bytes(other.read_bytes())
    with pytest.raises(CacheError, match=r"'a'.*belongs elsewhere"):
        reader.read("a", "f_sr")


def test_two_parameters_of_a_tail_that_were_exchanged(tmp_path, images):
    made = images(targets=("f_sr",), encoding="trunk-int8")
    tail = {name: np.full(3, value, np.float32) for name, value in (("a", 1), ("b", 2))}
    root = tmp_path / "c"
    with open_writer(root, made, tail=tail) as writer:
        writer.write("a", {"trunk": np.ones(made.arrays["trunk"].shape[1:], np.float32)})
    reader = open_reader(root, allow_incomplete=True)
    assert {name: list(x) for name, x in reader.tail().items()} == {"a": [1] * 3, "b": [2] * 3}
    one, other = (root / f"tail/{name}/c.0" for name in "ab")
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    with pytest.raises(CacheError, match="tail is damaged"):
        reader.tail()
    assert [broken.array for broken in verify(root).broken] == ["tail"]


def test_entries_of_a_manifest_that_were_exchanged(tmp_path, images):
    """Sealed anew, so that no checksum tells: the journal knows each entry's place."""
    root = fill(tmp_path / "c", images())
    for path in ("manifest.json", "journal/manifest.json"):
        (root / path).write_bytes(seal(images(("b", "a", "c")).to_json(), indent=1))
    with pytest.raises(CacheError, match=r"'a'.*does not fit the manifest"):
        open_reader(root).read("a", "sr")


def test_a_journal_of_another_cache(tmp_path, images):
    """The same clips by another teacher: their files fit each other in every other way."""
    ours = fill(tmp_path / "ours", images())
    other = replace(images(), made_by={**images().made_by, "teacher": "another"})
    theirs = fill(tmp_path / "theirs", other)
    for folder in ("journal", "sr"):
        for file in (theirs / folder).iterdir():
            if not file.name.startswith("manifest"):
                (ours / folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CacheError, match=r"'a'.*does not fit the manifest"):
        open_reader(ours).read("a", "sr")
    assert len(verify(ours).broken) == 3


def test_a_part_that_never_was(tmp_path, images):
    root = fill(tmp_path / "c", images())
    reader = open_reader(root, part=Part(9, ("sr", "f_sr")))
    assert reader.manifest.part == Part(3, ("sr",))
