"""What only an object store does: leases, lost answers, retries, and what requests a crop costs.

A real S3 API on loopback (moto), with a proxy that fails, delays and counts. Not asserted: what a
store does that keeps neither If-None-Match nor If-Match, since none was at hand.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import threading

import pytest

from stdpipe.cache import (
    CacheError,
    objects,
    open_place,
    open_reader,
    open_writer,
    repair,
    verify,
)


def stop_renewing(lease):
    """As if its process had been stopped: the thread ends, the object stays."""
    lease._stop.set()
    lease._thread.join()


# writers


def commit(writer, arrays, *numbers):
    for number in numbers:
        key = writer.manifest.entries[number]
        writer.write(key, arrays(writer.manifest, key), {"source_crc32": len(key)})


def fill(url, manifest, arrays):
    with open_writer(url, manifest) as writer:
        commit(writer, arrays, *(manifest.index[key] for key in writer.missing()))
        writer.finalise()


def contents(place, folder=""):
    """Every object but locks, by path."""
    found = {}
    for name in place.names(folder):
        path = f"{folder}/{name}".lstrip("/")
        below = contents(place, path)
        found |= below or ({} if name.endswith(".lock") else {path: place.read(path)})
    return found


def test_the_same_bytes_as_in_a_folder(s3, place, cache, manifest, arrays, files_of):
    fill(s3, manifest, arrays)
    assert contents(place) == files_of(cache)
    report = verify(s3)
    assert (report.ok, report.broken, report.leftovers) == (4, [], [])
    reader = open_reader(s3)
    key = manifest.entries[2]
    wanted = arrays(manifest, key)["f_sr"][..., 3:9, 40:100]
    assert (reader.read(key, "f_sr", y=3, x=40, h=6, w=60) == wanted).all()


def test_a_second_writer_is_refused_while_the_first_renews(s3, manifest, arrays):
    with open_writer(s3, manifest) as writer:
        with pytest.raises(CacheError, match=f"writer '0' is already at work on {s3}: wait, or"):
            open_writer(s3, manifest)
        with open_writer(s3, manifest, "1") as other:
            commit(other, arrays, 1)
        commit(writer, arrays, 0)
        with pytest.raises(CacheError, match="writer '0' is at work"):
            repair(s3)
    assert verify(s3).ok == 2


def test_a_writer_that_lost_its_lease_commits_nothing(s3, manifest, arrays, cache, files_of):
    slow = open_writer(s3, manifest)
    commit(slow, arrays, 0)
    stop_renewing(slow._lock)
    with open_writer(s3, manifest) as writer:
        commit(writer, arrays, 1)
        with pytest.raises(CacheError, match="lost the lock"):
            commit(slow, arrays, 2)
        slow.close()
        commit(writer, arrays, 2, 3)
        writer.finalise()
    assert contents(open_place(s3)) == files_of(cache)


def test_a_writer_that_stalls_between_its_check_and_its_line(s3, manifest, arrays, cache, files_of):
    """The journal is written whole, so a late line could undo all that the next one committed."""
    slow = open_writer(s3, manifest)
    commit(slow, arrays, 0)
    stop_renewing(slow._lock)
    slow._lock.check = lambda: None
    with open_writer(s3, manifest) as writer:
        commit(writer, arrays, 1)
        with pytest.raises(CacheError, match=r"jsonl was changed by another writer: run the same"):
            commit(slow, arrays, 2)
        commit(writer, arrays, 2, 3)
        writer.finalise()
    slow.close()
    assert contents(open_place(s3)) == files_of(cache)


def test_shares_of_another_number_are_refused_and_dead_ones_are_not(s3, manifest):
    first = open_writer(s3, manifest, "0-of-2")
    with pytest.raises(CacheError, match=r"'0-of-2' is at work .* overlaps that of '0-of-3'"):
        open_writer(s3, manifest, "0-of-3")
    stop_renewing(first._lock)
    open_writer(s3, manifest, "0-of-3").close()


def test_repair_of_a_cache_in_an_object_store(s3, place, manifest, arrays, cache, files_of):
    fill(s3, manifest, arrays)
    path = manifest.arrays["f_sr"].file(1)
    place.write(path, [place.read(path)[:-100]])
    place.write("complete.json", [b"{}"])
    place.delete(["manifest.json", "attention/zarr.json"])
    broken = {(b.key, b.array, b.path) for b in repair(s3).broken}
    assert broken == {
        (manifest.entries[1], "f_sr", ""),
        ("", "metadata", "complete.json"),
        ("", "metadata", "manifest.json"),
        ("", "metadata", "attention/zarr.json"),
    }
    fill(s3, manifest, arrays)
    assert in_any_order(contents(place)) == in_any_order(files_of(cache))


def test_repair_watches_dead_leases_together(s3, manifest, arrays, monkeypatch):
    """One after the other, the first would wait in vain for the others to begin."""
    fill(s3, manifest, arrays)
    for name in "abc":
        stop_renewing(open_writer(s3, manifest, name)._lock)
    all_there, watch = threading.Barrier(3), objects.ObjectPlace._watch

    def together(self, paths):
        all_there.wait(30)
        return watch(self, paths)

    monkeypatch.setattr(objects.ObjectPlace, "_watch", together)
    assert repair(s3).ok == 4
    assert not [name for name in open_place(s3).names("journal") if name.endswith(".lock")]


def in_any_order(files):
    """The same with the lines of each journal file sorted: what is filled again comes last."""
    journals = {p: b"".join(sorted(d.splitlines(True))) for p, d in files.items() if "jsonl" in p}
    return files | journals


# failures


def test_a_put_that_fails_now_and_then_is_tried_again(s3, proxy, manifest, arrays, cache, files_of):
    """Every fifth, once: before it reaches the store, or after."""
    counts = {"refuse": 0, "lose": 0}

    def every_fifth(what):
        def fails(method, path):
            counts[what] += method == "PUT"
            return method == "PUT" and counts[what] % 5 == 0

        return fails

    proxy.refuse, proxy.lose = every_fifth("refuse"), every_fifth("lose")
    fill(s3, manifest, arrays)
    assert counts["refuse"] > 15
    assert contents(open_place(s3)) == files_of(cache)


@pytest.mark.parametrize("part", ["f_sr/c.2", "journal/0.000000"])
def test_a_put_that_fails_for_ever(s3, proxy, manifest, arrays, cache, files_of, part, monkeypatch):
    """One line; what is committed stays, and a resumed run ends as an unbroken one."""
    monkeypatch.setattr(objects, "RETRY_SECONDS", 0.5)
    with open_writer(s3, manifest) as writer:
        commit(writer, arrays, 0, 1)
        proxy.refuse = lambda method, path: method == "PUT" and part in path
        with pytest.raises(OSError, match=f"cannot write {s3}/{part}.*: .*500") as caught:
            commit(writer, arrays, 2)
        proxy.refuse = lambda method, path: False
    assert "\n" not in str(caught.value)
    report = verify(s3)
    assert (report.ok, report.broken) == (2, [])
    fill(s3, manifest, arrays)
    assert contents(open_place(s3)) == files_of(cache)


def test_slow_answers_are_right_answers(s3, proxy, manifest, arrays):
    fill(s3, manifest, arrays)
    proxy.delay = 0.1
    key = manifest.entries[1]
    assert (open_reader(s3).read(key, "attention") == arrays(manifest, key)["attention"]).all()


def test_reading_out_of_reach_is_told_in_one_line(s3, proxy, manifest, arrays, monkeypatch):
    fill(s3, manifest, arrays)
    monkeypatch.setattr(objects, "RETRY_SECONDS", 0.5)
    reader, key = open_reader(s3), manifest.entries[1]
    proxy.refuse = lambda method, path: "f_sr" in path
    with pytest.raises(
        CacheError, match=rf"'{key}' of cache {s3}: its f_sr cannot be read"
    ) as told:
        reader.read(key, "f_sr")
    assert "\n" not in str(told.value)
    proxy.refuse = lambda method, path: False
    assert (reader.read(key, "f_sr") == arrays(manifest, key)["f_sr"]).all()


@pytest.mark.parametrize("size", [0, 100, 20_000])
def test_a_cut_object_is_damage(s3, place, manifest, arrays, size):
    fill(s3, manifest, arrays)
    path = manifest.arrays["f_sr"].file(1)
    place.write(path, [place.read(path)[:size]])
    key = manifest.entries[1]
    for window in ({}, {"h": 1, "w": 1, "frames": slice(0, 1)}):
        with pytest.raises(CacheError, match=f"'{key}'.* its f_sr is damaged .its object ends ear"):
            open_reader(s3).read(key, "f_sr", **window)
    assert [b.key for b in verify(s3).broken] == [key]


def test_no_such_bucket(s3, manifest):
    url = s3.replace("//bucket", "//nobucket")
    for use in (open_reader, verify, lambda url: open_writer(url, manifest)):
        with pytest.raises(CacheError, match=f"{url}: there is no such bucket: check the URL"):
            use(url)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_is_refused_rather_than_left_hanging(s3, manifest, arrays):
    fill(s3, manifest, arrays)
    reader, key = open_reader(s3), manifest.entries[0]
    expected = reader.read(key, "f_sr").tobytes()
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    job = context.Process(target=_read, args=(reader, key, answers))
    job.start()
    assert "cannot be used in a forked process" in answers.get(timeout=30)
    job.join(30)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        assert pool.apply(reader.read, (key, "f_sr")).tobytes() == expected


def _read(reader, key, answers):
    try:
        answers.put(reader.read(key, "f_sr").tobytes())
    except CacheError as error:
        answers.put(str(error))


# processes

WRITER = """
import json, sys
import numpy as np
from stdpipe.cache import Manifest, objects, open_writer

