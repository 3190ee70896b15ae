"""verify: every damage is named with its entry, and read never serves it."""

import json
import random
import time
from importlib import import_module

import pytest

from stdpipe.cache import CacheError, open_reader, open_writer, repair, verify

MODULE = import_module("stdpipe.cache.verify")  # the package's `verify` is the function


@pytest.fixture
def targets(cache, manifest):
    """(key, array, file) of every stored shard."""
    return [
        (key, name, cache / spec.file(index))
        for key, index in manifest.index.items()
        for name, spec in manifest.arrays.items()
    ]


def test_a_whole_cache(cache):
    seen = []
    report = verify(cache, progress=lambda done, total: seen.append((done, total)))
    assert (report.ok, report.broken, report.uncommitted, report.leftovers) == (4, [], [], [])
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def flip(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def check_damage(cache, key, name, path, damaged):
    """verify names exactly this entry and array; read refuses: no byte is without a checksum."""
    whole = path.read_bytes()
    path.write_bytes(damaged)
    broken = verify(cache).broken
    assert [(found.key, found.array) for found in broken] == [(key, name)]
    with pytest.raises(CacheError, match=f"'{key}'.* its {name} is damaged"):
        open_reader(cache).read(key, name)
    path.write_bytes(whole)


def test_random_flipped_bits_of_data(cache, targets):
    rng = random.Random(0)
    for _ in range(60):
        key, name, path = rng.choice(targets)
        data = path.read_bytes()
        damaged = flip(data, rng.randrange(len(data) * 8))
        check_damage(cache, key, name, path, damaged)


def test_random_cuts_of_data(cache, targets):
    rng = random.Random(1)
    for _ in range(20):
        key, name, path = rng.choice(targets)
        data = path.read_bytes()
        damaged = data[: rng.randrange(len(data))]
        check_damage(cache, key, name, path, damaged)


def test_another_entrys_shard(cache, manifest, targets):
    """Its own checksums fit, so only the journal tells. Not asserted: that read() notices."""
    (key, name, path), (*_, other) = targets[0], targets[2]
    assert path.stat().st_size == other.stat().st_size
    path.write_bytes(other.read_bytes())
    (broken,) = verify(cache).broken
    assert (broken.key, broken.array) == (key, name)
    assert broken.reason == "its file's checksum differs from the journal's"


def test_random_flipped_bits_of_the_journal(cache, manifest):
    path = cache / "journal" / "0.000000.jsonl"
    whole, rng = path.read_bytes(), random.Random(2)
    for _ in range(60):
        bit = rng.randrange(len(whole) * 8)
        line = whole[: bit // 8].count(b"\n")
        path.write_bytes(flip(whole, bit))
        report = verify(cache)
        assert manifest.entries[line] in report.uncommitted
        assert {manifest.entries[line]} <= {found.key for found in report.broken}
        assert report.ok == 4 - len(report.uncommitted)
        with pytest.raises(CacheError, match="run the same extract-teacher command again"):
            open_reader(cache)


def test_random_cuts_of_the_journal(cache, manifest):
    path = cache / "journal" / "0.000000.jsonl"
    whole, rng = path.read_bytes(), random.Random(3)
    for _ in range(20):
        size = rng.randrange(len(whole))
        path.write_bytes(whole[:size])
        left = whole[:size].count(b"\n")
        report = verify(cache)
        assert report.ok == left
        assert report.uncommitted == list(manifest.entries[left:])
        assert [found.key for found in report.broken] == report.uncommitted


def test_missing_files(cache, targets):
    key, name, path = targets[3]
    path.unlink()
    assert [(b.key, b.array, b.reason) for b in verify(cache).broken] == [
        (key, name, "its file is missing")
    ]


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "journal/manifest.json",
        "zarr.json",
        "f_sr/zarr.json",
        "attention/zarr.json",
        "complete.json",
    ],
)
def test_every_other_file_is_checked_too(cache, name):
    """Damaged or lost; a cache without its end mark is no broken one, but an unfinished one."""
    file = cache / name
    text = file.read_bytes()
    file.write_bytes(flip(text, 8 * (len(text) // 2)))
    report = verify(cache)
    assert [(b.key, b.array, b.path) for b in report.broken] == [("", "metadata", name)]
    assert report.ok == 4
    file.unlink()
    assert [b.path for b in verify(cache).broken] == [name] * (name != "complete.json")


def test_metadata_of_another_zarr_is_no_damage(cache):
    """What says the same in other words, and more."""
    file = cache / "f_sr" / "zarr.json"
    content = json.loads(file.read_bytes())
    file.write_text(json.dumps({**content, "dimension_names": None, "future": 1}, sort_keys=True))
    assert verify(cache).broken == []


def test_an_unfinished_cache_is_not_broken(tmp_path, manifest, arrays):
    key = manifest.entries[0]
    with open_writer(tmp_path / "c", manifest) as writer:
        writer.write(key, arrays(manifest, key))
    report = verify(tmp_path / "c")
    assert (report.ok, report.broken, report.uncommitted) == (1, [], list(manifest.entries[1:]))


def test_a_cache_that_is_but_half_created_is_not_broken(tmp_path, manifest, arrays):
    writer = open_writer(tmp_path / "c", manifest)
    (tmp_path / "c" / "f_sr" / "zarr.json").unlink()
    (tmp_path / "c" / "journal" / "manifest.json").unlink()
    assert verify(tmp_path / "c").broken == []
    writer.write(manifest.entries[0], arrays(manifest, manifest.entries[0]))
    writer.close()
    broken = verify(tmp_path / "c").broken
    assert [b.path for b in broken] == ["journal/manifest.json", "f_sr/zarr.json"]


def test_a_cache_that_is_finished_meanwhile_is_not_broken(tmp_path, manifest, arrays, build):
    """Its lines were read before the last were written."""
    root = tmp_path / "c"
    with open_writer(root, manifest) as writer:
        writer.write(manifest.entries[0], arrays(manifest, manifest.entries[0]))
    report = verify(root, lambda done, total: build(root, manifest) if done == 1 else None)
    assert (report.ok, report.broken) == (1, [])
    assert verify(root).ok == 4


def test_leftovers_are_named(cache):
    (cache / "attention" / "c.1.0.0.0123.partial").touch()
    report = verify(cache)
    assert (report.ok, report.leftovers) == (4, ["attention/c.1.0.0.0123.partial"])


def test_no_cache_or_no_manifest(tmp_path, cache):
    with pytest.raises(CacheError, match="is not a cache"):
        verify(tmp_path / "nowhere")
    for name in ("manifest.json", "journal/manifest.json"):
        (cache / name).write_text("{")
    with pytest.raises(CacheError, match=r"both manifest.json and .* are damaged"):
        verify(cache)


# a check that is stopped goes on


class StoppedError(Exception):
    """As Ctrl-C between two entries."""


@pytest.fixture
def stop(cache, monkeypatch):
    """stop(count): check that many entries, noting each, and die."""
    monkeypatch.setattr(MODULE, "NOTE_SECONDS", -1.0)

    def run(count):
        def progress(done, total):
            if done == count:
                raise StoppedError

        with pytest.raises(StoppedError):
            verify(cache, progress)
        assert (cache / "journal" / "verified.json").exists()

    return run


@pytest.fixture
def checked(monkeypatch):
    """Keys whose f_sr is checked, as they are."""
    keys, real = [], MODULE._check_array

    def check(place, manifest, commit, name):
        keys.extend([commit.key] * (name == "f_sr"))
        return real(place, manifest, commit, name)

    monkeypatch.setattr(MODULE, "_check_array", check)
    return keys


def test_a_stopped_check_goes_on_and_remembers(cache, manifest, targets, stop, checked, files_of):
    key, name, path = targets[0]
    path.unlink()
    before = files_of(cache)
    stop(2)
    checked.clear()
    report = verify(cache)
    assert checked == list(manifest.entries[2:])
    assert (report.ok, [(b.key, b.array) for b in report.broken]) == (3, [(key, name)])
    assert files_of(cache) == before  # its note is gone
    checked.clear()
    assert verify(cache).ok == 3
    assert checked == list(manifest.entries)


def test_a_report_says_that_it_went_on(cache, stop, checked, manifest):
    """Also after a second stop; from the start where it is asked to, as repair asks."""
    stop(2)
    note = json.loads((cache / "journal" / "verified.json").read_bytes())
    stop(3)
    report = verify(cache)
    assert (report.went_on_at, report.first_checked) == (3, note["first_checked"])
    for start_afresh in (lambda: verify(cache, fresh=True), lambda: repair(cache)):
        stop(2)
        checked.clear()
        report = start_afresh()
        assert checked == list(manifest.entries)
        assert (report.ok, report.went_on_at) == (4, 0)


def test_a_torn_line_of_an_unfinished_cache_is_named_and_repaired(tmp_path, manifest, arrays):
    root, key = tmp_path / "c", manifest.entries[0]
    with open_writer(root, manifest) as writer:
        writer.write(key, arrays(manifest, key))
    journal = root / "journal" / "0.000000.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole[:20])
    for check in (verify, repair):
        report = check(root)
        assert (report.ok, report.broken) == (1, [])
        assert report.torn == ["journal/0.000000.jsonl"]
    assert journal.read_bytes() == whole
    assert verify(root).torn == []


def test_a_note_about_other_commits_counts_for_nothing(
    cache, manifest, stop, checked, arrays, targets
):
    """The same entry written anew: as many commits as before, but others."""
    stop(3)
    journal = cache / "journal" / "0.000000.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[1:]))
    with open_writer(cache, manifest) as writer:
        writer.write(manifest.entries[0], arrays(manifest, manifest.entries[1]))
        writer.finalise()
    checked.clear()
    assert verify(cache).ok == 4
    assert checked == list(manifest.entries)


@pytest.mark.parametrize("hours", [-1, 25])
def test_a_note_of_another_day_counts_for_nothing(
    cache, manifest, stop, checked, monkeypatch, hours
):
    """Else a check that was stopped in spring would vouch for half the bytes in autumn."""
    stop(3)
    now = time.time() + hours * 3600
    monkeypatch.setattr("time.time", lambda: now)
    checked.clear()
    assert verify(cache).ok == 4
    assert checked == list(manifest.entries)


@pytest.mark.parametrize("damage", [lambda text: text[:-9], lambda text: text.replace(b"2", b"3")])
def test_a_damaged_note_counts_for_nothing(cache, manifest, stop, checked, damage):
    stop(2)
    note = cache / "journal" / "verified.json"
    note.write_bytes(damage(note.read_bytes()))
    checked.clear()
    assert verify(cache).ok == 4
    assert checked == list(manifest.entries)


def test_a_cache_that_cannot_be_written_is_checked_all_the_same(cache, monkeypatch):
    def read_only(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(MODULE, "NOTE_SECONDS", -1.0)
    monkeypatch.setattr("stdpipe.cache.local.LocalPlace.write", read_only)
    monkeypatch.setattr("stdpipe.cache.local.LocalPlace.delete", read_only)
    assert verify(cache).ok == 4
