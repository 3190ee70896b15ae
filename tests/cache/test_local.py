"""What only a folder does: durability, locks, temporary files. Place's verbs: test_place.py."""

import errno
import fcntl
import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from stdpipe.cache.files import is_full
from stdpipe.cache.local import LocalPlace


@pytest.fixture
def place(tmp_path):
    """A folder that is not there yet."""
    return LocalPlace(tmp_path / "c")


def files(place):
    return sorted(str(p.relative_to(place.root)) for p in place.root.rglob("*") if p.is_file())


def test_a_write_is_synced_before_it_gets_its_name_and_its_name_after(place, monkeypatch):
    place.write("f_sr/x", [b"old"])
    events = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(fd):
        events.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")  # noqa: PTH112
        real_sync(fd)

    def replace(self, target):
        events.append("name")
        return real_replace(self, target)

    monkeypatch.setattr("os.fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    place.write("f_sr/x", [b"new"])
    assert events == ["file", "name", "folder"]
    assert place.read("f_sr/x") == b"new"


@pytest.mark.parametrize("verb", ["write", "create"])
def test_what_fails_leaves_the_old_and_no_temporary_file(place, monkeypatch, verb):
    place.write("x", [b"old"])
    path = {"write": "x", "create": "y"}[verb]

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            getattr(place, verb)(path, [b"new"] if verb == "write" else b"new")
    assert files(place) == ["x"]
    assert place.read("x") == b"old"


def test_a_write_that_cannot_be_renamed_leaves_no_temporary_file(place):
    (place.root / "x").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        place.write("x", [b"new"])
    assert files(place) == []


def test_a_link_in_place_of_the_temporary_file_is_not_followed(place, tmp_path):
    (tmp_path / "mine").write_text("mine")
    place.root.mkdir()
    (place.root / "x.partial").symlink_to(tmp_path / "mine")
    place.write("x", [b"new"])
    assert (place.read("x"), (tmp_path / "mine").read_text()) == (b"new", "mine")
    assert not (place.root / "x").is_symlink()


def test_threads_that_create_do_not_share_a_temporary_file(place):
    """Were it named by the process, one could empty what another has just put in place."""
    for attempt in range(30):
        won, barrier = [], threading.Barrier(6)

        def create(number, attempt=attempt, won=won, barrier=barrier):
            data = bytes([number]) * 20_000
            barrier.wait()
            if place.create(str(attempt), data):
                won.append(data)

        threads = [threading.Thread(target=create, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [place.read(str(attempt))]
    assert len(files(place)) == 30


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_create_where_the_file_system_has_no_links(place, monkeypatch, error):
    def link(*args):
        raise OSError(error, "no links here")

    monkeypatch.setattr("os.link", link)
    assert place.create("x", b"first")
    assert not place.create("x", b"second")
    assert (files(place), place.read("x")) == (["x"], b"first")


def test_other_errors_of_a_link_are_told(place, monkeypatch):
    def link(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.link", link)
    with pytest.raises(OSError, match="Input/output"):
        place.create("x", b"first")
    assert files(place) == []


def test_a_creator_whose_temporary_file_was_swept(place, monkeypatch):
    """finalise() sweeps while another writer still tries to create what is there by now."""
    real = os.link

    def link(source, target):
        real(source, target)
        Path(source).unlink()
        real(source, target)

    monkeypatch.setattr("os.link", link)
    assert not place.create("x", b"other")


def test_a_lock_is_let_go_by_the_kernel(place):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    job = context.Process(target=_hold, args=(place, ready))
    job.start()
    assert ready.wait(120)
    assert place.lock("a.lock") is None
    assert place.held(["a.lock", "b.lock"]) == ["a.lock"]
    job.kill()
    job.join(30)
    assert place.held(["a.lock"]) == []
    lock = place.lock("a.lock")
    assert lock is not None
    lock.release()


def _hold(place, ready):
    _lock = place.lock("a.lock")
    ready.set()
    threading.Event().wait(60)


def test_many_may_look_at_a_lock_at_once(place):
    """A look must not pass for a holder: else parts that start together refuse each other."""
    lock = place.lock("a.lock")
    lock.release()
    seen, barrier = [], threading.Barrier(6)

    def look():
        barrier.wait()
        for _ in range(200):
            seen.extend(place.held(["a.lock"]))

    threads = [threading.Thread(target=look) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == []


def test_a_lock_that_is_only_looked_at_can_be_had(place):
    place.write("a.lock", [b""])
    fd = os.open(place.root / "a.lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_SH)
    threading.Timer(0.05, os.close, [fd]).start()
    lock = place.lock("a.lock")
    assert lock is not None
    lock.release()


def test_free_bytes_of_a_folder_to_be(place):
    assert place.free_bytes() > 0


def test_which_errors_mean_a_full_disk():
    assert all(is_full(OSError(code, "")) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
    assert not is_full(OSError(errno.EIO, ""))


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(place, monkeypatch, code):
    """A file names the holder there; any other error is told as it is."""

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    lock = place.lock("journal/0.lock")
    assert lock is not None
    assert place.lock("journal/0.lock") is None
    assert place.held(["journal/0.lock", "journal/1.lock"]) == ["journal/0.lock"]
    lock.release()
    assert place.held(["journal/0.lock"]) == []
    code = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        place.lock("journal/0.lock")


def test_what_is_deleted_stays_so(place, monkeypatch):
    """Each folder's names are synced after the last of its files is gone; once."""
    place.write("a/x", [b"x"])
    place.write("a/y", [b"y"])
    place.write("z", [b"z"])
    synced = []
    monkeypatch.setattr(
        "stdpipe.cache.local.fsync",
        lambda path: synced.append((path, [p.name for p in path.iterdir()])),
    )
    place.delete(["a/x", "z", "a/y", "a/none", "nowhere/z"])
    assert sorted(synced) == [(place.root, ["a"]), (place.root / "a", [])]
