"""Creating a cache: cut short anywhere it is done again, and nobody else's folder is touched."""

import os
import shutil
import threading

import pytest

from stdpipe.cache import CacheError, open_writer
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
    raise AssertionError("creation has more steps than this test tries")


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


def test_without_a_manifest_entries_are_not_thrown_away(cache, manifest, files_of):
    (cache / "manifest.json").unlink()
    (cache / "complete.json").unlink()
    before = files_of(cache)
    with pytest.raises(CacheError, match=r"but no manifest.json: restore that"):
        open_writer(cache, manifest)
    assert files_of(cache) == before


def test_a_folder_of_something_else_is_refused(tmp_path, manifest):
    (tmp_path / "photo.png").touch()
    with pytest.raises(CacheError, match="is not a cache and not empty"):
        open_writer(tmp_path, manifest)
    (tmp_path / "journal").mkdir()
    with pytest.raises(CacheError, match=r"it holds photo.png: name another folder"):
        open_writer(tmp_path, manifest)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, manifest):
    (tmp_path / "x").touch()
    with pytest.raises(CacheError, match="is not a cache and not empty"):
        open_writer(tmp_path / "x", manifest)


def test_stale_temporary_files_are_swept_when_nobody_else_writes(cache, manifest, files_of):
    whole = files_of(cache)
    stale = ["f_sr/c.1.0.0.0.abc.partial", "journal/0.jsonl.partial", "complete.json.partial"]
    for name in stale:
        (cache / name).write_bytes(b"half")
    assert [str(path.relative_to(cache)) for path in leftovers(cache)] == sorted(stale)
    with open_writer(cache, manifest, writer="0"):
        assert files_of(cache) == whole


def test_temporary_files_of_a_writer_at_work_are_left_alone(cache, manifest):
    with open_writer(cache, manifest, writer="0"):
        (cache / "f_sr" / "c.3.0.0.0.abc.partial").write_bytes(b"in flight")
        with open_writer(cache, manifest, writer="1"):
            assert leftovers(cache)


def test_writers_that_start_together_make_one_cache(tmp_path, manifest):
    for attempt in range(5):
        root, writers, errors = tmp_path / str(attempt), [], []

        def start(name, root=root, writers=writers, errors=errors):
            try:
                writers.append(open_writer(root, manifest, writer=name))
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=start, args=(str(n),)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for writer in writers:
            writer.close()
        assert not errors
        assert len(writers) == 4


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
        ({"width": 76}, "width 72, but 76"),
        ({"targets": ("attention",)}, "targets"),
    ]
    for change, message in changes:
        with pytest.raises(CacheError, match=f"was made by {message}.*use another --cache"):
            open_writer(root, make_manifest(**change))


def test_other_notes_resume_and_the_first_stay(tmp_path, make_manifest):
    root = tmp_path / "cache.zarr"
    open_writer(root, make_manifest(notes={"torch": "2.14"})).close()
    with open_writer(root, make_manifest(notes={"torch": "2.15"})) as writer:
        assert writer.manifest.notes == {"torch": "2.14"}


def test_a_missing_array_is_refused_in_one_line(cache, manifest):
    shutil.rmtree(cache / "f_sr")
    with pytest.raises(CacheError, match=r"f_sr/zarr.json is damaged") as caught:
        open_writer(cache, manifest)
    assert "\n" not in str(caught.value)
