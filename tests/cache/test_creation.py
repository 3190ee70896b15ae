"""Creating a cache: cut short anywhere it is done again, and nobody else's folder is touched."""

import os
import subprocess
import sys
import threading

import pytest

from stdpipe.cache import CacheError, load_manifest, open_place, open_writer, verify
from stdpipe.cache.creation import leftovers


def test_creation_cut_short_anywhere_is_done_again(tmp_path, manifest, files_of, monkeypatch):
    """Dies at every fsync of the creation in turn. Not asserted: what a power cut would leave."""
    open_writer(tmp_path / "whole", manifest).close()
    expected = files_of(tmp_path / "whole")
    for step in range(40):
        root = tmp_path / str(step)
        with monkeypatch.context() as patch:
            died = die_at(patch, step)
            try:
                open_writer(root, manifest).close()
            except KeyboardInterrupt:
                assert died
        open_writer(root, manifest).close()
        assert files_of(root) == expected
        if not died:
            return
    pytest.fail("creation has more steps than this test tries")


def die_at(patch, step):
    """Let the process 'die' at its n-th fsync; the list is filled when it has."""
    real, calls, died = os.fsync, [], []

    def fsync(fd):
        calls.append(fd)
        if len(calls) > step:
            died.append(True)
            raise KeyboardInterrupt
        real(fd)

    patch.setattr("os.fsync", fsync)
    return died


def test_a_lost_manifest_is_put_back_from_its_copy(cache, manifest, files_of):
    whole = files_of(cache)
    for name in ("manifest.json", "journal/manifest.json"):
        (cache / name).unlink()
        open_writer(cache, manifest).close()
        assert files_of(cache) == whole


def test_without_any_manifest_entries_are_not_thrown_away(cache, manifest, files_of):
    (cache / "manifest.json").unlink()
    (cache / "journal" / "manifest.json").unlink()
    before = files_of(cache)
    message = r"holds journal/0.000000.jsonl but no manifest.json: name a new folder"
    with pytest.raises(CacheError, match=message):
        open_writer(cache, manifest)
    assert files_of(cache) == before


def test_a_folder_of_something_else_is_refused(tmp_path, manifest):
    (tmp_path / "photo.png").touch()
    for _ in range(2):
        with pytest.raises(CacheError, match=r"is not a cache, it holds photo.png but no mani"):
            open_writer(tmp_path, manifest)
        (tmp_path / "journal").mkdir(exist_ok=True)
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png", "journal"}


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, manifest):
    (tmp_path / "x").touch()
    for path in (tmp_path / "x", tmp_path / "x" / "c"):
        with pytest.raises(CacheError, match="is not a cache but a file, or lies in one: name a"):
            open_writer(path, manifest)


def test_stale_temporary_files_are_swept_at_the_end(cache, build, manifest, files_of):
    whole = files_of(cache)
    stale = ["complete.json.0f.partial", "f_sr/zarr.json.0f.partial", "journal/0.jsonl.partial"]
    for name in stale:
        (cache / name).write_bytes(b"half")
    assert sorted(leftovers(open_place(cache), load_manifest(cache))) == stale
    build(cache, manifest)
    assert files_of(cache) == whole


def test_temporary_files_are_left_alone_until_then(cache, manifest):
    """They may be a writer's at work."""
    (cache / "f_sr" / "c.3.0.0.0.partial").write_bytes(b"in flight")
    with open_writer(cache, manifest, writer="1"):
        assert leftovers(open_place(cache), load_manifest(cache)) == ["f_sr/c.3.0.0.0.partial"]


def test_writers_that_start_together_make_one_cache(tmp_path, manifest, arrays, files_of):
    """Each commits at once, so that the last to start finds entries where it saw nothing."""
    for attempt in range(25):
        root, errors, barrier = tmp_path / str(attempt), [], threading.Barrier(4)

        def start(number, root=root, errors=errors, barrier=barrier):
            key = manifest.entries[number]
            barrier.wait()
            try:
                with open_writer(root, manifest, writer=f"{number}-of-4") as writer:
                    writer.write(key, arrays(manifest, key))
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=start, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        report = verify(root)
        assert (report.ok, report.broken, report.leftovers) == (4, [], [])


