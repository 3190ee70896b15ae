"""The journal: a line is a commit, and anything less than a whole line is none."""

import pytest

from stdpipe.cache import layout, open_place
from stdpipe.cache.journal import (
    JournalWriter,
    commit_of,
    committed,
    lock_path,
    mend,
    read_journals,
)


def commit(index, size=10):
    return commit_of(f"clip@{index}", index, {"f_sr": (size, 7)}, {"source_crc32": index})


@pytest.fixture
def place(tmp_path):
    """Five commits of writer 0, one file."""
    place = open_place(tmp_path)
    append(place, range(5))
    return place


@pytest.fixture
def file(place, tmp_path):
    """Where they lie."""
    return tmp_path / "journal" / "0.000000.jsonl"


def append(place, indices, size=10, writer="0"):
    (place.root / "journal").mkdir(exist_ok=True)
    journal = JournalWriter(place, writer)
    for index in indices:
        journal.append(commit(index, size))


def only(place):
    (found,) = read_journals(place)
    return found


def keys(place):
    return [found.key for found in only(place).commits]


def test_round_trip(place, file):
    found = only(place)
    assert (found.path, found.writer, found.segment) == ("journal/0.000000.jsonl", "0", 0)
    assert found.commits == [commit(index) for index in range(5)]
    assert (found.torn, found.damaged) == (False, [])
    assert found.text() == file.read_bytes()


def test_every_cut_drops_only_the_cut_line(place, file):
    whole = file.read_bytes()
    fourth = len(b"\n".join(whole.split(b"\n")[:4])) + 1
    for length in range(fourth, len(whole)):
        file.write_bytes(whole[:length])
        assert keys(place) == [f"clip@{index}" for index in range(4)]
        assert only(place).torn == (length > fourth)
        assert not only(place).damaged


def test_a_torn_line_is_cut_before_the_next_is_written(place, file):
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    append(place, [4])
    assert file.read_bytes() == whole


def test_a_bad_last_line_counts_as_torn(place, file):
    file.write_bytes(file.read_bytes().replace(b"clip@4", b"clip@9"))
    assert only(place).torn
    assert len(keys(place)) == 4


def test_a_bad_line_elsewhere_is_damage(place, file):
    file.write_bytes(file.read_bytes().replace(b"clip@1", b"clip@9"))
    assert only(place).damaged == [2]
    assert not only(place).torn
    assert keys(place) == ["clip@0", "clip@2", "clip@3", "clip@4"]


def test_a_lost_newline_costs_the_two_lines_it_joins(place, file):
    file.write_bytes(file.read_bytes().replace(b"\n", b" ", 1))
    assert keys(place) == ["clip@2", "clip@3", "clip@4"]


def test_mending_keeps_the_good_lines_as_they_were(place, file):
    lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([lines[0], b"\xff\xfe", lines[1][:-3], *lines[2:]]) + b"{")
    mend(place, only(place))
    assert file.read_bytes() == b"\n".join([lines[0], *lines[2:]])


def test_the_last_line_of_a_key_wins(place):
    append(place, [2], size=11)
    append(place, [3], size=12, writer="1")
    found = committed(read_journals(place))
    assert found["clip@2"].arrays["f_sr"].bytes == 11
    assert found["clip@3"].arrays["f_sr"].bytes == 12
    assert len(found) == 5


def test_a_full_file_is_followed_by_another(place, file, monkeypatch):
    """As objects cannot be appended to, a file is bounded; a writer that resumes goes on alike."""
    size = len(file.read_bytes()) // 5
    monkeypatch.setattr(layout, "SEGMENT_BYTES", 6 * size)
    append(place, range(5, 9))
    for index in range(9, 14):
        append(place, [index])
    found = read_journals(place)
    assert [journal.segment for journal in found] == [0, 1, 2]
    assert [len(journal.commits) for journal in found] == [6, 6, 2]
    assert [c.index for journal in found for c in journal.commits] == list(range(14))


def test_a_lost_first_file_is_not_begun_again(place, file, monkeypatch):
    monkeypatch.setattr(layout, "SEGMENT_BYTES", 100)
    append(place, [5, 6])
    file.unlink()
    append(place, [7])
    assert [journal.segment for journal in read_journals(place)] == [1, 2, 3]
    assert [c.index for j in read_journals(place) for c in j.commits] == [5, 6, 7]


def test_only_a_writers_own_files_are_its_journal(place, file):
    append(place, [5], writer="0-of-2")
    for name in ("0.jsonl", "0.000000.jsonl.partial", "manifest.json", "1.00 copy.jsonl"):
        (file.parent / name).write_bytes(b"{}")
    assert [journal.writer for journal in read_journals(place)] == ["0-of-2", "0"]
    assert [journal.writer for journal in read_journals(place, "0")] == ["0"]
    assert lock_path("0-of-2") == "journal/0-of-2.lock"


@pytest.mark.parametrize("call", [1, 2])
def test_a_failed_append_adds_nothing(tmp_path, monkeypatch, call):
    """Of the first line, which makes the file: neither its own fsync nor its folder's may fail."""
    place, calls = open_place(tmp_path), []
    (tmp_path / "journal").mkdir()
    journal = JournalWriter(place, "0")

    def no_space(fd):
        calls.append(fd)
        if len(calls) == call:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", no_space)
        with pytest.raises(OSError, match="No space"):
            journal.append(commit(0))
    assert keys(place) == []
    journal.append(commit(1))
    journal.append(commit(2))
    assert keys(place) == ["clip@1", "clip@2"]
    assert not only(place).damaged
