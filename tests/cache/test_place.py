"""The verbs of a place, alike in a folder and in an object store."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from stdpipe.cache import CacheError, open_place
from stdpipe.cache.local import LocalPlace


@pytest.fixture(params=["local", "object"])
def place(request, tmp_path):
    """A place that holds nothing yet."""
    if request.param == "local":
        return open_place(tmp_path / "c.zarr")
    return open_place(request.getfixturevalue("s3"))


def test_a_file_comes_back_whole(place):
    place.write("f_sr/c.0", [b"abc", b"", b"defgh"])
    assert place.read("f_sr/c.0") == b"abcdefgh"
    assert place.size("f_sr/c.0") == 8
    place.write("f_sr/c.0", [b"other"])
    assert place.read("f_sr/c.0") == b"other"
    place.write("empty", [])
    assert (place.read("empty"), place.size("empty")) == (b"", 0)


@pytest.mark.parametrize("path", ["nothing", "f_sr/nothing", "f_sr/c.0/nothing"])
def test_what_is_not_there(place, path):
    place.write("f_sr/c.0", [b"abc"])
    asks = (place.read, place.size, lambda p: list(place.ranges(p, [(0, 1)])))
    for ask in asks[: 3 if path.count("/") < 2 else 1]:
        with pytest.raises(FileNotFoundError) as caught:
            ask(path)
        assert "\n" not in str(caught.value)


def test_many_files_in_order(place):
    paths = [f"journal/{number}" for number in range(30)]
    for path in paths:
        place.write(path, [path.encode()])
    assert list(place.read_all(paths)) == [path.encode() for path in paths]
    assert list(place.read_all(paths[::-3])) == [path.encode() for path in paths[::-3]]
    assert list(place.read_all([])) == []
    with pytest.raises(FileNotFoundError):
        list(place.read_all([*paths, "journal/30"]))


def test_parts_of_a_file(place):
    data = bytes(range(256)) * 40
    place.write("x", [data])
    spans = [(0, 10), (10, 11), (5000, 9000), (len(data) - 7, len(data)), (3, 4)]
    found = [bytes(part) for part in place.ranges("x", spans)]
    assert found == [data[start:stop] for start, stop in spans]


@pytest.mark.parametrize("span", [(8, 11), (10, 11), (50, 60), (0, 11)])
def test_parts_behind_the_end(place, span):
    place.write("x", [bytes(10)])
    with pytest.raises(EOFError, match="ends early"):
        list(place.ranges("x", [(0, 4), span]))


def test_of_many_that_create_one_wins(place):
    for attempt in range(3):
        path, barrier = f"journal/{attempt}.json", threading.Barrier(8)

        def create(number, path=path, barrier=barrier):
            barrier.wait()
            return place.create(path, b"%d" % number)

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(create, range(8)))
        assert won.count(True) == 1
        assert place.read(path) == b"%d" % won.index(True)
        assert not place.create(path, b"late")
    assert place.names("journal") == ["0.json", "1.json", "2.json"]


def test_extending(place):
    place.write("journal/manifest.json", [b"{}"])
    content = b""
    for line in (b"one\n", b"two\n", b"three\n"):
        place.extend("journal/0.jsonl", content, line)
        content += line
        assert place.read("journal/0.jsonl") == content


def test_names_and_deletion(place):
    assert place.names() == place.names("f_sr") == []
    for path in ("manifest.json", "f_sr/c.10.0", "f_sr/c.2.0", "f_sr/zarr.json", "tail/a/c.0"):
        place.write(path, [b"x"])
    assert place.names() == ["f_sr", "manifest.json", "tail"]
    assert place.names("f_sr") == ["c.10.0", "c.2.0", "zarr.json"]
    assert place.names("tail") == ["a"]
    assert place.names("manifest.json") == place.names("f_s") == []
    place.delete(["f_sr/c.2.0", "f_sr/c.3.0", "manifest.json"])
    assert place.names("f_sr") == ["c.10.0", "zarr.json"]
    assert "manifest.json" not in place.names()
    place.delete([])


@pytest.mark.slow
def test_more_names_than_a_store_lists_at_once(place):
    """S3 lists a thousand."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: place.write(f"f_sr/c.{n}", [b"xy"]), range(1005)))
    assert place.names("f_sr") == sorted(f"c.{n}" for n in range(1005))


def test_what_writers_leave_over(place):
    """An object appears whole or not at all."""
    place.write("f_sr/c.1", [b"x"])
    if not isinstance(place, LocalPlace):
        assert place.leftovers(["", "f_sr"]) == []
        return
    for name in ("f_sr/c.0.partial", "x.partial"):
        (place.root / name).touch()
    assert place.leftovers(["", "f_sr", "nowhere"]) == ["x.partial", "f_sr/c.0.partial"]


def test_a_lock_is_held_once(place):
    lock = place.lock("journal/0.lock")
    other = place.lock("journal/1.lock")
    assert lock is not None
    assert other is not None
    assert place.lock("journal/0.lock") is None
    lock.check()
    assert place.held(["journal/0.lock", "journal/2.lock"]) == ["journal/0.lock"]
    lock.release()
    lock.release()
    assert place.held(["journal/0.lock", "journal/1.lock"]) == ["journal/1.lock"]
    again = place.lock("journal/0.lock")
    assert again is not None
    again.release()
    other.release()


def test_of_many_that_lock_one_gets_it(place):
    barrier = threading.Barrier(6)

    def lock(_):
        barrier.wait()
        return place.lock("journal/0.lock")

    with ThreadPoolExecutor(6) as pool:
        locks = [lock for lock in pool.map(lock, range(6)) if lock is not None]
    assert len(locks) == 1
    locks[0].release()


def test_a_pickled_place_is_the_same(place):
    place.write("x", [b"abc"])
    again = pickle.loads(pickle.dumps(place))
    assert (again.url, again.read("x")) == (place.url, b"abc")


def test_free_space(place):
    assert (place.free_bytes() is None) == (not isinstance(place, LocalPlace))


def test_urls(tmp_path):
    assert open_place(f"file://{tmp_path}").url == str(tmp_path)
    assert open_place("a/b").url == "a/b"
    with pytest.raises(CacheError, match="a file URL reads file:///absolute/path"):
        open_place("file://host/x")


@pytest.mark.parametrize("url", ["s4://bucket/x", "s3:///x", "ftp://host/x", "://x"])
def test_urls_that_nobody_knows(url):
    pytest.importorskip("obstore")
    with pytest.raises(CacheError, match=f"cache '{url}': ") as caught:
        open_place(url)
    assert "\n" not in str(caught.value)


def test_without_the_library_for_object_stores(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    message = r"needs obstore: pip install 'stdpipe\[objects\]'"
    with pytest.raises(CacheError, match=message):
        open_place("s3://bucket/x")
