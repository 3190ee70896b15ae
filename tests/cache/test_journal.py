"""The journal: a line is a commit, and anything less than a whole line is none."""

import pytest

from stdpipe.cache.journal import (
    JournalWriter,
    commit_of,
    committed,
    read_journal,
    read_journals,
    repair,
    try_lock,
    unlock,
)


def commit(index, size=10):
    return commit_of(f"clip@{index}", index, {"f_sr": (size, 7)}, {"source_crc32": index})


@pytest.fixture
def journal(tmp_path):
    """Five commits."""
    path = tmp_path / "journal" / "0.jsonl"
    path.parent.mkdir()
    append(path, range(5))
    return path


def append(path, indices, size=10):
    writer = JournalWriter(path)
    for index in indices:
        writer.append(commit(index, size))
    writer.close()


def keys(path):
    return [found.key for found in read_journal(path).commits]


def test_round_trip(journal):
    found = read_journal(journal)
    assert found.commits == [commit(index) for index in range(5)]
    assert not found.torn
    assert not found.damaged


def test_every_cut_drops_only_the_cut_line(journal):
    whole = journal.read_bytes()
    fourth = len(b"\n".join(whole.split(b"\n")[:4])) + 1
    for length in range(fourth, len(whole)):
        journal.write_bytes(whole[:length])
        assert keys(journal) == [f"clip@{index}" for index in range(4)]
        assert read_journal(journal).torn == (length > fourth)
        assert not read_journal(journal).damaged


def test_a_torn_line_is_cut_before_the_next_is_written(journal):
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-9])
    append(journal, [4])
    assert journal.read_bytes() == whole


def test_a_bad_last_line_counts_as_torn(journal):
    data = journal.read_bytes()
    journal.write_bytes(data.replace(b"clip@4", b"clip@9"))
    assert read_journal(journal).torn
    assert len(keys(journal)) == 4


def test_a_bad_line_elsewhere_is_damage(journal):
    journal.write_bytes(journal.read_bytes().replace(b"clip@1", b"clip@9"))
    found = read_journal(journal)
    assert found.damaged == [2]
    assert not found.torn
    assert keys(journal) == ["clip@0", "clip@2", "clip@3", "clip@4"]


def test_a_lost_newline_costs_the_two_lines_it_joins(journal):
    journal.write_bytes(journal.read_bytes().replace(b"\n", b" ", 1))
    assert keys(journal) == ["clip@2", "clip@3", "clip@4"]


def test_repair_keeps_the_good_lines_as_they_were(journal):
    lines = journal.read_bytes().split(b"\n")
    journal.write_bytes(b"\n".join([lines[0], b"\xff\xfe", lines[1][:-3], *lines[2:]]) + b"{")
    repair(journal)
    assert journal.read_bytes() == b"\n".join([lines[0], *lines[2:]])


def test_the_last_line_of_a_key_wins(journal):
    append(journal, [2], size=11)
    append(journal.with_name("1.jsonl"), [3], size=12)
    found = committed(read_journals(journal.parent.parent))
    assert found["clip@2"].arrays["f_sr"]["bytes"] == 11
    assert found["clip@3"].arrays["f_sr"]["bytes"] == 12
    assert len(found) == 5


def test_a_failed_append_adds_nothing(journal, monkeypatch):
    whole = journal.read_bytes()
    writer = JournalWriter(journal)

    def no_space(fd):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", no_space)
        with pytest.raises(OSError, match="No space"):
            writer.append(commit(5))
    assert journal.read_bytes() == whole
    writer.append(commit(5))
    writer.close()
    assert len(keys(journal)) == 6


def test_a_lock_is_held_once(tmp_path):
    path = tmp_path / "0.lock"
    held = try_lock(path)
    assert try_lock(path) is None
    unlock(held)
    again = try_lock(path)
    assert again is not None
    unlock(again)
