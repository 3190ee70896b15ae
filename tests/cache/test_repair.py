"""repair: what is broken goes, what is whole stays, and the same extraction fills it again."""

import shutil
import threading

import numpy as np
import pytest

from stdpipe.cache import CacheError, open_reader, open_writer, repair, verify
from stdpipe.cache.local import LocalPlace

TAIL = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)}


@pytest.fixture
def manifest(make_manifest):
    """A trunk in int8: every kind of file that there is."""
    return make_manifest(encoding="trunk-int8")


@pytest.fixture
def fill(manifest, arrays):
    """Write what is missing, and finish."""

    def run(root):
        with open_writer(root, manifest, tail=TAIL) as writer:
            for key in writer.missing():
                writer.write(key, arrays(manifest, key), {"source_crc32": len(key)})
            writer.finalise()
        return root

    return run


@pytest.fixture
def cache(tmp_path, fill):
    """A complete cache."""
    return fill(tmp_path / "c")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def lose(path):
    path.unlink()


FILES = [
    "trunk/c.1.0.0.0.0",
    "trunk_scale/c.1.0.0",
    "attention/c.3.0.0.0",
    "journal/0.000000.jsonl",
    "journal/manifest.json",
    "manifest.json",
    "complete.json",
    "zarr.json",
    "trunk/zarr.json",
    "tail/zarr.json",
    "tail/b/zarr.json",
    "tail/b/c.0",
]


def in_any_order(files):
    """The same with the lines of each journal file sorted: what is filled again comes last."""
    journals = {p: b"".join(sorted(d.splitlines(True))) for p, d in files.items() if "jsonl" in p}
    return files | journals


@pytest.mark.parametrize("damage", [flip, cut, lose])
@pytest.mark.parametrize("file", FILES)
def test_any_file_is_made_whole(cache, fill, files_of, file, damage):
    whole = files_of(cache)
    damage(cache / file)
    found = repair(cache)
    assert len(found.broken) >= 1 or (file, damage) == ("complete.json", lose)
    left = files_of(cache)
    for path, content in left.items():  # nothing whole is touched, nothing is made up
        assert content == whole[path] or path.endswith(".jsonl")
    assert verify(cache).broken == [] or file.startswith(("trunk/z", "tail", "zarr", "attention/z"))
    assert in_any_order(files_of(fill(cache))) == in_any_order(whole)
    report = repair(cache)
    assert (report.ok, report.broken) == (4, [])


def test_many_breaks_at_once(cache, fill, files_of):
    whole = files_of(cache)
    for file, damage in zip(FILES, [flip, cut, lose] * 4, strict=True):
        if file != "manifest.json":  # its copy is broken
            damage(cache / file)
    repair(cache)
    assert in_any_order(files_of(fill(cache))) == in_any_order(whole)


def test_what_repair_drops_is_no_longer_served(cache, manifest, arrays):
    """Incomplete, and it says so; the rest is served as before."""
    cut(cache / "trunk" / "c.1.0.0.0.0")
    (broken,) = repair(cache).broken
    assert (broken.key, broken.array) == (manifest.entries[1], "trunk")
    assert not list(cache.glob("*/c.1.*"))
    with pytest.raises(CacheError, match=r"incomplete \(3 of 4 entries committed\)"):
        open_reader(cache)
    reader = open_reader(cache, allow_incomplete=True)
    assert list(reader.entries) == [manifest.entries[i] for i in (0, 2, 3)]
    key = manifest.entries[2]
    stored = arrays(manifest, key)["attention"].astype(np.float16)
    assert (reader.read(key, "attention") == stored).all()


def test_a_whole_cache_is_left_as_it_is(cache, files_of):
    whole = files_of(cache)
    assert repair(cache).ok == 4
    assert files_of(cache) == whole


def test_leftovers_go(cache, files_of):
    whole = files_of(cache)
    for name in ("trunk/c.9.partial", "tail/b/c.0.0f.partial", "tail/0f.partial"):
        (cache / name).touch()
    assert len(repair(cache).leftovers) == 3
    assert files_of(cache) == whole