objects.LEASE_SECONDS, objects.RENEW_SECONDS = 2.0, 0.3
manifest = Manifest.from_json(json.loads(sys.argv[2]))
part = int(sys.argv[3])
with open_writer(sys.argv[1], manifest, writer=f"{part}-of-2") as writer:
    for index, key in list(enumerate(manifest.entries))[part::2]:
        if key in writer.committed:
            continue
        rng = np.random.default_rng(index)
        shapes = {name: spec.shape[1:] for name, spec in manifest.arrays.items()}
        arrays = {name: rng.standard_normal(s, dtype=np.float32) for name, s in shapes.items()}
        writer.write(key, arrays, {"source_crc32": len(key)})
        print(key, flush=True)
    if not writer.missing():
        writer.finalise()
"""


def test_a_killed_writer_of_two_is_resumed(s3, tmp_path, make_manifest, build, arrays, files_of):
    """Its lease lapses; what the other wrote meanwhile is untouched. Byte for byte as in one go."""
    manifest = make_manifest(entries=tuple(f"clip/{n}@0" for n in range(16)))
    facts = json.dumps(manifest.to_json())

    def start(part):
        command = [sys.executable, "-c", WRITER, s3, facts, str(part)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))

    doomed, other = start(0), start(1)
    for _ in range(2):
        doomed.stdout.readline()
    doomed.kill()
    assert other.communicate(timeout=60)[0].count("\n") == 8
    doomed.communicate(timeout=60)
    assert (doomed.returncode, other.returncode) == (-9, 0)
    done = len(verify(s3).uncommitted)
    assert 0 < done < 7
    again = start(0)
    assert again.communicate(timeout=60)[0].count("\n") == done
    assert again.returncode == 0
    whole, ours = files_of(build(tmp_path / "c", manifest)), contents(open_place(s3))
    assert {k: v for k, v in ours.items() if not k.endswith(".jsonl")} == {
        k: v for k, v in whole.items() if not k.endswith(".jsonl")
    }
    assert verify(s3).ok == 16


def test_no_credentials_are_told_without_an_address() -> None:
    """What obstore says names a machine of the cloud, which is no help."""
    said = "Error performing PUT http://169.254.169.254/latest/api/token in 2ms"
    assert objects._reason(ValueError(said)).startswith("no credentials; set AWS_ACCESS_KEY_ID")
    assert objects._reason(ValueError("503 Slow Down")) == "503 Slow Down"