START = """
import sys
from stdpipe.cache import load_manifest, open_writer

manifest = load_manifest(sys.argv[1])
print("ready", flush=True)
for root in sys.stdin:
    open_writer(root.strip(), manifest, writer=sys.argv[2]).close()
    print("started", flush=True)
"""


def test_processes_that_start_together_make_one_cache(cache, tmp_path, files_of):
    """Twelve times four processes that have all imported everything."""
    commands = [[sys.executable, "-c", START, str(cache), f"{n}-of-4"] for n in range(4)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    jobs = [subprocess.Popen(command, **pipes) for command in commands]
    assert [job.stdout.readline() for job in jobs] == ["ready\n"] * 4
    for attempt in range(12):
        for job in jobs:
            job.stdin.write(f"{tmp_path / str(attempt)}\n")
        assert [job.stdout.readline() for job in jobs] == ["started\n"] * 4
        assert load_manifest(tmp_path / str(attempt)) == load_manifest(cache)
        assert files_of(tmp_path / str(attempt)) == files_of(tmp_path / "0")
    for job in jobs:
        job.communicate()
    assert [job.returncode for job in jobs] == [0] * 4


def test_of_two_that_start_with_other_manifests_one_is_refused(tmp_path, make_manifest):
    """Whose manifest is the cache's is settled once; never a mixture."""
    for attempt in range(15):
        root, told, barrier = tmp_path / str(attempt), [], threading.Barrier(2)

        def start(teacher, root=root, told=told, barrier=barrier):
            barrier.wait()
            try:
                open_writer(root, make_manifest(made_by={"teacher": teacher}), teacher).close()
            except CacheError as error:
                told.append(str(error))

        threads = [threading.Thread(target=start, args=(t,)) for t in ("edvr-m", "edvr-l")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (message,) = told
        winner = load_manifest(root).made_by["teacher"]
        assert f"was made by teacher {winner!r}, but" in message
        assert (root / "manifest.json").read_bytes() == (
            root / "journal" / "manifest.json"
        ).read_bytes()


def test_every_other_identity_is_refused(tmp_path, manifest, make_manifest):
    root = tmp_path / "cache.zarr"
    open_writer(root, manifest).close()
    changes = [
        ({"made_by": manifest.made_by | {"teacher": "edvr-m"}}, "teacher 'edvr-l', but 'edvr-m'"),
        ({"made_by": manifest.made_by | {"views": None}}, "views 'full', but None"),
        ({"made_by": manifest.made_by | {"layer": "last"}}, "layer None, but 'last'"),
        ({"made_by": {}}, "teacher 'edvr-l', but None"),
        ({"encoding": "float16"}, "encoding 'float32', but 'float16'"),
        ({"entries": manifest.entries[:3]}, "entries_digest"),
        ({"width": 136}, "width 132, but 136"),
    ]
    for change, message in changes:
        with pytest.raises(CacheError, match=f"was made by {message}.*use another --cache"):
            open_writer(root, make_manifest(**change))


def test_other_notes_resume_and_the_first_stay(tmp_path, make_manifest):
    root = tmp_path / "cache.zarr"
    open_writer(root, make_manifest(notes={"torch": "2.14"})).close()
    with open_writer(root, make_manifest(notes={"torch": "2.15"})) as writer:
        assert writer.manifest.notes == {"torch": "2.14"}


@pytest.mark.parametrize("name", ["zarr.json", "f_sr/zarr.json", "attention/zarr.json"])
def test_missing_metadata_is_put_back(cache, manifest, files_of, name):
    whole = files_of(cache)
    (cache / name).unlink()
    open_writer(cache, manifest).close()
    assert files_of(cache) == whole