@pytest.mark.parametrize("is_broken", [True, False])
def test_refused_while_a_writer_is_at_work(cache, manifest, is_broken):
    """Even where nothing is broken: a temporary file may be in flight."""
    partial = cache / "trunk" / "c.2.0.0.0.0.partial"
    partial.write_bytes(b"in flight")
    if is_broken:
        cut(cache / "trunk" / "c.1.0.0.0.0")
    with (
        open_writer(cache, manifest, "other", TAIL),
        pytest.raises(CacheError, match=r"writer 'other' is at work on .*: wait, or stop it"),
    ):
        repair(cache)
    assert partial.exists()
    repair(cache)
    assert not partial.exists()


@pytest.mark.parametrize("where", ["local", "s3"])
def test_no_writer_begins_while_repair_works(tmp_path, request, manifest, fill, files_of, where):
    """Not even one whose name the cache has not seen yet, nor a second repair."""
    root = request.getfixturevalue("s3") if where == "s3" else tmp_path / "c"
    fill(root)
    told = []

    def start(done, total):
        for begin in (lambda: open_writer(root, manifest, "new", TAIL), lambda: repair(root)):
            if done == 1:
                with pytest.raises(CacheError) as error:
                    begin()
                told.append(str(error.value))

    assert repair(root, start).ok == 4
    assert told == [
        f"'stdpipe cache repair' is at work on {root}: wait until it is done, and run the same "
        "command again",
        f"another repair is at work on {root}: wait, or stop it",
    ]
    open_writer(root, manifest, "new", TAIL).close()


def test_a_writer_and_a_repair_that_start_together(cache, manifest, monkeypatch):
    """The writer has its lock, but has not looked for a repair yet: at least one is refused."""
    names = LocalPlace.names

    def late(self, folder=""):
        if folder == "journal" and threading.current_thread() is starting:
            has_lock.set()
            assert repaired.wait(20)
        return names(self, folder)

    has_lock, repaired = threading.Event(), threading.Event()
    opened = []

    def begin():
        opened.append(open_writer(cache, manifest, "new", TAIL))

    starting = threading.Thread(target=begin)
    cut(cache / "trunk" / "c.1.0.0.0.0")
    with monkeypatch.context() as patch:
        patch.setattr("stdpipe.cache.writer.enter", lambda place, made: None)
        patch.setattr(LocalPlace, "names", late)
        starting.start()
        assert has_lock.wait(20)
        with pytest.raises(CacheError, match="writer 'new' is at work"):
            repair(cache)
        repaired.set()
        starting.join()
    opened[0].close()


def test_a_crash_leaves_a_cache_that_is_incomplete_but_never_wrong(
    tmp_path, cache, fill, manifest, files_of, monkeypatch
):
    """Dies before each thing that repair writes or deletes, in turn."""
    whole = files_of(cache)
    for damage, file in ((cut, FILES[0]), (flip, FILES[3]), (lose, FILES[5]), (flip, FILES[11])):
        damage(cache / file)
    truth = {key: served(open_reader(fill(tmp_path / "t")), key) for key in manifest.entries}
    for step in range(30):
        root = tmp_path / str(step)
        shutil.copytree(cache, root)
        with monkeypatch.context() as patch:
            died = die_at(patch, step)
            try:
                repair(root)
            except KeyboardInterrupt:
                assert died
        check_survivor(root, truth)
        repair(root)
        assert in_any_order(files_of(fill(root))) == in_any_order(whole)
        if not died:
            assert step > 6
            return
    pytest.fail("repair has more steps than this test tries")


def die_at(patch, step):
    """Let the process 'die' before its n-th change of the cache; the list is filled when it has."""
    changes, died = [], []

    def dying(real):
        def change(self, what, *more):
            for one in [what] if isinstance(what, str) else list(what):
                changes.append(one)
                if len(changes) > step:
                    died.append(True)
                    raise KeyboardInterrupt
                real(self, one if isinstance(what, str) else [one], *more)

        return change

    for verb in ("write", "create", "delete"):
        patch.setattr(LocalPlace, verb, dying(getattr(LocalPlace, verb)))
    return died


def check_survivor(root, truth):
    """Whatever is committed is either served rightly or refused; complete means all of it."""
    reader = open_reader(root, allow_incomplete=True)
    found = {key: served(reader, key) for key in reader.entries}
    assert all(value in (truth[key], None) for key, value in found.items())
    if reader.is_complete():
        assert len(found) == 4


def served(reader, key):
    try:
        parts = reader.read(key, "trunk"), reader.scale(key, "trunk"), reader.read(key, "attention")
    except CacheError:
        return None
    return b"".join(part.tobytes() for part in parts)
